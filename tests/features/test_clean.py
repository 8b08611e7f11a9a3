import hashlib
import random
from collections import Counter
from datetime import date

import pytest
from pyspark.sql import functions as F

from kdlib.errors import ContractError, InputError
from kdlib.features import clean
from kdlib.features.columns import MOST_ID_CHARACTERS, MOST_RAW_CHARACTERS, is_long
from kdlib.features.funnel import check_complete, check_trainable, count_outcomes, rows_text
from kdlib.features.histories import interactions
from kdlib.features.sessions import with_sessions

SCHEMA = (
    "corrupt boolean, user_id string, session_id string, item_id string, event_id string, event_type string, "
    "time_given boolean, event_time string, line string, fields struct<none: string>, file string, arrived date"
)


LEFT_OUT = "left out"
"""The item of the events that the filter leaves out."""


def event(
    user: str | None = "u",
    item: str | None = "a",
    time: str | None = "2024-05-02 10:00:00",
    *,
    id_: str | None = None,
    session: str | None = None,
    type_: str | None = "view",
    given: bool = True,
    corrupt: bool = False,
):
    return (corrupt, user, session, item, id_, type_, given, time, f"{user}|{item}|{time}", None, "f", None)


def arrived(row, day: date):
    return (*row[:-1], day)


def events_of(spark, rows):
    filtered = F.coalesce(~F.col("corrupt") & (F.col("item_id") == LEFT_OUT), F.lit(False))
    time = F.col("event_time").cast("timestamp")
    long_id = is_long(*map(F.col, ("user_id", "session_id", "item_id", "event_id")))
    columns = {"event_time": time, "filtered": filtered, "long_id": long_id}
    return spark.createDataFrame(rows, SCHEMA).withColumns(columns)


def judge(spark, rows, *, late_days=0, max_events=100, partitions=2):
    return clean.with_outcome(
        events_of(spark, rows),
        period_start=date(2024, 5, 1),
        last_day=date(2024, 5, 3),
        late_days=late_days,
        max_events_per_user_day=max_events,
        num_partitions=partitions,
    )


def outcomes(judged):
    return Counter(row["outcome"] for row in judged.select("outcome").collect())


def test_each_fault_has_its_reason_and_the_first_one_counts(spark):
    """Every fault of a row gives its reason, and a row with several faults the first.

    The period includes both its ends.
    """
    long_id = "i" * (MOST_ID_CHARACTERS + 1)
    rows = [
        (event(corrupt=True, user=None), "corrupt_row"),
        (event(user=None, item=None), "missing_user"),
        (event(item=None), "missing_item"),
        (event(item=None, session=long_id), "missing_item"),
        (event(item=long_id, time=None, given=False), "long_id"),
        (event(session=long_id), "long_id"),
        (event(time=None, given=False), "missing_time"),
        (event(time=None, item="x1"), "bad_time"),
        (event(time="2024-04-30 23:59:59.999999"), "out_of_period"),
        (event(time="2024-05-04 00:00:00"), "out_of_period"),
        (event(time="2024-05-04 00:00:00", corrupt=True), "corrupt_row"),
        (event(user=None, item=None, type_=None, time="2024-05-04 00:00:00"), "out_of_period"),
        (arrived(event(time="2024-05-03 00:00:00"), date(2024, 5, 1)), "out_of_period"),
        (arrived(event(time="2024-05-02 00:00:00"), date(2024, 5, 3)), "late"),
        (event(type_=None), "unknown_event_type"),
        (event(time="2024-05-01 00:00:00"), "kept"),
        (event(time="2024-05-03 23:59:59.999999"), "kept"),
    ]
    judged = judge(spark, [row for row, _ in rows])
    assert outcomes(judged) == Counter(reason for _, reason in rows)
    raws = Counter((row["reason"], row["raw"]) for row in clean.quarantine(judged).collect())
    assert raws == Counter((reason, row[8]) for row, reason in rows if reason != "kept")


def test_a_long_id_goes_no_further_than_the_quarantine(spark):
    """An id of the greatest length is kept. Of a longer id the quarantine has the beginning, and other tables nothing."""
    longest = "é" * MOST_ID_CHARACTERS
    judged = judge(spark, [event(item=longest), event(longest), event(item="x" * 20_000), event(id_="k" * 20_000)])
    assert outcomes(judged) == {"kept": 2, "long_id": 2}
    assert {(row["user_id"], row["item_id"]) for row in clean.kept(judged).collect()} == {
        ("u", longest),
        (longest, "a"),
    }
    rejected = judged.filter(F.col("outcome") == "long_id").collect()
    assert {row[name] for row in rejected for name in ("session_id", "item_id", "event_id")} == {None}
    [cut, whole] = sorted((row["raw"] for row in clean.quarantine(judged).collect()), key=len, reverse=True)
    assert cut == f"u|{'x' * (MOST_RAW_CHARACTERS - 2)}…"
    assert whole == "u|a|2024-05-02 10:00:00"
    counts = count_outcomes(judged, path="p", last_day=date(2024, 5, 3))
    assert counts["reasons"] == {"long_id": 2}
    assert rows_text(counts) == "4 rows read = 2 kept + 0 duplicate + 2 quarantined (long_id 2)"


