"""Judges every input row: kept, duplicate, filtered, or quarantined with a reason. No row is lost."""

from collections.abc import Sequence
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from kdlib.config.data import EVENT_TYPES
from kdlib.features.columns import raw_text
from kdlib.features.privacy import hash_of_line
from kdlib.features.times import day_start, local_date
from kdlib.store.days import UTC
from kdlib.store.tables import CLEAN_EVENTS

REASONS = (
    "forgotten_user",  # `distilrec forget` has named this user; the row itself is not stored
    "corrupt_row",  # the line does not parse, has a wrong number of fields, or has an id that is not UTF-8
    "missing_user",
    "missing_item",
    "long_id",  # the id of the user, session, item or event has more than columns.MOST_ID_CHARACTERS
    "missing_time",
    "bad_time",  # the time cannot be parsed
    "out_of_period",  # before period_start, after the run's day, or more than a day after it arrived
    "late",  # arrived more than late_days after it happened
    "unknown_event_type",
    "bot_user",  # a user with too many events on one day
)
KEPT = "kept"
DUPLICATE = "duplicate"
FILTERED = "filtered"
"""Outcome of a row that the filter of the input leaves out. It is not a fault."""

ORDER = ("day", "event_time", "event_id", "item_id", "event_type", "session_id")
"""The total order of a user's kept events. Rows that agree in all of these columns are duplicates.

The day follows from the time. It is listed so that Spark knows that rows in this order are also sorted by day.
"""

_SALTS = 1_024
"""Filtered and rejected rows are spread over this many made-up users, because these rows may have no user."""


def fault(
    *,
    period_start: date | None,
    last_day: date,
    late_days: int,
    time_zone: str = UTC,
    forgotten: Sequence[str] = (),
) -> Column:
    """FILTERED, or the first fault that an event (columns: `kdlib.features.events`) has on its own; null for none."""
    time = F.col("event_time")
    late = time >= day_start(last_day + timedelta(days=1), time_zone)
    early = time < day_start(period_start, time_zone) if period_start else F.lit(False)
    days_to_arrival = F.date_diff("arrived", local_date(time, time_zone))  # null where the arrival is unknown
    return (
        F.when(F.col("filtered"), FILTERED)
        .when(F.sha2("user_id", 256).isin(*forgotten) if forgotten else F.lit(False), "forgotten_user")
        .when(F.col("corrupt"), "corrupt_row")
        .when(late, "out_of_period")  # before other faults: the run of that day judges those
        .when(F.col("user_id").isNull(), "missing_user")
        .when(F.col("item_id").isNull(), "missing_item")
        .when(F.col("long_id"), "long_id")
        .when(~F.col("time_given"), "missing_time")
        .when(time.isNull(), "bad_time")
        .when(early | (days_to_arrival < -1), "out_of_period")
        .when(days_to_arrival > late_days, "late")
        .when(F.col("event_type").isNull(), "unknown_event_type")
    )


def with_outcome(
    events: DataFrame,
    *,
    period_start: date | None,
    last_day: date,
    late_days: int = 0,
    max_events_per_user_day: int,
    num_partitions: int,
    time_zone: str = UTC,
    forgotten: Sequence[str] = (),
) -> DataFrame:
    """Judge the events and shuffle them by user. Later steps need no other shuffle.

    Events of one user with the same event_id are copies, and so are events without one that agree in time, item, type
    and session. The first copy is kept. A user with more than `max_events_per_user_day` events on one day, copies not
    counted, is a bot, and all its rows are quarantined.

    Args:
      events: columns as in `kdlib.features.events`.
      period_start: first day that counts; None: no bound.
      last_day: last day that counts.
      late_days: how many days after it happened an event may arrive; checked where the arrival is known.
      max_events_per_user_day: a user with more events is a bot.
      num_partitions: partitions of the result.
      time_zone: of the days.
      forgotten: SHA-256, in hexadecimal, of the ids of forgotten users (`kdlib.privacy.forgetting`). With any, a
        corrupt row becomes a hash, because it may be theirs.

    Returns:
      The events, partitioned by user_id and sorted by user_id and ORDER; later steps rely on both. Columns: outcome,
      user_id, session_id, item_id, event_type, event_time, event_id, day, raw, file, arrived, is_copy.

      outcome: KEPT, DUPLICATE, FILTERED or one of REASONS.
      user_id: made up where the row is filtered or has a fault of its own. The other ids are null there.
      event_type: int8, index into EVENT_TYPES.
      day: int32, the local date in days since 1970.
      raw: the row's text; null unless the row is quarantined.
      is_copy: the row repeats an earlier row; a bot's row may be a copy too.
    """
    judged = events.withColumn(
        "reason",
        fault(
            period_start=period_start,
            last_day=last_day,
            late_days=late_days,
            time_zone=time_zone,
            forgotten=forgotten,
        ),
    )
    by_user = _by_user(judged, num_partitions=num_partitions, hash_lines=bool(forgotten))
    flagged = _with_flags(by_user, time_zone=time_zone)
    outcome = F.coalesce(
        F.col("reason"),
        F.when(F.col("busiest_day") > max_events_per_user_day, "bot_user"),
        F.when(F.col("is_copy"), DUPLICATE),
        F.lit(KEPT),
    )
    names = ("user_id", "session_id", "item_id", "event_type", "event_time", "event_id")
    as_json = F.when(outcome == "bot_user", F.to_json(F.struct(*names), {"ignoreNullFields": "false"}))
    raw = F.coalesce("raw", as_json).alias("raw")
    return flagged.select(outcome.alias("outcome"), *names, "day", raw, "file", "arrived", "is_copy")


