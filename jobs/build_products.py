"""The shop's catalogue → the table of products that search looks through, on Spark."""

from collections.abc import Mapping

from pyspark.sql import functions as F

from jobs.runtime.console import log_file, say, warn
from jobs.runtime.input_files import version_of
from jobs.runtime.inputs import catalogue_input
from jobs.runtime.spark_session import running_spark
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features import read
from kdlib.features.catalogue import catalogue_counts, catalogue_warning, one_row_an_item, read_catalogue
from kdlib.features.read_errors import reading
from kdlib.release import promotions
from kdlib.store.partitions import Manifest


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The catalogue.

    Raises:
      ConfigError: the run config has no catalogue.
      InputError: the catalogue has no files.
    """
    catalogue = catalogue_input(config)
    if catalogue is None:
        raise ConfigError(f"the run config {config.name} has no input.catalogue: search needs the products' titles")
    if "catalogue" in inputs:
        return Found(value=catalogue)
    return Found({"catalogue": version_of(catalogue.path, catalogue.format, config.root)}, catalogue)


def build(job: Job) -> Details:
    """Write one row for each item of the catalogue, sold or not."""
    catalogue = job.found
    with running_spark(job.config, log_file(job.config, "build_products")) as spark, reading(catalogue.path):
        rows = read_catalogue(spark, catalogue)
        counts = catalogue_counts(rows, path=catalogue.path)
        products = one_row_an_item(rows).orderBy("item_id").zipWithIndex("place")
        columns = ("item_id", "title", "description", "category", "available")
        table = products.select(F.col("place").cast("int").alias("product_index"), *columns)
        table.write.mode("append").parquet(read.spark_path(job.output))
    return {"products": {"catalogue": counts}}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many products there are; warn where the catalogue differs suspiciously from the last promoted run's."""
    counts = manifests["products"].details["catalogue"]
    say(
        f"build_products: {counts['rows_read']:,} rows read = {counts['items']:,} products + {counts['repeated_id']:,} repeated"
        f" + {counts['without_id']:,} without an item id"
    )
    if warning := catalogue_warning(counts, _counts_before(config)):
        warn(f"build_products: warning: {warning}")


def _counts_before(config: RunConfig) -> dict[str, int] | None:
    """The counts of the last promoted run's catalogue. None where no run was promoted, or its products are gone."""
    try:
        last = promotions.last_night(config.root, before=config.day, holding="products")
        return last and promotions.manifest_of(config.root, last, "products").details["catalogue"]
    except InputError:
        return None
