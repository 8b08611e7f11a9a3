"""The days of the events: the last day, days far outside, and the split that fits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from pandas.util import hash_array

from kdlib.onboarding.arrow import pc
from kdlib.onboarding.columns import Doubt
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.scan import Scan
from kdlib.onboarding.times import ISO, day_of, seconds_of

WINDOWS = (1, 2, 3, 7, 14, 28)
"""Lengths of the validation and the test window to choose from, in days."""
LEAST_USERS = 30
"""With fewer test users a run is not promoted (`gates.min_test_users`)."""
ENOUGH_USERS = 300
"""So many users in each window tell a good model from a bad one."""
_SECONDS_A_DAY = 86_400
_FEW_DAYS = 4
"""Data of fewer days is not split by time."""
MOST_TIMED = 2_000_000
"""The split is chosen by the users of so many rows."""
_STRAY = 0.0005
"""So small a share of the events at either end may be outside the period."""


@dataclass(frozen=True)
class Period:
    """The days of the events."""

    first: date
    last: date
    strays_before: int
    strays_after: int
    """Events on days far outside: a clock was wrong."""
    on_last_day: int
    usual: float
    """Median number of events a day in the week before the last day."""


@dataclass(frozen=True)
class Split:
    """Which interactions validate and test."""

    kind: str
    days: int = 1
    """Length of each window, for the kind `time`."""
    why: str = ""


def seconds_in(columns: Mapping[str, pa.Array], events: EventsMapping) -> np.ndarray:
    """The times of rows in seconds since 1970; NaN where a row has no time."""
    assert events.time
    if len(events.day_columns) == 3:
        parts = [pc.replace_substring_regex(columns[name], r"\.0+$", "") for name in events.day_columns]
        widths = zip(parts, (4, 2, 2), strict=True)
        days = pc.binary_join_element_wise(*(pc.utf8_lpad(part, n, "0") for part, n in widths), "-")
        return seconds_of(days, ISO)
    name = events.day_columns[0] if events.day_columns else events.time_column
    assert name
    if events.time.format == "day_numbers":
        days = pc.replace_substring_regex(columns[name], r"\.0+$", "")
        days = pc.if_else(pc.match_substring_regex(days, r"^\d{1,5}$"), days, pa.scalar(None, pa.string()))
        return days.cast(pa.float64()).to_numpy(zero_copy_only=False) * _SECONDS_A_DAY
    form = events.time if events.time.format != "day_and_order" else ISO
    return seconds_of(columns[name], form)


@dataclass
class Times:
    """What the scan of a source says about its days and users."""

    counts: Counter[int]
    """Days since 1970 → events."""
    users: np.ndarray
    """Hashes of the users, uint64, of the rows that have a user and a time."""
    seconds: np.ndarray
    """Times of the same rows, seconds since 1970."""
    all_rows: bool
    """`counts` are of all rows."""
    all_users: bool
    """`users` and `seconds` are of all rows."""


def times_of(events: EventsMapping) -> Times:
    """The days of all events, as far as a scan may read, and the users of the first `MOST_TIMED` ones."""
    source = events.source
    scan = Scan(source, [*(events.day_columns or [events.time_column or ""]), events.people or ""])
    counts: Counter[int] = Counter()
    users, seconds, timed = [], [], 0
    for columns in [source.columns] if source.whole else scan:
        found = seconds_in(columns, events)
        there = ~np.isnan(found)
        days, numbers = np.unique(np.floor_divide(found[there], _SECONDS_A_DAY), return_counts=True)
        counts.update(dict(zip(days.astype(int).tolist(), numbers.tolist(), strict=True)))
        people = columns.get(events.people or "")
        if people is not None and timed < MOST_TIMED:
            there &= pc.is_valid(people).to_numpy(zero_copy_only=False)
            users.append(hash_array(people.to_numpy(zero_copy_only=False)[there]))
            seconds.append(found[there])
            timed += len(found)
    if not users:
        return Times(counts, np.array([], np.uint64), np.array([]), scan.whole, False)
    all_users = source.whole or (scan.whole and timed == scan.num_rows)
    return Times(counts, np.concatenate(users), np.concatenate(seconds), source.whole or scan.whole, all_users)


def period_of(counts: Counter[int], *, today: date | None = None) -> Period | None:
    """The period of the events without days far outside; None without events.

    A day is far outside if it lies beyond a gap, and all days beyond the gap together have next to no events. Days
    after tomorrow are outside, too, unless all days are.
    """
    if not counts:
        return None
    tomorrow = ((today or date.today()) - date(1970, 1, 1)).days + 1
    days = np.array(sorted(counts))
    numbers = np.array([counts[day] for day in days])
    if days[0] <= tomorrow < days[-1]:
        known = Counter({day: number for day, number in counts.items() if day <= tomorrow})
        found = period_of(known, today=today)
        assert found
        return replace(found, strays_after=found.strays_after + int(numbers[days > tomorrow].sum()))
    before = np.cumsum(numbers) - numbers
    after = numbers.sum() - before - numbers
    allowed = _STRAY * numbers.sum()
    inner = days[(before + numbers > allowed) & (after + numbers > allowed)]
    first, last = inner[0], inner[-1]
    span = last - first + 1
    for day in days[days < first][::-1]:  # a new shop has few events in its first weeks
        first = day if first - day <= max(7, span) else first
    for day in days[days > last]:
        last = day if day - last <= max(3, span // 10) else last
    week = [counts[day] for day in range(last - 7, last) if day >= first]
    return Period(
        day_of(float(first) * _SECONDS_A_DAY),
        day_of(float(last) * _SECONDS_A_DAY),
        int(numbers[days < first].sum()),
        int(numbers[days > last].sum()),
        counts[last],
        float(np.median(week)) if week else 0.0,
    )


def choose_split(events: EventsMapping, times: Times, period: Period) -> Split:
    """The split for the events, by their users.

    The windows are as short as possible, but some users must have an interaction in each of them and others before.
    """
    if not events.has_times:
        return Split("leave_one_out", why="the days are made up")
    span = (period.last - period.first).days + 1
    if span < _FEW_DAYS:
        return Split("leave_one_out", why=f"the events span {span} day{'s' if span > 1 else ''} only")
    users, seconds = times.users, times.seconds
    end = ((period.last - date(1970, 1, 1)).days + 1) * _SECONDS_A_DAY
    reaches = seconds[seconds < end].max(initial=0) >= end - 7 * _SECONDS_A_DAY
    if not times.all_users and (len(events.source.files) > 1 or not reaches):
        return Split("time")  # only parts of the users' events were seen
    _, numbers = np.unique(users, return_counts=True)
    several = int((numbers > 1).sum())
    enough, most = max(LEAST_USERS, 0.02 * several, min(ENOUGH_USERS, 0.3 * several)), 0
    for days in WINDOWS:
        if 4 * 2 * days > span:
            break
        test, validation = (end - n * days * _SECONDS_A_DAY for n in (1, 2))
        judged = [
            np.intersect1d(
                users[seconds < start], users[(seconds >= start) & (seconds < start + days * _SECONDS_A_DAY)]
            )
            for start in (validation, test)
        ]
        most = max(most, *map(len, judged))
        if min(map(len, judged)) >= enough:
            return Split("time", days, f"{len(judged[1]):,} users have events in the last {days} days and before")
    return Split(
        "leave_one_out",
        why=f"at most {most:,} users have events both in the last days and before them; a split by time needs {enough:,.0f}",
    )


def period_doubts(period: Period, *, whole: bool) -> list[Doubt]:
    """What to check about the last day."""
    doubts = []
    if not whole:
        doubts.append(
            Doubt(
                "ds", f"{period.last} is the last day of a sample. Set ds to the last day of all events if it is later"
            )
        )
    if period.strays_after or period.strays_before:
        doubts.append(
            Doubt(
                "ds",
                f"{period.strays_before + period.strays_after:,} events lie outside {period.first} to {period.last} and"
                " are quarantined, as if a clock were wrong",
            )
        )
    if period.on_last_day < 0.2 * period.usual:
        day = period.last - timedelta(days=1)
        doubts.append(
            Doubt(
                "ds",
                f"{period.last} has {period.on_last_day:,} events, the days before about {period.usual:,.0f}: if the"
                f" last day is cut off, set ds: {day}",
            )
        )
    return doubts
