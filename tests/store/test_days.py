"""Days of a time zone on the two days of the year on which the clocks change."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from kdlib.store.days import day_end, day_number, day_start, days_of, starts_of


@pytest.mark.parametrize(
    ("day", "zone", "start", "hours"),
    [
        (date(2024, 3, 30), "Europe/Berlin", "2024-03-29T23:00", 24),
        (date(2024, 3, 31), "Europe/Berlin", "2024-03-30T23:00", 23),
        (date(2024, 4, 1), "Europe/Berlin", "2024-03-31T22:00", 24),
        (date(2024, 10, 27), "Europe/Berlin", "2024-10-26T22:00", 25),
        (date(2024, 11, 3), "America/New_York", "2024-11-03T04:00", 25),
        (date(2024, 3, 31), "Asia/Beirut", "2024-03-30T22:00", 23),  # this day begins at 01:00
        (date(2024, 5, 1), "Asia/Kolkata", "2024-04-30T18:30", 24),
        (date(2024, 3, 31), "UTC", "2024-03-31T00:00", 24),
    ],
)
def test_a_day_begins_at_local_midnight(day, zone, start, hours):
    """A day has 23 or 25 hours where the clocks change, and ends where the next one begins."""
    assert day_start(day, zone) == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert (day_end(day, zone) - day_start(day, zone)).total_seconds() == hours * 3600


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Beirut", "Pacific/Auckland"])
def test_the_day_of_a_moment_is_the_day_that_has_begun_last(zone):
    """Every half hour of a year has the local date that the clocks show, and no day ends before it begins."""
    times = np.arange("2023-12-31", "2025-01-02", np.timedelta64(30, "m"), dtype="datetime64[us]")
    days = days_of(times, zone)
    assert (np.diff(days).astype(int) >= 0).all()
    assert (starts_of(days, zone) <= times).all()
    assert (starts_of(days + 1, zone) > times).all()
    some = np.arange(0, len(times), 101)
    local = [time.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).date() for time in times[some].tolist()]
    assert days[some].tolist() == local


def test_no_moments_have_no_days():
    """An empty array stays empty; the number of a day counts from 1970."""
    assert len(days_of(np.zeros(0, "datetime64[us]"), "Europe/Berlin")) == 0
    assert len(starts_of(np.zeros(0, "datetime64[D]"), "Europe/Berlin")) == 0
    assert (day_number(date(1970, 1, 1)), day_number(date(2024, 3, 31))) == (0, 19_813)
