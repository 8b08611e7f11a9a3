"""Events that arrive day by day: which files a run reads, which events are late, what an earlier run passes on.

With `{day}` in the input's path, a run starts from the clean events of an earlier run. It reads the files of the new
days. It reads the files of the last days again, since late events may have arrived in them. The result is the same as
from reading all files, with one exception: a file that comes even later. The next run reads such a file once and
quarantines all its rows.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.config.data import DAY, EVENT_TYPES
from kdlib.features.columns import is_long
from kdlib.features.times import local_date
from kdlib.store.days import UTC

DAY_PATTERN = "????-??-??"
"""A glob that matches any day."""
Stretch = tuple[date, date]
"""Consecutive days: the first and the last."""

_ONE_DAY = timedelta(days=1)
_NAMED = 5
"""How many stretches of days a log line names."""


@dataclass(frozen=True)
class Days:
    """The arrival days of a run, in order."""

    to_read: list[date]
    late: list[date]
    """The days in `to_read` whose files came after an earlier run had closed the day: all their rows are too late."""
    gaps: list[Stretch]
    """Days without a file: since the earlier run, or, in a first run, since the first day that has files."""
    unread: list[Stretch]
    """Days of the period whose files neither this run nor the runs that it continues have read."""


def day_of(path: str, file: str) -> date | None:
    """The day in a file's name, where the path has `{day}`; None if the name has no day there.

    Args:
      path: the input's path, with `{day}`.
      file: the full path or URL of a file.
    """
    found = re.match(_name(path), file)
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def path_of_days(path: str, days: Collection[date]) -> str:
    """The path of the files of all these days, as a glob for Spark."""
    return path.replace(DAY, "{" + ",".join(day.isoformat() for day in sorted(days)) + "}")


def arrived(path: str, file: Column) -> Column:
    """The day on which an event arrived (a date), from the name of its file."""
    return F.regexp_extract(file, _name(path), 1).try_cast("date")


def carried_until(earlier_day: date, *, late_days: int) -> date:
    """The first day whose events this run reads again. Before this day, the earlier run's events are complete.

    Args:
      earlier_day: the day of the earlier run.
      late_days: how many days after it happened an event may arrive.
    """
    return earlier_day + timedelta(days=1 - late_days)


def days_to_read(days: Iterable[date], *, last_day: date, carried_before: date | None) -> list[date]:
    """The days to read, out of the days that have files, in order.

    Args:
      days: days that have files.
      last_day: the run's day.
      carried_before: from `carried_until`; None: nothing is taken over. The run also reads the day before it: clocks
        differ, so an event may lie a day after its arrival.
    """
    first = carried_before - timedelta(days=1) if carried_before else date.min
    return sorted(day for day in days if first <= day <= last_day)


def days_of_night(
    there: Collection[date],
    *,
    last_day: date,
    period_start: date | None,
    earlier_day: date | None,
    earlier_unread: Sequence[Stretch],
    carried_before: date | None,
) -> Days:
    """The days that a run reads, and the days that are missing.

    If the file of a missing day comes later, a run reads it, as late. This holds for the days of the period. The period
    begins on `period_start`; without it, on the first day that had a file at the first run. A run that continues an
    earlier run ignores files of days before the period.

    Args:
      there: the days that have files. The run's day is among them.
      last_day: the run's day.
      period_start: first day that counts; None: no bound.
      earlier_day: the day of the run that this run continues. None: this is a first run, which reads all days up to its
        own.
      earlier_unread: `Days.unread` of the earlier run. Empty if that run did not record it: it has read all days up to
        its own.
      carried_before: from `carried_until`; None in a first run.
    """
    first = earlier_day + _ONE_DAY if earlier_day else period_start or min(there)
    new = _without(there, first, last_day)
    late = sorted(
        day
        for day in there
        if carried_before and day < carried_before and any(start <= day <= end for start, end in earlier_unread)
    )
    read = {*days_to_read(there, last_day=last_day, carried_before=carried_before), *late}
    return Days(
        to_read=sorted(read),
        late=late,
        gaps=[stretch for stretch in new if earlier_day or stretch[0] > min(there)],
        unread=[left for stretch in earlier_unread for left in _without(read, *stretch)] + new,
    )


def arrival_lines(days: Days, *, path: str, late_days: int) -> list[str]:
    """Warnings about days without files and about files that came too late.

    Args:
      days: from `days_of_night`.
      path: the input's path, with `{day}`.
      late_days: how many days after it happened an event may arrive.
    """
    lines = []
    if days.gaps:
        lines.append(
            f"no file for {_named(days.gaps)} at {path} (input.events.path). Check that the export of each day has run"
        )
    if days.late:
        lines.append(
            f"the files for {_named([(day, day) for day in days.late])} at {path} came later than late_days"
            f" ({late_days}) allows. All their rows are quarantined"
        )
    return lines


def with_late_files(events: DataFrame, late: Sequence[date]) -> DataFrame:
    """Set the arrival of all events in late files to the last possible date: they are too late at any event time.

    Args:
      events: columns as in `kdlib.features.events`.
      late: from `days_of_night`.
    """
    by_name = F.col("arrived")
    return events.withColumn("arrived", F.when(by_name.isin(*late), F.lit(date.max)).otherwise(by_name))


def not_yet_read(events: DataFrame, *, before: date, time_zone: str = UTC) -> DataFrame:
    """Drop the events that the earlier run has judged: events from before a date that also arrived before it.

    Args:
      events: from `with_late_files`. Events in late files stay: no earlier run has seen them.
      before: from `carried_until`.
      time_zone: of the days.
    """
    first = F.lit(before.isoformat()).cast("date")
    # a file without a day in its name is read whole: reading an event twice is harmless, missing it is not
    new = F.coalesce(F.col("arrived") >= first, F.lit(True))
    return events.filter(new | (local_date(F.col("event_time"), time_zone) >= first))


def carried_over(
    clean_events: DataFrame, like: DataFrame, *, before: date, source: str, time_zone: str = UTC
) -> DataFrame:
    """An earlier run's clean events of the days before a date, with the columns of this run's events.

    Events that arrived on that date or later are left out, because `not_yet_read` keeps them among this run's events.

    Args:
      clean_events: CLEAN_EVENTS. Old partitions have no arrival day. All their events are taken over, and copies that
        are read again count as duplicates.
      like: this run's events, columns as in `kdlib.features.events`.
      before: from `carried_until`.
      source: value of `file` for these events.
      time_zone: of the days.
    """
    first = F.lit(before.isoformat()).cast("date")
    kept = clean_events.filter(local_date(F.col("event_time"), time_zone) < first)
    if "arrived" in kept.columns:
        kept = kept.filter(F.coalesce(F.col("arrived") < first, F.lit(True)))
    columns = {
        "corrupt": F.lit(False),
        "filtered": F.lit(False),
        "long_id": is_long(*map(F.col, ("user_id", "session_id", "item_id", "event_id"))),
        "event_type": F.element_at(F.array(*map(F.lit, EVENT_TYPES)), F.col("event_type").cast("int") + 1),
        "time_given": F.lit(True),
        "file": F.lit(source),
    }
    return kept.select(
        *(
            columns.get(field.name, F.col(field.name) if field.name in kept.columns else F.lit(None))
            .cast(field.dataType)
            .alias(field.name)
            for field in like.schema
        )
    )


def _without(days: Collection[date], first: date, last: date) -> list[Stretch]:
    """The stretches between first and last, both included, that contain none of the days."""
    found, start = [], first
    for day in [*sorted(day for day in days if first <= day <= last), last + _ONE_DAY]:
        if start < day:
            found.append((start, day - _ONE_DAY))
        start = day + _ONE_DAY
    return found


def _named(stretches: Sequence[Stretch]) -> str:
    """`2026-11-05, 2026-11-07 to 2026-11-09`. Names the first stretches and counts the rest: `and 2 more`."""
    named = [str(first) if first == last else f"{first} to {last}" for first, last in stretches[:_NAMED]]
    return ", ".join(named) + (f" and {len(stretches) - _NAMED} more" if len(stretches) > _NAMED else "")


def _name(path: str) -> str:
    """A regular expression for file names, from the path's part with `{day}` on. Its first group is the day."""
    before, _, after = path.partition(DAY)
    outside = re.sub(r"\{[^{}]*\}", lambda braces: "x" * len(braces[0]), before)  # braces may contain a /
    start = outside.rfind("/") + 1
    return rf"^.*/{_glob(before[start:])}(\d{{4}}-\d{{2}}-\d{{2}}){_glob(after.removesuffix('/'))}(?:/.*)?$"


def _glob(pattern: str) -> str:
    """A regular expression, for Python and Java, of part of a glob.

    A file's name may hold special characters in URL code.
    """
    signs = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", "[": "[", "]": "]"}
    found, braces = "", 0
    for place, sign in enumerate(pattern):
        braces += (sign == "{") - (sign == "}")
        if sign in "!^" and pattern[place - 1 : place] == "[":
            found += "^"
        elif sign == "-" or (sign == "," and braces):
            found += {"-": "-", ",": "|"}[sign]
        elif sign in signs:
            found += signs[sign]
        else:
            found += re.escape(sign) if sign.isalnum() or sign in "/._=" else f"(?:{re.escape(sign)}|%{ord(sign):02X})"
    return found
