"""The search log → queries, query_items and search_quarantine, on Spark."""

from collections.abc import Mapping

from pyspark import StorageLevel

from jobs.runtime.console import log_file, say, warn
from jobs.runtime.inputs import search_input
from jobs.runtime.pseudonym_key import checked_key
from jobs.runtime.spark_session import running_spark
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.features import privacy, queries, read, searches
from kdlib.features.read_errors import reading
from kdlib.features.write import fail_all_quarantined, write_sorted
from kdlib.privacy import forgetting
from kdlib.store.contract import check_files
from kdlib.store.partitions import Manifest
from kdlib.store.search_tables import QUERY_ITEMS


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search log and the pseudonym key."""
    key = checked_key(config)
    log, versions = search_input(config)
    own = {name: version for name, version in versions.items() if name not in inputs}
    return Found(own | ({"pseudonym_key": f"{key['key_version']}.{key['check']}"} if key else {}), (log, key))


def build(job: Job) -> Details:
    """Judge the search events, then write the queries that enough users have typed, and the clicks after them."""
    config, (log, key) = job.config, job.found
    settings, min_users, last_day = config.features.queries, config.privacy.min_query_users, config.last_day
    chatter = log_file(config, "build_queries")
    with running_spark(config, chatter) as spark, reading(log.path), privacy.workers_keys():
        judged = searches.with_outcome(
            searches.read_searches(
                spark, log, key=config.privacy.key, hide_queries=min_users > 1, time_zone=config.features.time_zone
            ),
            period_days=settings.period_days,
            last_day=last_day,
            time_zone=config.features.time_zone,
            num_partitions=config.spark.shuffle_partitions,
            forgotten=forgetting.forgotten(config.root),
        ).persist(StorageLevel.MEMORY_AND_DISK)
        funnel, quarantine = searches.count_outcomes(judged), job.outputs["search_quarantine"]
        rejected = searches.quarantine(judged)
        write_sorted(rejected, quarantine, by=["reason", "file", "raw"], rows=funnel["quarantined"])
        if funnel["quarantined"] and not funnel["kept"]:
            fail_all_quarantined(config, "search_quarantine", quarantine, path=log.path, funnel=funnel)
        kept = searches.kept(judged)
        num_typed = kept.select("query").distinct().count()
        typed = queries.queries_table(kept, min_users=min_users)
        write_sorted(typed, job.outputs["queries"], by=["query"], rows=num_typed)
        typed = spark.read.parquet(read.spark_path(job.outputs["queries"]))
        num_queries = typed.count()
        items = queries.query_items_table(kept, typed, **settings.model_dump(exclude={"period_days"}))
        write_sorted(items, job.outputs["query_items"], by=["query", "item_id"], rows=funnel["kept"])
        pairs = check_files(QUERY_ITEMS, job.outputs["query_items"])
        judged.unpersist()
    funnel |= {"queries": num_queries, "rare_queries": num_typed - num_queries, "pairs": pairs}
    return {"queries": {"funnel": funnel, "pseudonyms": key}}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many search events were kept; warn where no query is left."""
    funnel = manifests["queries"].details["funnel"]
    say(f"build_queries: {searches.funnel_text(funnel)}")
    period = f"{config.features.queries.period_days} days to {config.day}"
    path = search_input(config)[0].path
    min_users = config.privacy.min_query_users
    if warning := searches.no_query_warning(funnel, path=path, period=period, min_users=min_users):
        warn(f"build_queries: warning: {warning}")
