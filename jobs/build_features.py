"""Raw events → quarantine, sessions, histories, item_vocabulary and item_statistics, on Spark."""

from collections.abc import Mapping
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.runtime.console import log_file, say, warn
from jobs.runtime.inputs import NightInput, earlier_vocabulary, night_input, read_input
from jobs.runtime.pseudonym_key import checked_key
from jobs.runtime.ready import wait_for_input as wait_for_input
from jobs.runtime.spark_session import running_spark
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.features import clean, privacy, read, splits, vocabulary
from kdlib.features import funnel as funnels
from kdlib.features.catalogue import catalogue_counts, catalogue_warning, one_row_an_item, read_catalogue
from kdlib.features.events import input_columns
from kdlib.features.histories import histories, interactions
from kdlib.features.lake import LAKES
from kdlib.features.read_errors import reading
from kdlib.features.sessions import sessions_table, with_sessions
from kdlib.features.side_features import warnings as feature_warnings
from kdlib.features.user_values import add_user_values
from kdlib.features.write import fail_all_quarantined, write_sorted
from kdlib.privacy import forgetting
from kdlib.store import partitions, tables


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The raw input, the vocabulary and the clean events of an earlier run, and the pseudonym key."""
    key = checked_key(config)
    source = night_input(config, key)
    versions = {name: version for name, version in source.versions.items() if name not in inputs}
    return Found(versions | ({"pseudonym_key": f"{key['key_version']}.{key['check']}"} if key else {}), (source, key))


def build(job: Job) -> Details:
    """Judge the events, then write sessions, vocabulary, histories and statistics of the kept events."""
    config, (source, key), log = job.config, job.found, log_file(job.config, "build_features")
    for line in source.notes():
        say(f"build_features: {line}")
    with running_spark(config, log) as spark, reading(source.events.path), privacy.workers_keys():
        judged, funnel = _judge(job, source, spark)
        kept = clean.kept(judged)
        gap_seconds = None if source.events.session else config.features.session_gap_seconds
        sessions = with_sessions(kept, gap_seconds=gap_seconds)
        sessions_table(sessions).write.mode("append").parquet(read.spark_path(job.outputs["sessions"]))
        in_sessions = spark.read.parquet(read.spark_path(job.outputs["sessions"])).agg(F.sum("num_events")).collect()
        funnels.check_complete(
            funnel,
            read=funnel.pop("rows_in_files"),
            quarantined=tables.check_files(tables.QUARANTINE, job.outputs["quarantine"]),
            in_sessions=in_sessions[0][0],
        )
        counts = vocabulary.item_counts(kept).persist(StorageLevel.MEMORY_AND_DISK)
        items, about_items = _write_vocabulary(job, source, spark, counts)
        people, codings = _write_histories(job, sessions, items, about_items["items"])
        statistics = vocabulary.item_statistics(items, counts, people)
        write_sorted(statistics, job.outputs["item_statistics"], by=["item_index"], rows=about_items["items"])
        about_vocabulary = codings | {name: about_items.pop(name) for name in ("catalogue", "previous")}
        funnel |= vocabulary.count_left_out(counts, items, about_items.pop("listed"))
        funnel["sessions"] = tables.check_files(tables.SESSIONS, job.outputs["sessions"])
        funnel |= funnels.count_histories(people, last_day=config.last_day, time_zone=config.features.time_zone)
        funnel |= about_items | {"columns": input_columns(spark, source.events, last_day=config.last_day)}
        funnels.check_listed(funnel)
        funnels.check_trainable(funnel, last_day=config.last_day, **config.features.split.model_dump())
        judged.unpersist()
        counts.unpersist()
    return {
        "histories": {"funnel": funnel, "pseudonyms": key},
        "item_vocabulary": about_vocabulary,
        "clean_events": source.details(),
    }


def _judge(job: Job, source: NightInput, spark: SparkSession) -> tuple[DataFrame, dict[str, Any]]:
    """Judge the events, write quarantine and clean events, return all and the funnel. InputError: none is kept."""
    config, features, path = job.config, job.config.features, source.events.path
    events = read_input(config, source, spark)
    period: dict[str, Any] = {"last_day": config.last_day, **features.model_dump(include={"period_start", "time_zone"})}
    judged = clean.with_outcome(
        events,
        **period,
        late_days=source.events.late_days,
        max_events_per_user_day=features.max_events_per_user_day,
        num_partitions=config.spark.shuffle_partitions,
        forgotten=forgetting.forgotten(config.root),
    ).persist(StorageLevel.MEMORY_AND_DISK)
    carried, quarantine = source.versions.get("clean_events"), job.outputs["quarantine"]
    funnel = funnels.count_outcomes(judged, path=path, carried=carried, where=source.events.where, **period)
    write_sorted(clean.quarantine(judged), quarantine, by=["reason", "file", "raw"], rows=funnel["quarantined"])
    if funnel["kept"] == 0:
        fail_all_quarantined(config, "quarantine", quarantine, path=path, funnel=funnel)
    if "clean_events" in job.outputs:
        clean.clean_events(judged).write.mode("append").parquet(read.spark_path(job.outputs["clean_events"]))
    # a Parquet file knows its number of rows; other files would have to be read again
    counted = source.events.format in ("parquet", *LAKES) and not source.carried
    return judged, funnel | {"rows_in_files": events.count() if counted else None}


def _write_vocabulary(
    job: Job, source: NightInput, spark: SparkSession, counts: DataFrame
) -> tuple[DataFrame, dict[str, Any]]:
    """Extend an earlier run's vocabulary and write it with the catalogue's titles. Returns it with its counts."""
    config, earlier, previous = job.config, earlier_vocabulary(job.config), None
    if earlier is not None:
        folder = partitions.version_data(config.root, "item_vocabulary", earlier.ds, earlier.version)
        previous = spark.read.parquet(read.spark_path(folder))
    num_known = previous.count() if previous else 0
    items = vocabulary.extend_vocabulary(
        previous, counts, first_new_index=num_known, first_seen=config.day, max_items=config.features.max_items
    )
    products_read, listed, says_stock = None, None, False
    if source.catalogue:
        products, says_stock = read_catalogue(spark, source.catalogue), source.catalogue.available is not None
        products_read, listed = catalogue_counts(products, path=source.catalogue.path), one_row_an_item(products)
    items = vocabulary.with_catalogue(items, listed, says_stock=says_stock)
    if config.privacy.min_item_users > 1:
        items = vocabulary.hide_rare(items, counts, min_users=config.privacy.min_item_users)
    write_sorted(items, job.outputs["item_vocabulary"], by=["item_index"], rows=num_known + counts.count())
    items = spark.read.parquet(read.spark_path(job.outputs["item_vocabulary"]))
    num_items, known = items.count(), {"catalogue": products_read, "listed": listed, "previous": earlier and earlier.ds}
    return items, {"items": num_items, "new_items": num_items - num_known, **known}


def _write_histories(job: Job, sessions: DataFrame, items: DataFrame, num_items: int) -> tuple[DataFrame, dict]:
    """Write the histories of all users with splits and values. Returns them, and what the codes of the values mean."""
    config, folder, spark = job.config, job.outputs["histories"], items.sparkSession
    zone, split = config.features.time_zone, config.features.split.model_dump()
    steps = interactions(sessions, collapse_repeats=config.features.collapse_repeats)
    people = histories(steps, vocabulary.to_join(items, num_items=num_items))
    people = splits.with_splits(people, last_day=config.last_day, time_zone=zone, **split)
    users, earlier = spark.read.parquet(read.spark_path(job.outputs["sessions"])), earlier_vocabulary(config)
    people, codings = add_user_values(people, config, users=users, earlier=earlier.details if earlier else {})
    people.sortWithinPartitions("user_id").write.mode("append").parquet(read.spark_path(folder))
    return spark.read.parquet(read.spark_path(folder)), codings


def tell(config: RunConfig, manifests: Mapping[str, partitions.Manifest]) -> None:
    """Say how many rows were kept, and warn of what looks wrong."""
    funnel = manifests["histories"].details["funnel"]
    say(f"build_features: {funnels.funnel_text(funnel)}")
    vocabularies = manifests["item_vocabulary"], earlier_vocabulary(config)
    catalogues = [one and one.details.get("catalogue") for one in vocabularies]
    users = feature_warnings(manifests["item_vocabulary"].details["user_features"], section="input.users")
    for warning in filter(None, (*funnels.warnings(funnel), catalogue_warning(*catalogues), *users)):
        warn(f"build_features: warning: {warning}")