def test_an_event_may_arrive_so_many_days_late_or_a_day_early(spark):
    """With two late days, events that arrive 1 day early, on their day or 2 days late are kept; 3 days late is late."""
    rows = [arrived(event(item=str(day)), date(2024, 5, day)) for day in (1, 2, 4, 5)]
    assert outcomes(judge(spark, rows, late_days=2)) == {"kept": 3, "late": 1}


def test_duplicates_share_an_event_id_or_else_everything(spark):
    """Of a user's rows with one event id the first is kept.

    Rows without an id are duplicates if they agree in all columns.
    """
    rows = [
        event(id_="1", time="2024-05-02 10:00:09", item="late"),
        event(id_="1", time="2024-05-02 10:00:00", item="early"),
        event(id_="1", user="other", item="x"),
        event(item="b"),
        event(item="b"),
        event(item="b", session="s"),
        event(item="b", type_="cart"),
        event(item="b", time="2024-05-02 10:00:01"),
    ]
    judged = judge(spark, rows)
    kept = sorted(row["item_id"] for row in clean.kept(judged).collect())
    assert kept == ["b", "b", "b", "b", "early", "x"]
    assert outcomes(judged) == {"kept": 6, "duplicate": 2}


def test_a_bot_is_a_user_with_more_events_on_a_utc_day_than_allowed(spark):
    """One event over the limit quarantines all rows of the user.

    Exactly the limit does not, nor do duplicates beyond it.
    """
    busy = [event("bot", f"i{n}", f"2024-05-02 23:59:0{n}") for n in range(4)] + [
        event("bot", "z", "2024-05-01 00:00:00")
    ]
    limit = [event("human", f"i{n}", f"2024-05-02 23:59:0{n}") for n in range(3)]
    limit += [limit[0], event("human", "next", "2024-05-03 00:00:00")]
    judged = judge(spark, [*busy, *limit], max_events=3)
    assert outcomes(judged) == {"bot_user": 5, "kept": 4, "duplicate": 1}
    shown = clean.quarantine(judged).filter("raw LIKE '%z%'").collect()
    assert [row["raw"] for row in shown] == [
        '{"user_id":"bot","session_id":null,"item_id":"z","event_type":0,"event_time":"2024-05-01T00:00:00.000Z",'
        '"event_id":null}'
    ]


def test_days_are_those_of_the_time_zone(spark):
    """Period, day, bots and arrival go by the local date. The day on which the clocks change has 23 hours.

    A user's sessions and interactions are cut at the same midnight.
    """
    inside = ("2024-03-29 23:00:00", "2024-03-30 22:59:59", "2024-03-30 23:00:00", "2024-03-31 21:59:59")
    rows = [event("u", time=time) for time in inside]
    rows += [event("u", time=time) for time in ("2024-03-29 22:59:59", "2024-03-31 22:00:00")]
    rows += [event("bot", f"i{n}", f"2024-03-31 2{n}:00:00") for n in range(2)]
    rows += [event("bot", f"i{n}", "2024-03-30 23:30:00") for n in range(2)]
    rows += [event("two days", f"i{n}", "2024-03-30 22:30:00") for n in range(3)]
    rows += [event("two days", f"i{n}", "2024-03-30 23:30:00") for n in range(3)]
    rows += [arrived(event("post", time="2024-03-29 23:30:00"), date(2024, 3, day)) for day in (31, 30)]
    judged = clean.with_outcome(
        events_of(spark, rows),
        period_start=date(2024, 3, 30),
        last_day=date(2024, 3, 31),
        late_days=0,
        max_events_per_user_day=3,
        num_partitions=2,
        time_zone="Europe/Berlin",
    )
    assert outcomes(judged) == {"kept": 11, "out_of_period": 2, "bot_user": 4, "late": 1}
    kept = clean.kept(judged)
    days = {row["event_time"].isoformat(" "): row["day"] for row in kept.filter("user_id = 'u'").collect()}
    thirtieth = (date(2024, 3, 30) - date(1970, 1, 1)).days
    assert days == dict(zip(inside, [thirtieth, thirtieth, thirtieth + 1, thirtieth + 1], strict=True))
    funnel = count_outcomes(judged, path="p", last_day=date(2024, 3, 31), time_zone="Europe/Berlin")
    assert funnel["day_events"] == 5
    of_shop = with_sessions(kept.filter("user_id = 'u'"), gap_seconds=None)
    names = {row["session_id"] for row in of_shop.collect()}
    assert names == {"none-2024-03-30", "none-2024-03-31"}
    steps = interactions(with_sessions(kept, gap_seconds=86_400), collapse_repeats=True)
    assert steps.filter("user_id = 'u'").count() == 2, "one item, one session, two days"


