"""The search log → queries, query_items and search_quarantine, on Spark."""

from pathlib import Path
from typing import Any

from pyspark import StorageLevel

from jobs.runtime.console import command, log_file, say
from jobs.runtime.inputs import checked_key, search_input
from jobs.runtime.spark_session import running_spark
from jobs.runtime.step import run_step
from kdlib.config.data import SearchesConfig
from kdlib.config.run import RunConfig
from kdlib.features import privacy, queries, read, searches
from kdlib.features.write import fail_all_quarantined, write_sorted
from kdlib.privacy import forgetting
from kdlib.store import tables
from kdlib.store.partitions import Manifest

TABLES = ("queries", "query_items", "search_quarantine")


def run(config: RunConfig) -> dict[str, Manifest]:
    """Build and publish the tables of queries of the day, unless they are up to date; a warning where no query is left."""
    key = checked_key(config)
    log, versions = search_input(config)
    manifests = run_step(
        config,
        TABLES,
        settings=[
            config.features.queries.model_dump(mode="json"),
            log.model_dump(mode="json", exclude={"path"}),  # the version tells which files they are
            config.privacy.min_query_users,
            key,
        ],
        inputs=versions,
        build=lambda staging: _build(config, log, key, staging),
    )
    funnel = manifests["queries"].details["funnel"]
    say(f"build_queries: {searches.funnel_text(funnel)}")
    period = f"{config.features.queries.period_days} days to {config.day}"
    min_users = config.privacy.min_query_users
    if warning := searches.no_query_warning(funnel, path=log.path, period=period, min_users=min_users):
        say(f"build_queries: warning: {warning}")
    return manifests


def _build(
    config: RunConfig, log: SearchesConfig, key: dict[str, Any] | None, staging: dict[str, Path]
) -> dict[str, dict[str, Any]]:
    settings, min_users, last_day = config.features.queries, config.privacy.min_query_users, config.ds
    assert last_day is not None  # config.day has raised
    chatter = log_file(config, "build_queries")
    with running_spark(config, chatter) as spark, read.reading(log.path), privacy.workers_keys():
        judged = searches.with_outcome(
            searches.read_searches(spark, log, key=config.privacy.key, hide_queries=min_users > 1),
            period_days=settings.period_days,
            last_day=last_day,
            num_partitions=config.spark.shuffle_partitions,
            forgotten=forgetting.forgotten(config.root),
        ).persist(StorageLevel.MEMORY_AND_DISK)
        funnel = searches.count_outcomes(judged)
        write_sorted(
            searches.quarantine(judged),
            staging["search_quarantine"],
            by=["reason", "file", "raw"],
            rows=funnel["quarantined"],
        )
        if funnel["quarantined"] and not funnel["kept"]:
            fail_all_quarantined(
                config, "search_quarantine", staging["search_quarantine"], path=log.path, funnel=funnel
            )
        kept = searches.kept(judged)
        num_typed = kept.select("query").distinct().count()
        typed = queries.queries_table(kept, min_users=min_users)
        write_sorted(typed, staging["queries"], by=["query"], rows=num_typed)
        typed = spark.read.parquet(read.spark_path(staging["queries"]))
        num_queries = typed.count()
        weights = settings.model_dump(exclude={"period_days"})
        items = queries.query_items_table(kept, typed, **weights)
        write_sorted(items, staging["query_items"], by=["query", "item_id"], rows=funnel["kept"])
        pairs = tables.check_files(tables.QUERY_ITEMS, staging["query_items"])
        judged.unpersist()
    funnel |= {"queries": num_queries, "rare_queries": num_typed - num_queries, "pairs": pairs}
    return {"queries": {"funnel": funnel, "pseudonyms": key}}


def main(argv: list[str] | None = None) -> int:
    return command("build_queries", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    raise SystemExit(main())
