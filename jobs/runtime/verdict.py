"""The steps of `build-features` on a sample of the input, without writing a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.runtime.input_content import check_files
from jobs.runtime.inputs import NightInput, read_input
from jobs.runtime.pseudonym_key import checked_key
from jobs.runtime.spark_session import COMPILE_LARGE_METHODS, running_spark
from kdlib.config.data import DAY, CatalogueConfig
from kdlib.config.run import RunConfig
from kdlib.errors import DistilrecError, InputError
from kdlib.features import clean, privacy, splits, vocabulary
from kdlib.features import funnel as funnels
from kdlib.features.arrivals import Days
from kdlib.features.catalogue import catalogue_counts, catalogue_warning, one_row_an_item, read_catalogue
from kdlib.features.histories import histories, interactions
from kdlib.features.lake import LAKES
from kdlib.features.read_errors import reading
from kdlib.features.sessions import with_sessions
from kdlib.onboarding.excerpt import Excerpt, excerpt, files_to_read
from kdlib.privacy import forgetting
from kdlib.store.remote_files import is_object

CATALOGUE_ROWS = 2_000_000
"""How many rows of the catalogue are read."""
MOST_ITEMS = 2_000_000
"""No sample has more items."""
PARTITIONS = 4
"""Partitions of a shuffle: a sample is small."""


@dataclass(frozen=True)
class Verdict:
    """How a run would judge the sample."""

    funnel: dict[str, Any]
    """From `funnel.count_outcomes` and `count_histories`, with items, days, and the catalogue's counts."""
    rejected: dict[str, list[tuple[str, str]]]
    """Reason → (raw row, file)."""
    whole: bool
    """The sample has all rows of the input."""
    warning: str | None
    """About the catalogue."""


def judge(config: RunConfig, folder: Path, log: Path, *, rows: int) -> Verdict:
    """Run the steps of `build-features` on a sample, without writing a table.

    Args:
      config: the run config, with events.
      folder: an empty folder for the sample.
      log: where Spark writes to.
      rows: about the largest number of rows.

    Raises:
      InputError: as for `run`; or files are missing or unreadable, or lack a mapped column.
    """
    events = config.input.events
    assert events
    checked_key(config)
    source, part = _sampled_input(config, folder, rows=rows)
    with running_spark(config, log) as spark, reading(events.path), privacy.workers_keys(), _own_names(part):
        features = config.features
        zone = {"time_zone": features.time_zone}
        period: dict[str, Any] = {"period_start": features.period_start, "last_day": config.last_day, **zone}
        found = read_input(config, source, spark)
        judged = clean.with_outcome(
            found.limit(rows) if events.format in LAKES else found,
            **period,
            late_days=events.late_days,
            max_events_per_user_day=features.max_events_per_user_day,
            num_partitions=PARTITIONS,
            forgotten=forgetting.forgotten(config.root),
        ).persist(StorageLevel.MEMORY_AND_DISK)
        funnel = funnels.count_outcomes(judged, path=events.path, where=events.where, **period)
        rejected = _examples(judged, part) if funnel["quarantined"] else {}
        warning = None
        if funnel["kept"]:
            kept = clean.kept(judged)
            counts = vocabulary.item_counts(kept).persist(StorageLevel.MEMORY_AND_DISK)
            items = counts.orderBy(F.desc("num_interactions"), "item_id").limit(features.max_items or MOST_ITEMS)
            items = items.select("item_id", F.lit(0).alias("item_index"))  # only which items are known matters here
            products, warning = _products(spark, config.input.catalogue, folder, funnel)
            funnel |= vocabulary.count_left_out(counts, items, products)
            funnel |= {"items": counts.count(), "days": kept.select(F.size(F.collect_set("day"))).collect()[0][0]}
            funnel |= funnels.count_histories(_people(config, kept, items), last_day=config.last_day, **zone)
            counts.unpersist()
        judged.unpersist()
    return Verdict(funnel, rejected, part.whole and (part.num_files > 0 or funnel["rows_read"] < rows), warning)


