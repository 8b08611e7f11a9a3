"""Search events → the typed queries, and what users did with items after each query."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.config.data import SEARCH_EVENT_TYPES

_SEARCH = SEARCH_EVENT_TYPES[0]


def queries_table(searches: DataFrame, *, min_users: int = 0) -> DataFrame:
    """The QUERIES table. One event is one user, day, type and item: `searches.with_outcome` has merged repeats.

    Args:
      searches: from `searches.kept`.
      min_users: queries of fewer users are left out.
    """
    # group by user first: counting distinct users of all rows costs far more
    counted = searches.groupBy("query", "user_id").agg(*_type_counts(SEARCH_EVENT_TYPES))
    sums = [F.sum(_count_name(type_)).alias(_count_name(type_)) for type_ in SEARCH_EVENT_TYPES]
    queries = counted.groupBy("query").agg(F.count("*").alias("num_users"), *sums)
    queries = queries.filter(F.col("num_users") >= min_users)
    return queries.select("query", "num_searches", "num_users", "num_clicks", "num_carts", "num_purchases")


def query_items_table(
    searches: DataFrame,
    queries: DataFrame,
    *,
    position_bias: float,
    max_position: int,
    cart_weight: float,
    purchase_weight: float,
) -> DataFrame:
    """The QUERY_ITEMS table: what users did with items after each query, corrected for the rank of the items.

    `weight` is the sum of strength(type) / P(looked at) over the events of a pair. P(looked at) is
    position^-position_bias, and 1 for a row without a position. These are inverse propensity weights (Joachims et al.
    2017, Wang et al. 2018).

    Args:
      searches: from `searches.kept`.
      queries: QUERIES. Rows of other queries are left out.
      position_bias: η ≥ 0.
      max_position: a rank beyond it counts as this rank.
      cart_weight: strength of a cart; a click has 1.
      purchase_weight: strength of a purchase.
    """
    shown = searches.filter(F.col("event_type") != _SEARCH).join(queries.select("query"), "query", "left_semi")
    rank = F.least(F.coalesce("position", F.lit(1)), F.lit(max_position))
    counts = shown.groupBy("query", "item_id", rank.alias("rank")).agg(*_type_counts(SEARCH_EVENT_TYPES[1:]))
    names = [_count_name(type_) for type_ in SEARCH_EVENT_TYPES[1:]]
    pairs = counts.groupBy("query", "item_id").agg(
        *(F.sum(name).alias(name) for name in names),
        F.sort_array(F.collect_list(F.struct("rank", *names))).alias("by_rank"),
    )
    strengths = dict(zip(names, (1.0, cart_weight, purchase_weight), strict=True))

    def added(so_far: Column, of_rank: Column) -> Column:
        strength = F.lit(0.0)
        for name, each in strengths.items():
            strength = strength + of_rank[name] * F.lit(float(each))
        return so_far + strength * F.pow(of_rank["rank"].cast("double"), F.lit(float(position_bias)))

    # summed in the order of the ranks: a plain sum of floats differs in its last digits from run to run
    weight = F.aggregate("by_rank", F.lit(0.0), added)
    return pairs.select("query", "item_id", *names, weight.alias("weight"))


def _count_name(event_type: str) -> str:
    return {"search": "num_searches", "purchase": "num_purchases"}.get(event_type, f"num_{event_type}s")


def _type_counts(event_types: Sequence[str]) -> list[Column]:
    return [F.count_if(F.col("event_type") == type_).alias(_count_name(type_)) for type_ in event_types]
