"""Events that arrive day by day: which files a night reads, when an event is too late, what an earlier night hands on.

With `{day}` in the input's path, a night starts from the clean events of an earlier one and reads the new days, and again
those in which late events may have arrived since. What comes out is what reading everything would give, but for a day whose
files come later than that: its rows are quarantined by the next night, once.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.config.data import DAY, EVENT_TYPES

DAY_PATTERN = "????-??-??"
"""A glob of any day."""
Stretch = tuple[date, date]
"""Days in a row: the first and the last."""

_ONE_DAY = timedelta(days=1)
_NAMED = 5
"""So many stretches of days are named in a line."""


@dataclass(frozen=True)
class Days:
    """The days of arrival of a night, in order."""

    to_read: list[date]
    late: list[date]
    """Of them, those whose files came when earlier nights had taken their events as complete: all their rows are too late."""
    gaps: list[Stretch]
    """Without any file: since the earlier night, or on a first one since the first day that has files."""
    unread: list[Stretch]
    """Of the period up to the night, those of which neither it nor the nights that it goes on from have read a file."""


def day_of(path: str, file: str) -> date | None:
    """The day that a file's name holds in place of `{day}`; None where it holds none.

    Args:
      path: the input's path, with `{day}`.
      file: a file's full path or URL.
    """
    found = re.match(_name(path), file)
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def path_of_days(path: str, days: Collection[date]) -> str:
    """The path of all those days' files, as Spark understands it."""
    return path.replace(DAY, "{" + ",".join(day.isoformat() for day in sorted(days)) + "}")


def arrived(path: str, file: Column) -> Column:
    """The day on which an event arrived (a date), from the file that it came in."""
    return F.regexp_extract(file, _name(path), 1).try_cast("date")


def carried_until(earlier_day: date, *, late_days: int) -> date:
    """The first day whose events are read again: an earlier night's events before it are complete.

    Args:
      earlier_day: the earlier night.
      late_days: how late an event may arrive.
    """
    return earlier_day + timedelta(days=1 - late_days)


def days_to_read(days: Iterable[date], *, last_day: date, carried_before: date | None) -> list[date]:
    """Of the days that there are, those to read, in order.

    Args:
      days: with files.
      last_day: the run's day.
      carried_before: from `carried_until`; None: nothing is carried over. Clocks differ: an event may lie a day after its
        arrival, so the day before it is read, too.
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
    """What a night reads, and what is missing.

    How far back a day may lie and still be read, as late, is the period: from `period_start`, or where there is none from
    the first day that had files on the first night. Days before it are ignored once there is a night to go on from.

    Args:
      there: the days with files, the run's day among them.
      last_day: the run's day.
      period_start: first day that counts; None: no bound.
      earlier_day: the night that this one goes on from; None on a first night, which reads all days up to its own.
      earlier_unread: that night's `Days.unread`; a night that has not written it down has read all days up to its own.
      carried_before: from `carried_until`; None on a first night.
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
    """What to tell the person: days without files, and files that came too late.

    Args:
      days: of the night.
      path: the input's path, with `{day}`.
      late_days: how late an event may arrive.
    """
    lines = []
    if days.gaps:
        lines.append(f"no file for {_named(days.gaps)} at {path} (input.events.path): has the export of each day run?")
    if days.late:
        lines.append(
            f"the files for {_named([(day, day) for day in days.late])} at {path} came after late_days ({late_days}): all"
            " their rows are quarantined"
        )
    return lines


def with_late_files(events: DataFrame, late: Sequence[date]) -> DataFrame:
    """With all events in late days' files arriving at the end of time, so that whenever they happened they are too late.

    Args:
      events: columns as in `kdlib.features.events`.
      late: from `days_of_night`.
    """
    by_name = F.col("arrived")
    return events.withColumn("arrived", F.when(by_name.isin(*late), F.lit(date.max)).otherwise(by_name))


def not_yet_read(events: DataFrame, *, before: date) -> DataFrame:
    """Without what arrived before a date and is of before it: the earlier night has judged it, and hands on what it kept.

    Args:
      events: from `with_late_files`, whose late ones stay: no earlier night has seen them.
      before: from `carried_until`.
    """
    first = F.lit(before.isoformat()).cast("date")
    # a file whose name has no day by which to tell is read whole: better twice than never
    new = F.coalesce(F.col("arrived") >= first, F.lit(True))
    return events.filter(new | (F.to_date("event_time") >= first))


def carried_over(clean_events: DataFrame, like: DataFrame, *, before: date, source: str) -> DataFrame:
    """An earlier night's clean events of the days before a date, in the form of this night's.

    Without those that arrived on that date or later, which `not_yet_read` reads again.

    Args:
      clean_events: CLEAN_EVENTS. Nights of before it said when an event arrived hand on those, too: they count as duplicates.
      like: this night's events, columns as in `kdlib.features.events`.
      before: from `carried_until`.
      source: stands for the file of their own.
    """
    first = F.lit(before.isoformat()).cast("date")
    kept = clean_events.filter(F.to_date("event_time") < first)
    if "arrived" in kept.columns:
        kept = kept.filter(F.coalesce(F.col("arrived") < first, F.lit(True)))
    columns = {
        "corrupt": F.lit(False),
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
    """The stretches from first to last, both counted, in which none of the days lies."""
    found, start = [], first
    for day in [*sorted(day for day in days if first <= day <= last), last + _ONE_DAY]:
        if start < day:
            found.append((start, day - _ONE_DAY))
        start = day + _ONE_DAY
    return found


def _named(stretches: Sequence[Stretch]) -> str:
    """`2026-11-05, 2026-11-07 to 2026-11-09`; of many the first ones, and how many more there are."""
    named = [str(first) if first == last else f"{first} to {last}" for first, last in stretches[:_NAMED]]
    return ", ".join(named) + (f" and {len(stretches) - _NAMED} more" if len(stretches) > _NAMED else "")


def _name(path: str) -> str:
    """A regular expression of the files' names with the day as its first group: the path's part that holds `{day}`, and on."""
    before, _, after = path.partition(DAY)
    outside = re.sub(r"\{[^{}]*\}", lambda braces: "x" * len(braces[0]), before)  # a folder may end within braces
    start = outside.rfind("/") + 1
    return rf"^.*/{_glob(before[start:])}(\d{{4}}-\d{{2}}-\d{{2}}){_glob(after.removesuffix('/'))}(?:/.*)?$"


def _glob(pattern: str) -> str:
    """A regular expression, for Python and Java, of what a part of a glob matches; its own signs may stand in URL code."""
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
