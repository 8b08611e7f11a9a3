"""Counts of the input rows and their outcomes, and checks that enough is left to train on."""

from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from kdlib.errors import ContractError, InputError
from kdlib.features import clean
from kdlib.features.splits import window_starts
from kdlib.features.times import day_start
from kdlib.store.days import UTC

_CLOCK_IS_WRONG = 3_660
"""From this many days after the run's day, or before the period, a time is a fault. Nearer times are other days of a
long input."""


def count_outcomes(
    judged: DataFrame,
    *,
    path: str,
    last_day: date,
    period_start: date | None = None,
    carried: str | None = None,
    where: str | None = None,
    time_zone: str = UTC,
) -> dict[str, Any]:
    """Rows by outcome, and the time span of the kept events.

    Args:
      judged: from `clean.with_outcome`.
      path: path of the input, for the error's text.
      last_day: the run's day.
      period_start: the first day that counts.
      carried: value of `file` for events taken over from an earlier run.
      where: the filter of the input.
      time_zone: of the days.

    Returns:
      rows_read, kept, duplicate, quarantined: numbers of rows.
      filtered: rows that the filter leaves out; only with a filter.
      reasons: reason → rows in quarantine, without zeros.
      carried, carried_duplicate, carried_quarantined: how many of rows_read, duplicate, quarantined an earlier run had
        read.
      other_days: rows out of the period by at most ten years; they are other days of a long input.
      first_event, last_event: times of the first and the last kept event (text, UTC); None without one.
      day_events: kept events of the run's day.

    Raises:
      InputError: there are no rows.
    """
    span = [F.date_format(extreme("event_time"), "yyyy-MM-dd HH:mm:ss") for extreme in (F.min, F.max)]
    of_the_day = F.count_if(F.col("event_time") >= day_start(last_day, time_zone))
    handed_on = F.col("file") == (carried or "")
    tomorrow, far = (day_start(last_day + timedelta(days=days), time_zone) for days in (1, _CLOCK_IS_WRONG))
    other = (F.col("event_time") >= tomorrow) & (F.col("event_time") < far) & F.col("arrived").isNull()
    if period_start is not None:
        begin, long_ago = (day_start(period_start - timedelta(days=days), time_zone) for days in (0, _CLOCK_IS_WRONG))
        other |= (F.col("event_time") >= long_ago) & (F.col("event_time") < begin) & ~handed_on
    counts = judged.groupBy("outcome").agg(F.count("*"), *span, of_the_day, F.count_if(handed_on), F.count_if(other))
    rows = {row[0]: row for row in counts.collect()}
    if not rows:
        raise InputError(f"{path} has no rows. Check that it is the right file and that the export has run")
    reasons = {reason: rows[reason][1] for reason in clean.REASONS if reason in rows}
    first, last, day_events = rows[clean.KEPT][2:5] if clean.KEPT in rows else (None, None, 0)
    outcomes = (clean.KEPT, clean.DUPLICATE, clean.FILTERED)
    kept, duplicate, filtered = (rows[outcome][1] if outcome in rows else 0 for outcome in outcomes)
    quarantined = sum(reasons.values())
    return {
        "rows_read": kept + duplicate + filtered + quarantined,
        "carried": sum(row[5] for row in rows.values()),
        "kept": kept,
        "duplicate": duplicate,
        **({"filtered": filtered} if where else {}),
        "quarantined": quarantined,
        "carried_duplicate": rows[clean.DUPLICATE][5] if clean.DUPLICATE in rows else 0,
        "carried_quarantined": sum(rows[reason][5] for reason in reasons),
        "reasons": reasons,
        "other_days": rows["out_of_period"][6] if "out_of_period" in rows else 0,
        "first_event": first,
        "last_event": last,
        "day_events": day_events,
    }


def count_histories(histories: DataFrame, *, last_day: date, time_zone: str = UTC) -> dict[str, int]:
    """Counts of users and interactions.

    Returns:
      users, interactions: totals.
      users_without_history: users whose items are all outside the vocabulary.
      day_users: users with an interaction on the run's day.
      trainable_users: users with at least two interactions to train on.
      validation_users, test_users: users with an interaction to validate or to test on.
    """
    row = histories.agg(
        F.count("*").alias("users"),
        F.coalesce(F.sum(F.size("item_indices")), F.lit(0)).alias("interactions"),
        F.count_if(F.size("item_indices") == 0).alias("users_without_history"),
        F.count_if(F.try_element_at("event_times", F.lit(-1)) >= day_start(last_day, time_zone)).alias("day_users"),
        F.count_if(F.col("num_train") >= 2).alias("trainable_users"),
        F.count("validation_position").alias("validation_users"),
        F.count("test_position").alias("test_users"),
    ).collect()[0]
    return row.asDict()