def _by_user(judged: DataFrame, *, num_partitions: int, hash_lines: bool) -> DataFrame:
    """The columns that later steps need, shuffled by user.

    Filtered and rejected rows get a made-up user, and lose their other ids, which may be long. Rejected rows also get
    their raw text.
    """
    good = F.col("reason").isNull()
    # only for rejected rows: the text of good rows would be most of the shuffle
    raw = F.when(F.col("reason") == "forgotten_user", "forgotten")
    if hash_lines:
        raw = raw.when(F.col("corrupt"), hash_of_line())
    judged = judged.withColumn("raw", raw.when(F.col("reason") != FILTERED, raw_text()))
    salt = F.concat(F.lit("\0"), F.pmod(F.xxhash64("raw", "user_id", "event_time"), F.lit(_SALTS)).cast("string"))
    return judged.select(
        "reason",
        F.when(good, F.col("user_id")).otherwise(salt).alias("user_id"),
        _unfolded(F.when(good, F.col("session_id")), "").alias("session_id"),
        F.when(good, F.col("item_id")).alias("item_id"),
        _unfolded(F.array_position(F.array(*map(F.lit, EVENT_TYPES)), F.col("event_type")) - 1, -1)
        .cast("tinyint")
        .alias("event_type"),
        "event_time",
        _unfolded(F.when(good, F.col("event_id")), "").alias("event_id"),
        "raw",
        "file",
        "arrived",
    ).repartition(num_partitions, "user_id")


def _with_flags(by_user: DataFrame, *, time_zone: str) -> DataFrame:
    """Add is_copy, day, and busiest_day: the largest number of the user's events on one day, copies not counted."""
    itself = F.when(F.col("event_id").isNull(), F.struct("session_id", "item_id", "event_type", "event_time"))
    copies = Window.partitionBy("user_id", "event_id", itself).orderBy(
        "event_time", "item_id", "event_type", "session_id", "file"
    )
    counted = F.when(F.col("reason").isNull() & ~F.col("is_copy"), 1).otherwise(0)
    return (
        by_user.withColumn("is_copy", F.row_number().over(copies) > 1)
        .withColumn("day", F.unix_date(local_date(F.col("event_time"), time_zone)))
        .sortWithinPartitions("user_id", *ORDER)  # for the windows below and for all later ones
        .withColumn("day_events", F.sum(counted).over(Window.partitionBy("user_id", "day")))
        .withColumn("busiest_day", F.max("day_events").over(Window.partitionBy("user_id")))
    )


def _unfolded(column: Column, other: str | int) -> Column:
    """The column, in a form that Spark does not recognise as a constant (no input row's file is "").

    Spark drops a constant from a sort, but still requires it for a window. It would then sort again.
    """
    return F.when(F.col("file") != "", column).otherwise(F.lit(other))


def kept(judged: DataFrame) -> DataFrame:
    """The kept events: user_id, session_id, item_id, event_type, event_time, event_id, day."""
    return judged.filter(F.col("outcome") == KEPT).drop("outcome", "raw", "file", "arrived", "is_copy")


def clean_events(judged: DataFrame) -> DataFrame:
    """The CLEAN_EVENTS table. A bot's events stay in it, so that the next run recognises the bot."""
    clean = F.col("outcome").isin(KEPT, "bot_user") & ~F.col("is_copy")
    return judged.filter(clean).select(*CLEAN_EVENTS.schema.names)


def quarantine(judged: DataFrame) -> DataFrame:
    """The QUARANTINE table. A bot's rows are shown with our column names, and event_type as an index."""
    rejected = judged.filter(F.col("outcome").isin(*REASONS))
    return rejected.select(F.col("outcome").alias("reason"), "raw", "file")
