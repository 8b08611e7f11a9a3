"""Days of events → the last day and the split."""

from collections import Counter
from datetime import date

import pyarrow as pa

from kdlib.onboarding.days import choose_split, period_doubts, period_of, times_of
from kdlib.onboarding.files import File
from kdlib.onboarding.forms import Form
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.sample import Source
from kdlib.onboarding.times import TimeForm

FIRST = 20_000  # days since 1970: 2024-10-04


def split_of(rows: list[tuple[int, int]], **form: object) -> tuple[str, int]:
    """Kind and days of the split for rows of (user, day)."""
    columns = {
        "user": pa.array([str(user) for user, _ in rows]),
        "item": pa.array(["a"] * len(rows)),
        "time": pa.array([str(day * 86_400 + 60) for _, day in rows]),
    }
    source = Source("/e.csv", (File("/e.csv", 1),), Form("csv"), columns, {}, {}, whole=True)
    events = EventsMapping(
        source, user="user", item="item", time_column="time", time=TimeForm("epoch_seconds", **form)  # type: ignore[arg-type]
    )  # fmt: skip
    times = times_of(events)
    period = period_of(times.counts)
    assert period
    split = choose_split(events, times, period)
    return split.kind, split.days


def test_a_wrong_clock_does_not_move_the_last_day():
    """A few events years later are outside the period; the days of a slow start are not."""
    counts = Counter({FIRST - 5: 1, **{FIRST + n: 10_000 for n in range(10)}, FIRST + 900: 3, FIRST - 9_000: 2})
    period = period_of(counts)
    assert period
    assert (period.first, period.last) == (date(2024, 9, 29), date(2024, 10, 13))
    assert (period.strays_before, period.strays_after) == (2, 3)
    assert any("5 events lie outside" in doubt.text for doubt in period_doubts(period, whole=True))


def test_the_last_day_is_not_in_the_future():
    """Days after tomorrow are outside the period, however few the events are; events of the future alone are kept."""
    counts = Counter({FIRST: 3, FIRST + 1: 4, FIRST + 2: 2, FIRST + 3: 1})
    period = period_of(counts, today=date(2024, 10, 4))
    assert period
    assert (period.last, period.strays_after) == (date(2024, 10, 5), 3)
    period = period_of(counts, today=date(2020, 1, 1))
    assert period
    assert (period.last, period.strays_after) == (date(2024, 10, 7), 0)


def test_a_last_day_that_is_cut_off_is_pointed_out():
    """A last day with less than a fifth of the usual events may be cut off."""
    period = period_of(Counter({FIRST: 100, FIRST + 1: 100, FIRST + 2: 19}))
    assert period
    assert any("set ds: 2024-10-05" in doubt.text for doubt in period_doubts(period, whole=True))


def test_a_last_day_of_a_sample_is_not_certain():
    """Where not all rows were read, the last day is to be checked."""
    period = period_of(Counter({FIRST: 100, FIRST + 1: 100}))
    assert period
    assert any("the last day of a sample" in doubt.text for doubt in period_doubts(period, whole=False))


def test_windows_are_as_short_as_the_users_allow():
    """Users that come daily are split by one day, users that come weekly by seven."""
    daily = [(user, FIRST + day) for user in range(40) for day in range(60)]
    weekly = [(user, FIRST + day) for user in range(40) for day in range(60) if (day + user) % 7 == 0]
    assert split_of(daily) == ("time", 1)
    assert split_of(weekly) == ("time", 7)


def test_few_days_and_users_of_one_session_leave_one_out():
    """Data of three days, and users who never come back, are not split by time."""
    assert split_of([(user, FIRST + day) for user in range(40) for day in range(3)])[0] == "leave_one_out"
    assert split_of([(user, FIRST + user % 30) for user in range(90) for _ in range(3)])[0] == "leave_one_out"