def check_trainable(funnel: dict[str, Any], *, kind: str, last_day: date, validation_days: int, test_days: int) -> None:
    """Check that there are several users, and that one of them has two interactions to train on.

    Raises:
      InputError: one of the two is not so. The text names the windows and the time span of the data.
    """
    found = f"found {funnel['interactions']:,} interactions from {funnel['first_event']} to {funnel['last_event']} UTC"
    if funnel["users"] == 1:
        raise InputError(
            f"nothing to learn: all events are of one user; {found}. Check that input.events.user names the column with"
            " the user's id"
        )
    if funnel["trainable_users"]:
        return
    if funnel["interactions"] <= funnel["users"] - funnel["users_without_history"]:
        raise InputError(
            f"nothing to train on: none of the {funnel['users']:,} users has a second interaction; {found}. Check that"
            " input.events.user names an id that a user keeps, not one of an order or a visit"
        )
    if kind == "leave_one_out":
        raise InputError(
            f"nothing to train on: leave_one_out needs users with 2 interactions (both train) or with at "
            f"least 4 (2 train, 1 validates, 1 tests), and no user has as many; {found}. Give more events"
        )
    validation, test = window_starts(last_day=last_day, validation_days=validation_days, test_days=test_days)
    windows = f"validation window {validation} to {test - timedelta(days=1)}, test window {test} to {last_day}"
    if date.fromisoformat(funnel["first_event"][:10]) >= validation:
        raise InputError(
            f"nothing to train on: all events lie in the days that validate and test ({windows}); {found}. For data of"
            " few days set features.split.kind: leave_one_out, or give earlier events"
        )
    raise InputError(
        f"nothing to train on: no user has 2 interactions before {validation} ({windows}); {found}. Give earlier events,"
        " a --ds that fits them, or shorter windows in features.split. For data of few days set features.split.kind:"
        " leave_one_out"
    )


def check_listed(funnel: dict[str, Any]) -> None:
    """Check that the catalogue lists at least one item of the events.

    Raises:
      InputError: the catalogue lists none of them.
    """
    if funnel["unlisted_items"] and funnel["unlisted_events"] == funnel["kept"]:
        raise InputError(
            f"the catalogue (input.catalogue) has none of the {funnel['unlisted_items']:,} items of the events, for"
            f" example {funnel['unlisted_item']!r}. Check that both write ids alike and that input.catalogue.item names"
            " the id column"
        )


def warnings(funnel: dict[str, Any]) -> list[str]:
    """Warnings about missing validation or test interactions (often a late export) and about unlisted items."""
    found = []
    if lacking := " and ".join(
        f"{part} interactions" for part in ("validation", "test") if not funnel[f"{part}_users"]
    ):
        ends = funnel["last_event"]
        found.append(
            f"no user has {lacking}: the events end at {ends} UTC. Check that the export is complete and --ds is right"
        )
    if unlisted := funnel.get("unlisted_items"):  # old manifests lack this count
        found.append(
            f"{unlisted:,} of the items, with {funnel['unlisted_events'] / funnel['kept']:.1%} of the events, are not"
            f" in the catalogue, for example {funnel['unlisted_item']!r}"
        )
    return found


def check_complete(funnel: dict[str, Any], *, read: int | None, quarantined: int, in_sessions: int) -> None:
    """Check that no row was lost or doubled: the funnel must agree with the input and with the tables.

    Args:
      funnel: from `count_outcomes`.
      read: rows of the input, counted before they were judged; None: not counted.
      quarantined: rows of the QUARANTINE table.
      in_sessions: events of the SESSIONS table.

    Raises:
      ContractError: two numbers differ; the text names both.
    """
    counted = funnel["rows_read"]
    for what, found, expected in (
        ("rows judged", counted, counted if read is None else read),
        ("rows in quarantine", quarantined, funnel["quarantined"]),
        ("events in sessions", in_sessions, funnel["kept"]),
    ):
        if found != expected:
            raise ContractError(
                f"{what}: expected {expected:,}, found {found:,}. Rows were lost or doubled: run the stage again"
            )


def reasons_text(reasons: dict[str, int]) -> str:
    """`corrupt_row 1, out_of_period 3`."""
    return ", ".join(f"{reason} {number:,}" for reason, number in reasons.items())


def rows_text(funnel: dict[str, Any], *, of_them: str = "") -> str:
    """The outcomes of the rows in words: `10 rows read = 7 kept + …`.

    The text `of_them` follows the number of rows read.
    """
    reasons = f" ({reasons_text(funnel['reasons'])})" if funnel["reasons"] else ""
    filtered = f"{funnel['filtered']:,} filtered + " if "filtered" in funnel else ""
    return (
        f"{funnel['rows_read']:,} rows read{of_them} = {funnel['kept']:,} kept + {funnel['duplicate']:,} duplicate + "
        f"{filtered}{funnel['quarantined']:,} quarantined{reasons}"
    )


def funnel_text(funnel: dict[str, Any]) -> str:
    """The whole funnel in one line."""
    carried = f" ({funnel['carried']:,} of them by an earlier run)" if funnel["carried"] else ""
    return (
        f"{rows_text(funnel, of_them=carried)}; {funnel['users']:,} users, {funnel['sessions']:,} sessions, "
        f"{funnel['interactions']:,} interactions, {funnel['items']:,} items, "
        f"{funnel['out_of_vocabulary']:,} events out of vocabulary"
    )
