"""Items: counts, the append-only vocabulary, and its statistics."""

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kdlib.config.data import EVENT_TYPES

BROADCAST_ITEMS = 500_000
"""A vocabulary up to this size is sent to every executor, which saves a second shuffle of the events."""


def item_counts(events: DataFrame) -> DataFrame:
    """One row an item of the kept events: item_id, num_interactions, num_users, num_purchases (int64)."""
    purchases = F.count_if(F.col("event_type") == EVENT_TYPES.index("purchase"))
    by_user = events.groupBy("user_id", "item_id").agg(F.count("*").alias("events"), purchases.alias("purchases"))
    return by_user.groupBy("item_id").agg(
        F.sum("events").alias("num_interactions"),
        F.count("*").alias("num_users"),
        F.sum("purchases").alias("num_purchases"),
    )


def extend_vocabulary(
    previous: DataFrame | None, counts: DataFrame, *, first_new_index: int, first_seen: str, max_items: int | None
) -> DataFrame:
    """Give new items the next indices: the most frequent item first, ties by item_id. Known items keep their indices.

    Args:
      previous: an earlier ITEM_VOCABULARY, or None. In an old one without `in_stock`, all items count as in stock.
      counts: from `item_counts`.
      first_new_index: the number of rows of `previous`.
      first_seen: the run's date, YYYY-MM-DD.
      max_items: new items only get indices below this. Known items stay, even if there are more of them.

    Returns:
      item_index (int32), item_id, title, in_stock, first_seen. New items have null in title and in_stock.
    """
    fresh = counts if previous is None else counts.join(previous, "item_id", "left_anti")
    fresh = fresh.orderBy(F.desc("num_interactions"), "item_id").select("item_id").zipWithIndex("place")
    fresh = fresh.select(
        (F.col("place") + first_new_index).cast("int").alias("item_index"),
        "item_id",
        F.lit(None).cast("string").alias("title"),
        F.lit(None).cast("boolean").alias("in_stock"),
        F.lit(first_seen).alias("first_seen"),
    )
    if max_items is not None:
        fresh = fresh.filter(F.col("item_index") < max_items)
    if previous is None:
        return fresh
    in_stock = F.col("in_stock") if "in_stock" in previous.columns else F.lit(True).alias("in_stock")
    return previous.select("item_index", "item_id", "title", in_stock, "first_seen").unionByName(fresh)


def to_join(vocabulary: DataFrame, *, num_items: int) -> DataFrame:
    """item_id and item_index, with a broadcast mark if the vocabulary is small enough."""
    known = vocabulary.select("item_id", "item_index")
    return F.broadcast(known) if num_items <= BROADCAST_ITEMS else known


def with_catalogue(vocabulary: DataFrame, catalogue: DataFrame | None, *, says_stock: bool = False) -> DataFrame:
    """The ITEM_VOCABULARY table. An item that left the catalogue keeps its last title and its last in_stock.

    Without a catalogue all items are in stock. An item in stock is available, unless `hide_rare` hides it.

    Args:
      vocabulary: from `extend_vocabulary`.
      catalogue: from `catalogue.one_row_an_item`, or None.
      says_stock: the catalogue tells which items are in stock. An item that it has never listed is then out of stock.
    """
    if catalogue is None:
        items, title, in_stock = vocabulary, F.col("title"), F.lit(True)
    else:
        theirs = catalogue.select("item_id", F.col("title").alias("new_title"), "available")
        items = vocabulary.join(theirs, "item_id", "left")
        title, in_stock = F.coalesce("new_title", "title"), F.coalesce("available", "in_stock", F.lit(not says_stock))
    return items.select(
        "item_index",
        "item_id",
        title.alias("title"),
        in_stock.alias("available"),
        in_stock.alias("in_stock"),
        "first_seen",
    )


def hide_rare(items: DataFrame, counts: DataFrame, *, min_users: int) -> DataFrame:
    """Make items unavailable that at least one but fewer than `min_users` users have touched.

    Nobody is recommended them.

    Args:
      items: ITEM_VOCABULARY.
      counts: from `item_counts`.
      min_users: the k of k-anonymity.
    """
    users = counts.select("item_id", F.col("num_users").alias("users"))
    rare = F.coalesce(F.col("users").between(1, min_users - 1), F.lit(False))
    hidden = items.join(users, "item_id", "left").withColumn("available", F.col("available") & ~rare)
    return hidden.select(*items.columns)


def count_left_out(counts: DataFrame, vocabulary: DataFrame, catalogue: DataFrame | None) -> dict[str, Any]:
    """Counts of kept events out of the vocabulary, and of items and events that the catalogue does not list.

    Args:
      counts: from `item_counts`.
      vocabulary: ITEM_VOCABULARY.
      catalogue: from `catalogue.one_row_an_item`, or None.

    Returns:
      out_of_vocabulary: events whose item is not in the vocabulary.
      unlisted_items, unlisted_events: items that the catalogue does not list, and their events; 0 without a catalogue.
      unlisted_item: the most frequent of these items; None without any.
    """
    known = counts.join(vocabulary.select("item_id", F.lit(True).alias("known")), "item_id", "left")
    listed = F.lit(True)
    if catalogue is not None:
        known = known.join(catalogue.select("item_id", F.lit(True).alias("listed")), "item_id", "left")
        listed = F.col("listed").isNotNull()
    events = F.col("num_interactions")
    row = known.agg(
        F.coalesce(F.sum(F.when(F.col("known").isNull(), events)), F.lit(0)).alias("out_of_vocabulary"),
        F.count_if(~listed).alias("unlisted_items"),
        F.coalesce(F.sum(F.when(~listed, events)), F.lit(0)).alias("unlisted_events"),
        F.max_by("item_id", F.when(~listed, F.struct(events, "item_id"))).alias("unlisted_item"),
    ).collect()[0]
    return row.asDict()


def item_statistics(vocabulary: DataFrame, counts: DataFrame, histories: DataFrame) -> DataFrame:
    """The ITEM_STATISTICS table: one row an item of the vocabulary, with zeros for an item without events.

    Args:
      vocabulary: item_index, item_id.
      counts: from `item_counts`.
      histories: item_indices, num_train.
    """
    trained = histories.select(
        F.explode(F.slice("item_indices", F.lit(1), F.col("num_train"))).alias("item_index"),
        (F.col("num_train") >= 2).alias("in_window"),
    )
    trained = trained.groupBy("item_index").agg(
        F.count("*").alias("num_train"), F.count_if("in_window").alias("num_in_windows")
    )
    joined = (
        vocabulary.select("item_index", "item_id").join(counts, "item_id", "left").join(trained, "item_index", "left")
    )
    numbers = ("num_interactions", "num_users", "num_purchases", "num_train", "num_in_windows")
    return joined.select("item_index", *(F.coalesce(name, F.lit(0)).cast("bigint").alias(name) for name in numbers))
