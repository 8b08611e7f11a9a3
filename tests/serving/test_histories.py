"""Requests become histories by the rules of `kdlib.features`: on rows by hand, and against Spark on random events."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from kdlib.config.data import EVENT_TYPES
from kdlib.features import clean
from kdlib.features.histories import interactions
from kdlib.features.sessions import with_sessions
from kdlib.serving.histories import Step, histories_of, steps_of
from kdlib.serving.made_with import MadeWith
from kdlib.serving.requests import Event, Request, RequestError

HOUR, MINUTE = 3_600_000_000, 60_000_000
NOW = 500_000 * HOUR
NAMES: Any = {name: name for name in EVENT_TYPES} | {"buy": "purchase"}
MADE = MadeWith(
    k=5,
    because=0,
    policy=None,
    experiment=None,
    time_zone="UTC",
    session_gap_seconds=1800,
    collapse_repeats=True,
    event_types=NAMES,
    usual_type="view",
)


def event(item: str, time: int | None = None, event_type: str | None = None, session: str | None = None) -> Event:
    return Event(item, event_type, time, session)


def steps(*events: Event, **settings: Any) -> list[tuple[str, int, int, int]]:
    made = MADE.model_copy(update=settings)
    found = steps_of(Request(events, None, None), made, now=NOW)
    return [(one.item, one.event_type, one.time, one.session) for one in found]


def test_a_gap_at_the_limit_keeps_the_session() -> None:
    """A gap of exactly the limit does not open a session, a microsecond more does."""
    gap = 30 * MINUTE
    events = [event("a", HOUR), event("b", HOUR + gap), event("c", HOUR + 2 * gap + 1)]
    assert [session for *_, session in steps(*events)] == [0, 0, 1]


def test_events_are_put_in_the_order_of_a_run() -> None:
    """Events are sorted by time, then item, then type; equal events count once."""
    events = [event("b", 5), event("a", 5, "cart"), event("a", 5), event("z", 1), event("z", 1)]
    found = steps(*events, collapse_repeats=False)
    assert [(item, kind) for item, kind, *_ in found] == [("z", 0), ("a", 0), ("a", 2), ("b", 0)]


def test_events_without_times_keep_their_order() -> None:
    """They happen now, in one session, and a repeat that is not consecutive stays."""
    assert steps(event("b"), event("a"), event("b")) == [("b", 0, NOW, 0), ("a", 0, NOW, 0), ("b", 0, NOW, 0)]


def test_consecutive_events_on_an_item_are_one_interaction() -> None:
    """It has the time of the first event and the strongest type; another session or day stays apart."""
    late = 24 * HOUR - MINUTE
    repeats = [event("a", HOUR, "cart"), event("a", HOUR + 1), event("a", HOUR + 40 * MINUTE)]
    assert steps(*repeats) == [("a", 2, HOUR, 0), ("a", 0, HOUR + 40 * MINUTE, 1)]
    assert len(steps(event("a", late), event("a", late + 2 * MINUTE))) == 2
    assert len(steps(event("a", late), event("a", late + 2 * MINUTE), time_zone="Europe/Berlin")) == 1
    assert len(steps(*repeats, collapse_repeats=False)) == 3


def test_the_shops_own_sessions_count() -> None:
    """Sessions are numbered by their first event; the events of a day without an id are one session."""
    events = [event("a", 1, session="s9"), event("b", 2), event("c", 3, session="s1"), event("d", 4, session="s9")]
    events += [event("e", 5), event("f", 25 * HOUR)]
    assert [session for *_, session in steps(*events, session_gap_seconds=None)] == [0, 1, 2, 0, 1, 3]


def test_types_are_the_shops_or_ours() -> None:
    """A type may have the shop's name or ours; without one, an event has the usual type."""
    assert [kind for _, kind, *_ in steps(event("a", None, "buy"), event("b", None, "cart"), event("c"))] == [3, 2, 0]
    assert steps(event("a"), usual_type="purchase")[0][1] == 3
    with pytest.raises(RequestError, match=r"session.1.event_type must be one of view, .*, buy, found 'like'"):
        steps(event("a"), event("b", None, "like"))


def test_unknown_items_separate_repeats_and_are_named() -> None:
    """An item outside the vocabulary is left out after repeats were joined, as in a run; each is named once."""
    people = [steps_of(Request((event("a"), event("x"), event("a"), event("x")), "u", None), MADE, now=NOW), []]
    values = np.array([[3], [0]], np.int8)
    found, unknown = histories_of(people, {"a": 7}, user_ids=["u", None], user_values=values)
    assert unknown == [["x"], []]
    assert (found.items_N.tolist(), found.lengths_B.tolist()) == ([7, 7], [2, 0])
    assert found.marks.user_values.tolist() == [[3], [3]]


@pytest.mark.parametrize(("shop_sessions", "zone"), [(False, "America/New_York"), (True, "UTC")])
def test_spark_makes_the_same_histories(spark: Any, shop_sessions: bool, zone: str) -> None:
    """For random events of a hundred users, a request has the interactions and sessions that a run has."""
    rng = np.random.default_rng(5)
    start = datetime(2026, 11, 18, 22, tzinfo=UTC)
    users: dict[str, list[Event]] = {}
    rows = []
    for user in (f"u{number:03}" for number in range(100)):
        minutes = rng.choice([0, 0, 1, 29, 30, 31, 600], rng.integers(1, 14)).cumsum()
        for minute in rng.permutation(minutes):
            at = start + timedelta(minutes=int(minute))
            session = f"s{rng.integers(3)}" if shop_sessions and rng.random() < 0.7 else None
            one = event(f"i{rng.integers(3)}", _micros(at), EVENT_TYPES[rng.integers(4)], session)
            users.setdefault(user, []).append(one)
            rows.append((user, session, one.item, one.event_type, at))
    columns = "user_id string, session_id string, item_id string, event_type string, event_time timestamp"
    events = spark.createDataFrame(rows, columns).selectExpr(
        "*",
        "cast(null as string) event_id",
        "'f' file",
        "cast(null as string) line",
        "struct(item_id) fields",
        "cast(null as date) arrived",
        "true time_given",
        *(f"false {name}" for name in ("corrupt", "long_id", "filtered")),
    )
    judged = clean.with_outcome(
        events,
        period_start=None,
        last_day=date(2026, 12, 1),
        max_events_per_user_day=1_000,
        num_partitions=2,
        time_zone=zone,
    )
    gap = None if shop_sessions else 1800
    made = interactions(with_sessions(clean.kept(judged), gap_seconds=gap), collapse_repeats=True)
    wanted: dict[str, list[Step]] = {}
    for row in sorted(made.collect(), key=lambda row: (row["user_id"], row["position"])):
        step = Step(
            row["item_id"], row["event_type"], _micros(row["event_time"].astimezone(UTC)), row["session_number"]
        )
        wanted.setdefault(row["user_id"], []).append(step)
    settings = MADE.model_copy(update={"time_zone": zone, "session_gap_seconds": gap})
    for user, given in users.items():
        assert steps_of(Request(tuple(given), user, None), settings, now=_micros(start) * 2) == wanted[user]


def _micros(at: Any) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