def on_this_machine(config: RunConfig) -> RunConfig:
    """The run config with a local Spark, which reads the sample on this machine's disk."""
    # Java's second compiler costs more time than it saves on a sample
    java = {"spark.driver.extraJavaOptions": f"-XX:+UseParallelGC -XX:TieredStopAtLevel=1 {COMPILE_LARGE_METHODS}"}
    local = {"master": "local[*]", "shuffle_partitions": PARTITIONS, "conf": java | config.spark.conf}
    return config.model_copy(update={"spark": config.spark.model_copy(update=local)})


def _sampled_input(config: RunConfig, folder: Path, *, rows: int) -> tuple[NightInput, Excerpt]:
    """The input of a first run, with a sample of the files in place of the files."""
    events = config.input.events
    assert events
    part = _sample(events.path, events.format, folder / "events", rows=rows, last_day=config.last_day)
    days = Days(to_read=list(part.days), late=[], gaps=[], unread=[]) if DAY in events.path else None
    own = events.model_copy(update={"path": part.path})
    return NightInput(own, config.input.catalogue, days, None, None, "", {}), part


def _sample(path: str, format_: str, folder: Path, *, rows: int, last_day: date | None = None) -> Excerpt:
    """A sample of files in a folder; for a Delta Lake or Iceberg table, the table itself.

    Raises:
      InputError: a file is missing, or is of another kind than the format says. The table lies in an object store.
    """
    if format_ in LAKES:
        if is_object(path):
            raise InputError(
                f"no sample can be taken of the {format_} table {path}, because it lies in an object store. Look at a copy on"
                " this machine's disk, or run `distilrec build-features`, which reads the whole table"
            )
        return Excerpt(path, True, 0)
    files, _, _ = files_to_read(path, last_day=last_day)
    check_files([(file.path, file.size, 0) for file in files], format_, path=path)
    folder.mkdir()
    return excerpt(path, format_=format_, folder=folder, rows=rows, last_day=last_day)


def _products(
    spark: SparkSession, catalogue: CatalogueConfig | None, folder: Path, funnel: dict[str, Any]
) -> tuple[DataFrame | None, str | None]:
    """The catalogue's items and a warning about its rows. Its counts go into the funnel."""
    if catalogue is None:
        return None, None
    part = _sample(catalogue.path, catalogue.format, folder / "catalogue", rows=CATALOGUE_ROWS)
    with _own_names(part):
        rows = read_catalogue(spark, catalogue.model_copy(update={"path": part.path}))
        funnel["catalogue"] = catalogue_counts(rows, path=catalogue.path)
    return one_row_an_item(rows), catalogue_warning(funnel["catalogue"])


def _people(config: RunConfig, kept: DataFrame, items: DataFrame) -> DataFrame:
    """The histories with their splits."""
    features = config.features
    assert config.input.events
    gap_seconds = None if config.input.events.session else features.session_gap_seconds
    steps = interactions(with_sessions(kept, gap_seconds=gap_seconds), collapse_repeats=features.collapse_repeats)
    known = histories(steps, F.broadcast(items.select("item_id", "item_index")))
    split = features.split.model_dump()
    return splits.with_splits(known, last_day=config.last_day, time_zone=features.time_zone, **split)


def _examples(judged: DataFrame, part: Excerpt) -> dict[str, list[tuple[str, str]]]:
    """Reason → the alphabetically first and last row, with their files."""
    row = F.struct("raw", "file")
    found = (
        clean.quarantine(judged).groupBy("reason").agg(F.min(row).alias("first"), F.max(row).alias("last")).collect()
    )
    return {
        one["reason"]: [(raw or "", _own_name(file, part)) for raw, file in dict.fromkeys((one["first"], one["last"]))]
        for one in found
    }


@contextmanager
def _own_names(part: Excerpt) -> Iterator[None]:
    """Errors name the shop's files, not the copies in the sample."""
    try:
        yield
    except DistilrecError as error:
        raise type(error)(str(error).replace(*part.begins) if part.begins[0] else str(error)) from None


def _own_name(file: str, part: Excerpt) -> str:
    """The shop's file behind a file of the sample."""
    here, there = part.begins
    _, found, name = unquote(file).partition(here) if here else ("", "", "")
    return there + name if found else file
