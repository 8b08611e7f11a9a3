"""Events that arrive day by day: which files a night reads, when an event is too late, what an earlier night hands on.

With `{day}` in the input's path, a night starts from the clean events of an earlier one and reads the new days, and again
those in which late events may have arrived since. What comes out is what reading everything would give.
"""

import re
from collections.abc import Collection, Iterable
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.config import DAY, EVENT_TYPES

DAY_PATTERN = "????-??-??"
"""A glob of any day."""


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


def not_yet_read(events: DataFrame, *, before: date) -> DataFrame:
    """Without what arrived before a date and is of before it: the earlier night has judged it, and hands on what it kept.

    Args:
      events: columns as in `kdlib.features.events`.
      before: from `carried_until`.
    """
    first = F.lit(before.isoformat()).cast("date")
    return events.filter((F.col("arrived") >= first) | (F.to_date("event_time") >= first))


def carried_over(clean_events: DataFrame, like: DataFrame, *, before: date, source: str) -> DataFrame:
    """An earlier night's clean events of the days before a date, in the form of this night's.

    Args:
      clean_events: CLEAN_EVENTS.
      like: this night's events, columns as in `kdlib.features.events`.
      before: from `carried_until`.
      source: stands for the file of their own.
    """
    kept = clean_events.filter(F.to_date("event_time") < F.lit(before.isoformat()).cast("date"))
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


def _name(path: str) -> str:
    """A regular expression of the files' names with the day as its first group: the path's part that holds `{day}`, and on."""
    before, _, after = path.partition(DAY)
    parts = [
        re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for part in (before.rpartition("/")[2], after)
    ]
    return rf"^.*/{parts[0]}(\d{{4}}-\d{{2}}-\d{{2}}){parts[1].removesuffix('/')}(?:/.*)?$"
