"""Events with sessions → one row a user: the user's interactions in order."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from kdlib.features.clean import ORDER


def interactions(events: DataFrame, *, collapse_repeats: bool) -> DataFrame:
    """One row an interaction: user_id, position, item_id, event_type, event_time, session_number.

    Args:
      events: from `sessions.with_sessions`.
      collapse_repeats: consecutive events of one session, day and item become one interaction, with the time of the
        first event and the strongest event type. Positions are then numbered again. Events on the two sides of midnight
        stay apart, because a model may be tested on the later ones.
    """
    columns = ("user_id", "position", "item_id", "event_type", "event_time", "session_number")
    if not collapse_repeats:
        return events.select(*columns)
    in_order = Window.partitionBy("user_id").orderBy(*ORDER)
    same_item = F.col("item_id") == F.lag("item_id").over(in_order)
    same_session = F.col("session_number") == F.lag("session_number").over(in_order)
    so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    same_day = F.col("day") == F.lag("day").over(in_order)
    runs = events.withColumn("opens", F.when(same_item & same_session & same_day, 0).otherwise(1))
    runs = runs.withColumn("position", F.sum("opens").over(so_far).cast("int") - 1)
    return (
        runs.groupBy("user_id", "position")
        .agg(
            F.first("item_id").alias("item_id"),
            F.max("event_type").alias("event_type"),
            F.min("event_time").alias("event_time"),
            F.first("session_number").alias("session_number"),
        )
        .select(*columns)
    )


def histories(interactions: DataFrame, vocabulary: DataFrame) -> DataFrame:
    """One row a user, oldest interaction first.

    Items outside the vocabulary are left out; a user with no known item stays.

    Args:
      interactions: from `interactions`.
      vocabulary: item_id, item_index. With a broadcast mark, the interactions stay partitioned by user.

    Returns:
      user_id, item_indices (list of int32), event_types (list of int8), event_times, session_numbers (list of int32).
    """
    known = interactions.join(vocabulary.select("item_id", "item_index"), "item_id", "left")
    step = F.struct("position", "item_index", "event_type", "event_time", "session_number")
    # collect_list drops nulls and guarantees no order
    steps = F.sort_array(F.collect_list(F.when(F.col("item_index").isNotNull(), step)))
    return (
        known.groupBy("user_id")
        .agg(steps.alias("steps"))
        .select(
            "user_id",
            F.col("steps.item_index").alias("item_indices"),
            F.col("steps.event_type").alias("event_types"),
            F.col("steps.event_time").alias("event_times"),
            F.col("steps.session_number").alias("session_numbers"),
        )
    )
