"""Columns of the catalogue and of the list of users → the tables `item_features` and `user_features`, on Spark."""

from collections.abc import Mapping
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from jobs.runtime.console import log_file, say, warn
from jobs.runtime.input_files import version_of
from jobs.runtime.inputs import catalogue_input
from jobs.runtime.pseudonym_key import checked_key
from jobs.runtime.spark_session import running_spark
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.data import CatalogueConfig, UsersConfig
from kdlib.config.run import RunConfig
from kdlib.features import side_features
from kdlib.features.privacy import workers_keys
from kdlib.features.read import spark_path
from kdlib.features.read_errors import reading
from kdlib.features.write import write_sorted
from kdlib.store.partitions import Manifest

SECTIONS = {"item_features": "input.catalogue", "user_features": "input.users"}


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The catalogue or the list of users, and the pseudonym key of the users.

    Raises:
      InputError: the files are missing.
    """
    [table] = part.makes
    source: Any = catalogue_input(config) if table == "item_features" else config.input.users
    assert source is not None, "the run config is checked: its rules read declared features only"
    key = checked_key(config) if table == "user_features" else None
    versions = {"pseudonym_key": f"{key['key_version']}.{key['check']}"} if key else {}
    if "catalogue" not in inputs:
        versions["source"] = version_of(source.path, source.format, config.root)
    return Found(versions, source)


def build(job: Job) -> Details:
    """Write one row for each feature with a value, of the items of the vocabulary or of the users with a history."""
    [table], source = job.part.makes, job.found
    with (
        running_spark(job.config, log_file(job.config, "build_side_features")) as spark,
        reading(source.path),
        workers_keys(),
    ):
        return {table: {"features": _write(job, spark, source, SECTIONS[table])}}


def _write(job: Job, spark: SparkSession, source: CatalogueConfig | UsersConfig, section: str) -> dict[str, Any]:
    """Write the table; returns what `check_features` found."""
    if isinstance(source, CatalogueConfig):
        values, ours = side_features.read_features(spark, source, id_column=source.item), ["item_index", "item_id"]
        known = _table(job, spark, "item_vocabulary").select(*ours)
        values, key = values.withColumnRenamed("id", "item_id").join(known, "item_id"), "item_index"
        typed = side_features.typed(values, source.features, key=key)
    else:
        users, key = _table(job, spark, "histories"), "user_id"
        typed = side_features.values_of_users(source, users, key=job.config.privacy.key)
    typed = typed.persist(StorageLevel.MEMORY_AND_DISK)
    counts = side_features.check_features(typed, source.features, section=section)
    rows = sum(one["found"] for one in counts.values())
    write_sorted(side_features.with_value(typed), job.output, by=[key, "feature"], rows=rows)
    typed.unpersist()
    return counts


def _table(job: Job, spark: SparkSession, name: str) -> DataFrame:
    return spark.read.parquet(spark_path(job.input(name)))


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many values each feature has, and warn of what looks wrong."""
    for table, manifest in manifests.items():
        counts = manifest.details["features"]
        found = ", ".join(f"{name} {row['found']:,}" for name, row in counts.items())
        say(f"build_side_features: {table}: {found}")
        for line in side_features.warnings(counts, section=SECTIONS[table]):
            warn(f"build_side_features: warning: {line}")