@pytest.mark.parametrize("seed", range(3))
def test_every_row_has_one_outcome(spark, seed):
    """The outcomes add up to the rows read, and no good row of a quiet user is quarantined."""
    choose = random.Random(seed).choice
    rows = [
        event(
            choose(["u", "v", "w", None]),
            choose(["a", "b", None, LEFT_OUT]),
            choose(["2024-05-02 10:00:00", "2024-05-02 10:00:01", "2023-01-01 00:00:00", None]),
            id_=choose(["1", "2", None]),
            type_=choose(["view", "cart", None]),
            given=choose([True, False]),
            corrupt=choose([True, False, False, False]),
        )
        for _ in range(200)
    ]
    judged = judge(spark, rows, max_events=7)
    counts = count_outcomes(judged, path="p", last_day=date(2024, 5, 3), where="item is not left out")
    assert counts["rows_read"] == 200
    assert sum(counts[name] for name in ("kept", "duplicate", "filtered", "quarantined")) == 200
    assert counts["filtered"] == sum(r[3] == LEFT_OUT and not r[0] for r in rows) > 0
    rows = [r for r in rows if r[3] != LEFT_OUT or r[0]]
    bad = sum(r[0] or not (r[1] and r[3] and r[5] and r[6] and r[7]) or r[7] < "2024" for r in rows)
    assert counts["quarantined"] - counts["reasons"].get("bot_user", 0) == bad
    distinct = len({r[1:8] for r in rows if not r[0]})
    assert counts["kept"] <= distinct


def test_a_filtered_row_is_neither_a_fault_nor_an_event(spark):
    """A filtered row makes nobody a bot and no event a duplicate, is not in quarantine, and has no other fault."""
    rows = [event(item=LEFT_OUT, id_="1"), event(id_="1"), event(user=None, item=LEFT_OUT, time=None, given=False)]
    rows += [event(item=LEFT_OUT, time=f"2024-05-02 10:00:0{n}") for n in range(4)]
    judged = judge(spark, rows, max_events=1)
    assert outcomes(judged) == {"filtered": 6, "kept": 1}
    assert clean.quarantine(judged).count() == 0
    assert {row["raw"] for row in judged.collect()} == {None}
    counts = count_outcomes(judged, path="p", last_day=date(2024, 5, 3), where="w")
    assert rows_text(counts) == "7 rows read = 1 kept + 0 duplicate + 6 filtered + 0 quarantined"
    without = count_outcomes(judge(spark, [event()]), path="p", last_day=date(2024, 5, 3))
    assert rows_text(without) == "1 rows read = 1 kept + 0 duplicate + 0 quarantined"


def test_what_an_earlier_night_handed_on_is_counted_apart(spark):
    """The counts name its rows, its duplicates and its rows in quarantine, for example those of a bot."""
    rows = [
        *[event(user, item=str(n), time=f"2024-05-0{n}") for user in ("u", "bot") for n in (1, 2)],
        event("u", item="2", time="2024-05-02"),
        *[event("bot", item=str(n), time="2024-05-03") for n in range(3)],
        event(user=None),
    ]
    handed_on = [(*row[:10], "earlier run", None) for row in rows[:5]]
    counts = count_outcomes(
        judge(spark, handed_on + rows[5:], max_events=2), path="p", last_day=date(2024, 5, 3), carried="earlier run"
    )
    assert [counts[name] for name in ("rows_read", "carried", "kept")] == [9, 5, 2]
    assert (counts["duplicate"], counts["carried_duplicate"]) == (1, 1)
    assert (counts["quarantined"], counts["carried_quarantined"]) == (6, 2)


