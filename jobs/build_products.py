"""The shop's catalogue → the table of products that search looks through, on Spark."""

import sys
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from jobs.runtime.console import command, log_file, say
from jobs.runtime.inputs import catalogue_input, version_of
from jobs.runtime.spark_session import running_spark
from jobs.runtime.step import run_step
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features import read
from kdlib.features.catalogue import catalogue_counts, catalogue_warning, one_row_an_item, read_catalogue
from kdlib.release import promotions
from kdlib.store.partitions import Manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `products` for the date: one row an item of the catalogue, sold at all or not.

    Raises:
      ConfigError: the run config has no catalogue.
      InputError: it cannot be read, or has no row with an item id.
    """
    catalogue = catalogue_input(config)
    if catalogue is None:
        raise ConfigError(f"the run config {config.name} has no input.catalogue: search needs the products' titles")

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        with running_spark(config, log_file(config, "build_products")) as spark, read.reading(catalogue.path):
            rows = read_catalogue(spark, catalogue)
            counts = catalogue_counts(rows, path=catalogue.path)
            products = one_row_an_item(rows).orderBy("item_id").zipWithIndex("place")
            columns = ("item_id", "title", "description", "category", "available")
            products.select(F.col("place").cast("int").alias("product_index"), *columns).write.mode("append").parquet(
                read.spark_path(staging["products"])
            )
        return {"products": {"catalogue": counts}}

    made = run_step(
        config,
        ("products",),
        settings=catalogue.model_dump(mode="json"),
        inputs={"catalogue": version_of(catalogue.path, catalogue.format)},
        build=build,
    )
    counts = made["products"].details["catalogue"]
    say(
        f"build_products: {counts['rows_read']:,} rows read = {counts['items']:,} products + {counts['repeated_id']:,} repeated"
        f" + {counts['without_id']:,} without an item id"
    )
    if warning := catalogue_warning(counts, _counts_before(config)):
        say(f"build_products: warning: {warning}")
    return made


def _counts_before(config: RunConfig) -> dict[str, int] | None:
    """Those of the last promoted night's catalogue; None where there is none, or it is gone: nothing else needs it."""
    try:
        last = promotions.last_night(config.root, before=config.day, holding="products")
        return last and promotions.manifest_of(config.root, last, "products").details["catalogue"]
    except InputError:
        return None


def main(argv: list[str] | None = None) -> int:
    return command("build_products", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
