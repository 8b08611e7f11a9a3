"""Raw events → quarantine, sessions, histories, item_vocabulary and item_statistics, on Spark."""

from pathlib import Path
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import functions as F

from jobs.runtime.console import command, log_file, say
from jobs.runtime.inputs import NightInput, checked_key, earlier_vocabulary, night_input, read_input
from jobs.runtime.spark_session import running_spark
from jobs.runtime.step import run_step
from kdlib.config.run import RunConfig
from kdlib.features import clean, privacy, read, splits, vocabulary
from kdlib.features import funnel as funnels
from kdlib.features.catalogue import catalogue_counts, catalogue_warning, one_row_an_item, read_catalogue
from kdlib.features.events import input_columns
from kdlib.features.histories import histories, interactions
from kdlib.features.sessions import sessions_table, with_sessions
from kdlib.features.write import fail_all_quarantined, write_sorted
from kdlib.privacy import forgetting
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest

TABLES = ("quarantine", "sessions", "histories", "item_vocabulary", "item_statistics")
OF_SEARCHES = {"features": {"queries"}, "input": {"searches": True, "simulate": {"search_fraction"}}}
"""Settings of the search log, which say nothing of these tables."""
BROADCAST_ITEMS = 500_000
"""A vocabulary up to this size is sent to every executor, which saves a second shuffle of the events."""


def run(config: RunConfig) -> dict[str, Manifest]:
    """Build and publish the feature tables of the day, unless they are up to date."""
    key = checked_key(config)
    source = night_input(config, key)
    for line in source.notes():
        say(f"build_features: {line}")
    manifests = run_step(
        config,
        (*TABLES, "clean_events") if source.days else TABLES,
        settings=[
            config.model_dump(mode="json", include={"features", "input"}, exclude=OF_SEARCHES),
            config.privacy.min_item_users,
            key,
        ],
        inputs=source.versions,
        build=lambda staging: _build(config, source, key, staging),
    )
    funnel = manifests["histories"].details["funnel"]
    say(f"build_features: {funnels.funnel_text(funnel)}")
    vocabularies = manifests["item_vocabulary"], earlier_vocabulary(config)
    catalogues = [one and one.details.get("catalogue") for one in vocabularies]
    for warning in (*funnels.warnings(funnel), catalogue_warning(*catalogues)):
        if warning:
            say(f"build_features: warning: {warning}")
    return manifests


def _build(
    config: RunConfig, source: NightInput, key: dict[str, Any] | None, staging: dict[str, Path]
) -> dict[str, dict[str, Any]]:
    features, last_day, catalogue = config.features, config.ds, source.catalogue
    assert last_day is not None  # config.day has raised
    log = log_file(config, "build_features")
    with running_spark(config, log) as spark, read.reading(source.events.path), privacy.workers_keys():
        events = read_input(config, source, spark)
        judged = clean.with_outcome(
            events,
            period_start=features.period_start,
            last_day=last_day,
            late_days=source.events.late_days,
            max_events_per_user_day=features.max_events_per_user_day,
            num_partitions=config.spark.shuffle_partitions,
            forgotten=forgetting.forgotten(config.root),
        ).persist(StorageLevel.MEMORY_AND_DISK)
        funnel = funnels.count_outcomes(
            judged,
            path=source.events.path,
            last_day=last_day,
            period_start=features.period_start,
            carried=source.versions.get("clean_events"),
        )
        write_sorted(
            clean.quarantine(judged), staging["quarantine"], by=["reason", "file", "raw"], rows=funnel["quarantined"]
        )
        if funnel["kept"] == 0:
            fail_all_quarantined(config, "quarantine", staging["quarantine"], path=source.events.path, funnel=funnel)
        if "clean_events" in staging:
            clean.clean_events(judged).write.mode("append").parquet(read.spark_path(staging["clean_events"]))
        kept = clean.kept(judged)
        sessions = with_sessions(kept, gap_seconds=None if source.events.session else features.session_gap_seconds)
        sessions_table(sessions).write.mode("append").parquet(read.spark_path(staging["sessions"]))
        funnels.check_complete(
            funnel,
            # Parquet says how many rows it has; other files would have to be read again
            read=events.count() if source.events.format == "parquet" and not source.carried else None,
            quarantined=tables.check_files(tables.QUARANTINE, staging["quarantine"]),
            in_sessions=spark.read.parquet(read.spark_path(staging["sessions"]))
            .agg(F.sum("num_events"))
            .collect()[0][0],
        )

        counts = vocabulary.item_counts(kept).persist(StorageLevel.MEMORY_AND_DISK)
        earlier = earlier_vocabulary(config)
        previous = None
        if earlier is not None:
            folder = partitions.version_folder(config.root, "item_vocabulary", earlier.ds, earlier.version)
            previous = spark.read.parquet(read.spark_path(folder))
        num_known = previous.count() if previous else 0
        items = vocabulary.extend_vocabulary(
            previous, counts, first_new_index=num_known, first_seen=config.day, max_items=features.max_items
        )
        products_read, listed, says_stock = None, None, False
        if catalogue:
            products, says_stock = read_catalogue(spark, catalogue), catalogue.available is not None
            products_read, listed = catalogue_counts(products, path=catalogue.path), one_row_an_item(products)
        items = vocabulary.with_catalogue(items, listed, says_stock=says_stock)
        if config.privacy.min_item_users > 1:
            items = vocabulary.hide_rare(items, counts, min_users=config.privacy.min_item_users)
        write_sorted(items, staging["item_vocabulary"], by=["item_index"], rows=num_known + counts.count())
        items = spark.read.parquet(read.spark_path(staging["item_vocabulary"]))
        num_items = items.count()
        steps = interactions(sessions, collapse_repeats=features.collapse_repeats)
        known = F.broadcast(items.select("item_id", "item_index")) if num_items <= BROADCAST_ITEMS else items
        people = splits.with_splits(histories(steps, known), last_day=last_day, **features.split.model_dump())
        people.sortWithinPartitions("user_id").write.mode("append").parquet(read.spark_path(staging["histories"]))
        people = spark.read.parquet(read.spark_path(staging["histories"]))
        statistics = vocabulary.item_statistics(items, counts, people)
        write_sorted(statistics, staging["item_statistics"], by=["item_index"], rows=num_items)
        funnel |= vocabulary.count_left_out(counts, items, listed)
        funnel["sessions"] = tables.check_files(tables.SESSIONS, staging["sessions"])
        funnel |= funnels.count_histories(people, last_day=last_day)
        funnel |= {"items": num_items, "new_items": num_items - num_known}
        funnel["columns"] = input_columns(spark, source.events, last_day=last_day)
        funnels.check_listed(funnel)
        funnels.check_trainable(funnel, last_day=last_day, **features.split.model_dump())
        judged.unpersist()
        counts.unpersist()
    return {
        "histories": {"funnel": funnel, "pseudonyms": key},
        "item_vocabulary": {"catalogue": products_read, "previous": earlier and earlier.ds},
        "clean_events": source.details(),
    }


def main(argv: list[str] | None = None) -> int:
    return command("build_features", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    raise SystemExit(main())
