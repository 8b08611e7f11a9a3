"""Days of a time zone: a day begins at local midnight, and has 23 or 25 hours where the clocks change.

Tables hold moments in UTC, and days by their date. Only here and in `kdlib.features.times`, which has the same for Spark,
one becomes the other.
"""

from datetime import UTC as UTC_CLOCK
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

UTC = "UTC"
"""The time zone of a run config that names none."""
SECONDS_A_DAY = 86_400
MICROSECONDS_A_DAY = 1_000_000 * SECONDS_A_DAY
"""Of a day of 24 hours, as ages are measured in."""


def day_start(day: date, time_zone: str = UTC) -> datetime:
    """The first moment of a day, in UTC.

    Args:
      day: the local date.
      time_zone: an IANA name.
    """
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone)).astimezone(UTC_CLOCK)


def day_end(day: date, time_zone: str = UTC) -> datetime:
    """The first moment of the next day, in UTC."""
    return day_start(day + timedelta(days=1), time_zone)


def day_number(day: date) -> int:
    """A day in days since 1970."""
    return (day - date(1970, 1, 1)).days


def days_of(times_N: np.ndarray, time_zone: str = UTC) -> np.ndarray:
    """The days of moments, datetime64[D].

    Args:
      times_N: datetime64, in UTC.
      time_zone: an IANA name.
    """
    days_N = times_N.astype("datetime64[D]")
    if time_zone == UTC or not len(days_N):
        return days_N
    days = np.arange(days_N.min() - 1, days_N.max() + 2)
    return days[np.searchsorted(starts_of(days, time_zone), times_N, side="right") - 1]


def starts_of(days_N: np.ndarray, time_zone: str = UTC) -> np.ndarray:
    """The first moments of days, datetime64[us] in UTC.

    Args:
      days_N: datetime64[D], local dates.
      time_zone: an IANA name.
    """
    if time_zone == UTC:
        return days_N.astype("datetime64[us]")
    distinct, places = np.unique(days_N, return_inverse=True)
    starts = [day_start(day, time_zone).replace(tzinfo=None) for day in distinct.tolist()]
    return np.array(starts, "datetime64[us]")[places]
