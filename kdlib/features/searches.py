"""The search log → judged search events. The session's time zone must be UTC.

The columns of a search event before it is judged:
  corrupt      bool       the line did not parse
  user_id, item_id   text, trimmed, null where empty or not mapped
  long_id      bool       one of these ids, as the shop writes it, has more than columns.MOST_ID_CHARACTERS
  query        text       normalised by `kdlib.data.queries.normalise_query`, null where nothing is left
  event_type   text       one of SEARCH_EVENT_TYPES; null where the shop's type is not mapped
  position     int32      the rank at which the item was shown, from 1; null where missing or no whole number from 1 on
  position_given  bool    the row has a position, even a bad one
  time_given   bool       the row has a time, even one that cannot be parsed
  event_time   timestamp  UTC microseconds; null where it cannot be parsed
  line, fields, file      as in `kdlib.features.events`
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from kdlib.config.data import SEARCH_EVENT_TYPES, SearchesConfig
from kdlib.data.queries import normalise_query
from kdlib.features.clean import DUPLICATE, KEPT
from kdlib.features.columns import is_long, judged_line, mapped_text, our_type, raw_text, read_columns
from kdlib.features.funnel import rows_text
from kdlib.features.privacy import hash_of_line, map_distinct, with_pseudonyms
from kdlib.features.read import FILE, quoted
from kdlib.features.times import day_start, local_date, parse_time
from kdlib.privacy.pseudonyms import KeySource
from kdlib.store.days import UTC
from kdlib.store.search_tables import SEARCH_QUARANTINE

REASONS = (
    "forgotten_user",  # the row itself is not stored
    "corrupt_row",  # the line does not parse, has a wrong number of fields, or has an id that is not UTF-8
    "missing_user",
    "missing_query",  # nothing is left of the query after normalisation
    "long_id",  # the id of the user or the item has more than columns.MOST_ID_CHARACTERS
    "missing_time",
    "bad_time",  # the time cannot be parsed
    "out_of_period",  # after the run's day
    "unknown_event_type",
    "missing_item",  # a click, cart or purchase without an item
    "bad_position",  # a click, cart or purchase at a rank that is not a whole number from 1 on
)
EARLIER = "earlier"
"""Outcome of a row before the period. It is not a fault and is counted apart: a log of years would fill the
quarantine."""

_SEARCH = SEARCH_EVENT_TYPES[0]
_LARGEST = 2**31 - 1
_SALTS = 1_024
"""Number of made-up users over which rejected rows are spread, since most of these rows may have no user."""


def read_searches(
    spark: SparkSession,
    searches: SearchesConfig,
    *,
    key: KeySource | None = None,
    hide_queries: bool = False,
    time_zone: str = UTC,
) -> DataFrame:
    """The search log as search events (columns above).

    Args:
      spark: the session.
      searches: where the files are and how their columns are named.
      key: key of the pseudonyms for user ids; None: the shop's own ids stay.
      hide_queries: leave the queries out of `fields` and `line`, so that no quarantine shows them.
      time_zone: of dates without a time.

    Raises:
      InputError: a file is missing or unreadable, or a mapped column is missing or has an unusable type.
    """
    time = searches.time
    mapped = [searches.user, searches.query, searches.item, searches.event_type, searches.position]
    mapped += [*time.day_columns, time.order_column] if time.format == "day_and_order" else [time.column]
    columns = list(dict.fromkeys(name for name in mapped if name))
    rows = read_columns(spark, searches.path, format_=searches.format, columns=columns, delimiter=searches.delimiter)
    given, at = parse_time(time, rows.schema, path=searches.path, time_zone=time_zone)
    item = mapped_text(searches.item)
    untyped = F.when(item.isNull(), _SEARCH).otherwise("click")
    rank = mapped_text(searches.position)
    rank = F.when(rank != "NaN", rank)  # pandas writes NaN for a missing value
    fields = [F.col(quoted(name)) for name in columns]
    if hide_queries:
        hidden = F.when(mapped_text(searches.query).isNotNull(), "hidden").alias(searches.query)
        fields = [hidden if name == searches.query else F.col(quoted(name)) for name in columns]
    shown = F.struct(*fields)
    corrupt, line = judged_line(shown, ids=[searches.user, searches.item])
    events = rows.select(
        corrupt.alias("corrupt"),
        mapped_text(searches.user).alias("user_id"),
        _normalised(mapped_text(searches.query)).alias("query"),
        item.alias("item_id"),
        is_long(mapped_text(searches.user), item).alias("long_id"),
        (our_type(searches.event_type, searches.event_types) if searches.event_type else untyped).alias("event_type"),
        _whole_number(rank).alias("position"),
        rank.isNotNull().alias("position_given"),
        given.alias("time_given"),
        at.alias("event_time"),
        line.alias("line"),
        shown.alias("fields"),
        F.col(FILE).alias("file"),
    )
    if key is not None:
        return with_pseudonyms(events, key, id_columns=[searches.user])
    return events.withColumn("line", hash_of_line()) if hide_queries else events


def first_day(last_day: date, *, period_days: int) -> date:
    """The first day of the period that ends with `last_day`."""
    return last_day - timedelta(days=period_days - 1)


def with_outcome(
    searches: DataFrame,
    *,
    period_days: int,
    last_day: date,
    num_partitions: int,
    time_zone: str = UTC,
    forgotten: Sequence[str] = (),
) -> DataFrame:
    """Judge the search events.

    Rows of one user, day, query, type and item are one event; the row with the best rank is kept. Otherwise a
    single crawler could decide what a query means.

    Args:
      searches: columns as described at the top of this module.
      period_days: length of the period that ends with `last_day`.
      last_day: last day that counts.
      num_partitions: partitions of the result.
      time_zone: of the days.
      forgotten: SHA-256, in hexadecimal, of the ids of forgotten users (`kdlib.privacy.forgetting`). With any, a
        corrupt row becomes a hash, because it may be theirs.

    Returns:
      outcome: KEPT, DUPLICATE, EARLIER or one of REASONS.
      user_id: made up where the row is neither kept nor a duplicate.
      query, event_type: text; null where the row is neither kept nor a duplicate.
      item_id, position: null in the same rows, and for searches.
      raw: the row's text; null unless the row is quarantined.
      event_time, file: as in `searches`.
    """
    first = first_day(last_day, period_days=period_days)
    reason = _fault(first=first, last_day=last_day, time_zone=time_zone, forgotten=forgotten)
    judged = searches.withColumn("reason", reason)
    good, shown = F.col("reason").isNull(), F.col("event_type") != _SEARCH
    raw = F.when(F.col("reason") == "forgotten_user", "forgotten")
    if forgotten:
        raw = raw.when(F.col("reason") == "corrupt_row", hash_of_line())
    raw = raw.when(~good & (F.col("reason") != EARLIER), raw_text())
    judged = judged.withColumn("raw", raw)
    salt = F.concat(F.lit("\0"), F.pmod(F.xxhash64("raw", "event_time"), F.lit(_SALTS)).cast("string"))
    slim = judged.select(
        "reason",
        F.when(good, F.col("user_id")).otherwise(salt).alias("user_id"),
        # of other rows, which may be years of earlier rows, shuffle only what is counted and shown
        *(F.when(good, F.col(name)).alias(name) for name in ("query", "event_type")),
        *(F.when(good & shown, F.col(name)).alias(name) for name in ("item_id", "position")),
        "event_time",
        "raw",
        "file",
    ).repartition(num_partitions, "user_id")
    same = Window.partitionBy("user_id", local_date(F.col("event_time"), time_zone), "query", "event_type", "item_id")
    is_copy = F.row_number().over(same.orderBy(F.asc_nulls_last("position"), "event_time", "file")) > 1
    outcome = F.coalesce("reason", F.when(is_copy, DUPLICATE), F.lit(KEPT))
    return slim.select(outcome.alias("outcome"), *(name for name in slim.columns if name != "reason"))


def kept(judged: DataFrame) -> DataFrame:
    """The kept search events: user_id, query, event_type, item_id, position, event_time."""
    return judged.filter(F.col("outcome") == KEPT).drop("outcome", "raw", "file")


def quarantine(judged: DataFrame) -> DataFrame:
    """The SEARCH_QUARANTINE table."""
    rejected = judged.filter(F.col("outcome").isin(*REASONS))
    return rejected.withColumnRenamed("outcome", "reason").select(*SEARCH_QUARANTINE.schema.names)


def count_outcomes(judged: DataFrame) -> dict[str, Any]:
    """Rows by outcome, and the time span of the kept events.

    Args:
      judged: from `with_outcome`.

    Returns:
      earlier: rows before the period.
      rows_read, kept, duplicate, quarantined: numbers of the other rows.
      reasons: reason → rows in quarantine, without zeros.
      first_event, last_event: times of the first and the last kept event (text, UTC); None without one.
      last_earlier: time of the last row before the period; None without one.
    """
    span = [F.date_format(extreme("event_time"), "yyyy-MM-dd HH:mm:ss") for extreme in (F.min, F.max)]
    rows = {row[0]: row for row in judged.groupBy("outcome").agg(F.count("*"), *span).collect()}
    numbers = {outcome: row[1] for outcome, row in rows.items()}
    earlier, of_kept, duplicate = (numbers.get(outcome, 0) for outcome in (EARLIER, KEPT, DUPLICATE))
    reasons = {reason: numbers[reason] for reason in REASONS if reason in numbers}
    quarantined = sum(reasons.values())
    first_event, last_event = rows[KEPT][2:4] if KEPT in rows else (None, None)
    return {
        "earlier": earlier,
        "rows_read": of_kept + duplicate + quarantined,
        "kept": of_kept,
        "duplicate": duplicate,
        "quarantined": quarantined,
        "reasons": reasons,
        "first_event": first_event,
        "last_event": last_event,
        "last_earlier": rows[EARLIER][3] if EARLIER in rows else None,
    }


def no_query_warning(funnel: dict[str, Any], *, path: str, period: str, min_users: int) -> str | None:
    """A warning where no query is left, because the export did not run or the shop is small; None: some query is left.

    Args:
      funnel: as for `funnel_text`.
      path: path of the input.
      period: the period in words: `30 days to 2026-11-22`.
      min_users: how many users must have typed a query.
    """
    if funnel["queries"]:
        return None
    if funnel["rare_queries"]:
        why = (
            f"none of the {funnel['rare_queries']:,} queries of {path} was typed by {min_users} users or more"
            " (privacy.min_query_users). Lower it, or raise features.queries.period_days"
        )
    else:
        last = f"its last row is of {funnel['last_earlier']} UTC" if funnel["earlier"] else "it has no rows at all"
        why = (
            f"{path} has no searches of the {period}: {last}. Check that it is the right file and that the export has"
            " run"
        )
    return f"no query is left, so search works without queries: {why}"


def funnel_text(funnel: dict[str, Any]) -> str:
    """The whole funnel in one line.

    Args:
      funnel: from `count_outcomes`, with the numbers queries, rare_queries and pairs (rows of QUERY_ITEMS).
    """
    earlier = f", {funnel['earlier']:,} rows before the period skipped" if funnel["earlier"] else ""
    rare = f" ({funnel['rare_queries']:,} typed by too few users left out)" if funnel["rare_queries"] else ""
    return (
        f"{rows_text(funnel)}{earlier}; {funnel['queries']:,} queries{rare}, "
        f"{funnel['pairs']:,} pairs of query and item"
    )


def _fault(*, first: date, last_day: date, time_zone: str, forgotten: Sequence[str]) -> Column:
    """EARLIER, or the first fault of a search event as a reason; null for none."""
    time, shown = F.col("event_time"), F.col("event_type") != _SEARCH
    return (
        F.when(~F.col("corrupt") & (time < day_start(first, time_zone)), EARLIER)
        .when(F.sha2("user_id", 256).isin(*forgotten) if forgotten else F.lit(False), "forgotten_user")
        .when(F.col("corrupt"), "corrupt_row")
        .when(F.col("user_id").isNull(), "missing_user")
        .when(F.col("query").isNull(), "missing_query")
        .when(F.col("long_id"), "long_id")
        .when(~F.col("time_given"), "missing_time")
        .when(time.isNull(), "bad_time")
        .when(time >= day_start(last_day + timedelta(days=1), time_zone), "out_of_period")
        .when(F.col("event_type").isNull(), "unknown_event_type")
        .when(shown & F.col("item_id").isNull(), "missing_item")
        .when(shown & F.col("position_given") & F.col("position").isNull(), "bad_position")
    )


def _whole_number(text: Column) -> Column:
    """int32 of a text: `3`, or `3.0` from a column of floats. Null where the text is not a whole number from 1 on."""
    whole = text.rlike(r"^0*[1-9][0-9]*(\.0+)?$")
    return F.when(whole, F.least(text.try_cast("double"), F.lit(float(_LARGEST)))).cast("int")


def _normalised(texts: Column) -> Column:
    """`normalise_query` of a text column; null where nothing is left.

    Spark has no built-in function for Unicode NFKC, and served queries must be normalised in exactly the same way.
    Queries
    repeat: Python normalises each distinct query of a batch once.
    """

    def normalised(queries: pd.Series) -> pd.Series:
        return map_distinct(queries, lambda one: normalise_query(one) or None)

    function: Any = F.pandas_udf(normalised, "string")  # pyright: ignore[reportCallIssue, reportArgumentType]
    return function(texts)