def test_rows_of_later_days_are_counted_apart_whatever_is_wrong_with_them(spark):
    """So a run of a past day passes its gates if the input goes on for years. A wrong clock stays a fault."""
    rows = [
        event(item="1"),
        event(user=None),
        event(user=None, item=None, time="2024-05-04"),
        event(time="2026-05-04"),
        event(time="2099-05-04"),
        arrived(event(time="2024-05-04"), date(2024, 5, 3)),
    ]
    counts = count_outcomes(judge(spark, rows), path="p", last_day=date(2024, 5, 3))
    assert counts["reasons"] == {"missing_user": 1, "out_of_period": 4}
    assert counts["other_days"] == 2


def test_rows_of_before_the_period_are_counted_apart(spark):
    """Rows before the period are no fault of a long input. The year 1970 is a fault, and so is an earlier run's row."""
    rows = [event(), event(time="2020-05-04"), event(time="2024-04-30 23:59:59"), event(time="1970-01-01")]
    handed_on = (*event(item="2", time="2023-05-04")[:10], "earlier run", None)
    counts = count_outcomes(
        judge(spark, [*rows, handed_on]),
        path="p",
        last_day=date(2024, 5, 3),
        period_start=date(2024, 5, 1),
        carried="earlier run",
    )
    assert counts["reasons"] == {"out_of_period": 4}
    assert counts["other_days"] == 2


def test_no_rows_at_all_are_an_error(spark):
    """An empty input is an error, not an empty table."""
    with pytest.raises(InputError, match="p has no rows"):
        count_outcomes(judge(spark, []), path="p", last_day=date(2024, 5, 3))


@pytest.mark.parametrize(("read", "quarantined", "in_sessions"), [(11, 2, 7), (None, 1, 7), (None, 2, 8)])
def test_a_lost_row_is_an_error(read, quarantined, in_sessions):
    """The row may be lost between the input and the funnel, or between the funnel and the tables."""
    funnel = {"rows_read": 10, "kept": 7, "quarantined": 2}
    check_complete(funnel, read=10, quarantined=2, in_sessions=7)
    check_complete(funnel, read=None, quarantined=2, in_sessions=7)
    with pytest.raises(ContractError, match=r"expected \d+, found \d+\. Rows were lost or doubled"):
        check_complete(funnel, read=read, quarantined=quarantined, in_sessions=in_sessions)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "time",
            {},
            r"no user has 2 interactions before 2024-04-30 \(validation window 2024-04-30 to 2024-05-01, test window"
            r" 2024-05-02 to 2024-05-03\); found 3 interactions from 2024-04-01 .* to 2024-05-03 .*--ds that fits",
        ),
        (
            "time",
            {"first_event": "2024-05-02 08:00:00"},
            r"all events lie in the days that validate and test .*from 2024-05-02 08:00:00 to 2024-05-03 .*"
            r"For data of few days set features\.split\.kind: leave_one_out",
        ),
        ("leave_one_out", {}, r"users with 2 interactions .*at least 4 .*from 2024-04-01 .* UTC"),
        ("time", {"users": 1, "trainable_users": 1}, r"all events are of one user; found 3 .*input\.events\.user"),
        ("leave_one_out", {"users": 3}, r"none of the 3 users has a second interaction; .*an id that a user keeps"),
    ],
)
def test_nothing_to_train_on_is_an_error(kind, changes, message):
    """The error names the windows and the span of the data, and the setting for data of few days."""
    funnel = {"users": 2, "users_without_history": 0, "trainable_users": 0, "interactions": 3} | {
        "first_event": "2024-04-01 08:00:00",
        "last_event": "2024-05-03 09:00:00",
        **changes,
    }
    with pytest.raises(InputError, match=message):
        check_trainable(funnel, kind=kind, last_day=date(2024, 5, 3), validation_days=2, test_days=2)


def test_a_forgotten_user_is_taken_in_no_more(spark):
    """Its rows, broken or not, count under a reason of their own, and nothing of them is stored.

    A broken row of an unknown user becomes a hash. Other users' rows do not change.
    """
    gone = hashlib.sha256(b"u").hexdigest()
    rows = [event(), event(time=None), event("v"), event(corrupt=True), event(None, item="u,v", corrupt=True)]
    judged = clean.with_outcome(
        events_of(spark, rows),
        period_start=None,
        last_day=date(2024, 5, 3),
        max_events_per_user_day=9,
        num_partitions=2,
        forgotten=[gone],
    )
    assert outcomes(judged) == {"forgotten_user": 3, "kept": 1, "corrupt_row": 1}
    line = hashlib.sha256(rows[-1][8].encode()).hexdigest()
    assert {row["raw"] for row in clean.quarantine(judged).collect()} == {"forgotten", f"sha256:{line}"}
    assert [row["user_id"] for row in clean.kept(judged).collect()] == ["v"]
