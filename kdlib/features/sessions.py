"""Kept events → sessions."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from kdlib.config.data import EVENT_TYPES
from kdlib.features.clean import ORDER


def with_sessions(events: DataFrame, *, gap_seconds: int | None) -> DataFrame:
    """Number each user's events and sessions.

    Args:
      events: from `clean.kept`.
      gap_seconds: a longer gap between two events starts a new session, an equal gap does not. None: the events carry
        the shop's session_id, and a user's events of one day without one form the session `none-YYYY-MM-DD`.

    Returns:
      The events with three more columns.
      position: int32, from 0 in ORDER.
      session_id: the shop's, or the session_number as text.
      session_number: int32, from 0 per user, by the first event of each session. The shop's sessions may overlap in
        time.
    """
    in_order = Window.partitionBy("user_id").orderBy(*ORDER)
    numbered = events.withColumn("position", F.row_number().over(in_order) - 1)
    if gap_seconds is not None:
        gap = F.unix_micros("event_time") - F.unix_micros(F.lag("event_time").over(in_order))
        opens = F.when(gap > gap_seconds * 1_000_000, 1).otherwise(0)
        so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
        number = F.sum("opens").over(so_far).cast("int")
        numbered = numbered.withColumn("opens", opens).withColumn("session_number", number).drop("opens")
        return numbered.withColumn("session_id", F.col("session_number").cast("string"))
    day = F.date_from_unix_date("day").cast("string")
    named = numbered.withColumn("session_id", F.coalesce("session_id", F.concat(F.lit("none-"), day)))
    started = F.min("position").over(Window.partitionBy("user_id", "session_id"))
    by_start = Window.partitionBy("user_id").orderBy("started")
    return (
        named.withColumn("started", started)
        .withColumn("session_number", F.dense_rank().over(by_start) - 1)
        .drop("started")
    )


def sessions_table(events: DataFrame) -> DataFrame:
    """The SESSIONS table from events with sessions, sorted by user and start within a partition."""

    def number_of(name: str):
        return F.count_if(F.col("event_type") == EVENT_TYPES.index(name)).cast("int")

    items = F.sort_array(F.collect_list(F.struct("position", "item_id")))
    sessions = events.groupBy("user_id", "session_number").agg(
        F.first("session_id").alias("session_id"),
        F.min("event_time").alias("started_at"),
        F.max("event_time").alias("ended_at"),
        F.count("*").cast("int").alias("num_events"),
        number_of("cart").alias("num_carts"),
        number_of("purchase").alias("num_purchases"),
        items["item_id"].alias("item_ids"),
    )
    return sessions.sortWithinPartitions("user_id", "session_number").drop("session_number")
