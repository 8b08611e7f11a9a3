"""Judge every input row: kept, a duplicate of a kept one, or quarantined for a reason; none is lost."""

from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from kdlib.config import EVENT_TYPES
from kdlib.features.splits import day_start

REASONS = (
    "corrupt_row",  # the line does not parse, or has too few or too many fields
    "forgotten_user",  # `distilrec forget` was asked to take this user in no more; the row itself is not kept
    "missing_user",
    "missing_item",
    "missing_time",
    "bad_time",  # there is a time, but it cannot be parsed
    "out_of_period",  # before period_start or after the end of the run's day
    "unknown_event_type",
    "bot_user",  # a user with too many events on one day
)
KEPT = "kept"
DUPLICATE = "duplicate"

ORDER = ("event_time", "event_id", "item_id", "event_type", "session_id")
"""The total order of a user's kept events: rows that agree in all of these are duplicates."""

_SALTS = 1_024
"""Rejected rows are spread over so many made-up users, since most of them may have none."""


def fault(*, period_start: date | None, last_day: date, forgotten: Sequence[str] = ()) -> Column:
    """The first reason why an event (columns: `kdlib.features.events`) cannot be used by itself; null for none."""
    time = F.col("event_time")
    late = time >= day_start(last_day + timedelta(days=1))
    early = time < day_start(period_start) if period_start else F.lit(False)
    return (
        F.when(F.col("corrupt"), "corrupt_row")
        .when(F.sha2("user_id", 256).isin(*forgotten) if forgotten else F.lit(False), "forgotten_user")
        .when(F.col("user_id").isNull(), "missing_user")
        .when(F.col("item_id").isNull(), "missing_item")
        .when(~F.col("time_given"), "missing_time")
        .when(time.isNull(), "bad_time")
        .when(early | late, "out_of_period")
        .when(F.col("event_type").isNull(), "unknown_event_type")
    )


def with_outcome(
    events: DataFrame,
    *,
    period_start: date | None,
    last_day: date,
    max_events_per_user_day: int,
    num_partitions: int,
    forgotten: Sequence[str] = (),
) -> DataFrame:
    """Judge the events and shuffle them, this once, by user.

    Of a user's events with one event_id (or, without, one time, item, type and session) the first is kept. A user with
    more than `max_events_per_user_day` events on one UTC day, duplicates not counted, is quarantined whole.

    Args:
      events: columns as in `kdlib.features.events`.
      period_start: first day that counts; None: no bound.
      last_day: last day that counts.
      max_events_per_user_day: more make a bot.
      num_partitions: of the result.
      forgotten: SHA-256 of the ids of users that are not taken in (`kdlib.forgetting`); in hexadecimal.

    Returns:
      outcome (KEPT, DUPLICATE or one of REASONS), user_id, session_id, item_id, event_type (int8, index into
      EVENT_TYPES), event_time, event_id, raw (null unless quarantined), file; partitioned by user_id and sorted by
      user_id and ORDER, which the later steps build on. The user_id of a row with a fault of its own is made up.
    """
    judged = events.withColumn("reason", fault(period_start=period_start, last_day=last_day, forgotten=forgotten))
    judged = judged.withColumn("raw", F.when(F.col("reason") == "forgotten_user", "forgotten").otherwise(F.col("raw")))
    good = F.col("reason").isNull()
    salt = F.concat(F.lit("\0"), F.pmod(F.xxhash64("raw"), F.lit(_SALTS)).cast("string"))
    slim = judged.select(
        "reason",
        F.when(good, F.col("user_id")).otherwise(salt).alias("user_id"),
        "session_id",
        "item_id",
        (F.array_position(F.array(*map(F.lit, EVENT_TYPES)), F.col("event_type")) - 1)
        .cast("tinyint")
        .alias("event_type"),
        "event_time",
        "event_id",
        F.when(~good, F.col("raw")).alias("raw"),  # of good rows it would be most of the shuffle
        "file",
    ).repartition(num_partitions, "user_id")

    no_id = F.col("event_id").isNull()
    same = [F.when(no_id, F.col(name)) for name in ("session_id", "item_id", "event_type", "event_time")]
    copies = Window.partitionBy("user_id", "event_id", *same).orderBy(*ORDER, "file")
    day = F.floor(F.unix_seconds("event_time") / 86_400)
    counted = F.when(good & ~F.col("is_copy"), 1).otherwise(0)
    flagged = (
        slim.withColumn("is_copy", F.row_number().over(copies) > 1)
        .withColumn("day_events", F.sum(counted).over(Window.partitionBy("user_id", day)))
        .withColumn("busiest_day", F.max("day_events").over(Window.partitionBy("user_id")))
    )
    outcome = F.coalesce(
        F.col("reason"),
        F.when(F.col("busiest_day") > max_events_per_user_day, "bot_user"),
        F.when(F.col("is_copy"), DUPLICATE),
        F.lit(KEPT),
    )
    names = ("user_id", "session_id", "item_id", "event_type", "event_time", "event_id")
    as_json = F.when(outcome == "bot_user", F.to_json(F.struct(*names), {"ignoreNullFields": "false"}))
    return flagged.select(
        outcome.alias("outcome"), *names, F.coalesce("raw", as_json).alias("raw"), "file"
    ).sortWithinPartitions("user_id", *ORDER)


def kept(judged: DataFrame) -> DataFrame:
    """The events to go on with: user_id, session_id, item_id, event_type, event_time, event_id."""
    return judged.filter(F.col("outcome") == KEPT).drop("outcome", "raw", "file")


def quarantine(judged: DataFrame) -> DataFrame:
    """The QUARANTINE table. A bot's rows are shown under our names: user_id, item_id, event_type (its index)…"""
    rejected = judged.filter(~F.col("outcome").isin(KEPT, DUPLICATE))
    return rejected.select(F.col("outcome").alias("reason"), "raw", "file")
