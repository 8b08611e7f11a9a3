from datetime import date

import pytest
from pyspark.sql import functions as F

from kdlib.features.splits import window_starts, with_splits


def split(spark, days, kind):
    """num_train, validation_position and test_position of histories of days in May 2024, at midnight."""
    frame = spark.createDataFrame([(n, row) for n, row in enumerate(days)], "n int, days array<int>")
    time = F.transform("days", lambda day: F.make_timestamp(F.lit(2024), F.lit(5), day, F.lit(0), F.lit(0), F.lit(0)))
    made = with_splits(
        frame.withColumn("event_times", time), kind=kind, last_day=date(2024, 5, 9), validation_days=2, test_days=1
    )
    rows = made.orderBy("n").collect()
    return [(row["num_train"], row["validation_position"], row["test_position"]) for row in rows]


def test_leave_one_out_needs_three_interactions(spark):
    """The last interaction tests and the one before it validates. Two interactions or fewer only train."""
    found = split(spark, [[1, 2, 3, 4], [1, 2, 3], [1, 2], [1], []], "leave_one_out")
    assert found == [(2, 2, 3), (1, 1, 2), (2, None, None), (1, None, None), (0, None, None)]


def test_time_split_cuts_at_midnight(spark):
    """The first interaction in a window is its target, if another precedes it. 7 and 8 May validate, 9 May tests."""
    found = split(spark, [[5, 6, 7, 8, 9, 9], [6, 9], [7, 9], [9, 9], [6], [6, 8], [8, 8], []], "time")
    assert found == [
        (2, 2, 4),  # all three parts
        (1, None, 1),  # nothing in the validation window
        (0, None, 1),  # nothing precedes the validation window, but its interaction precedes the test window
        (0, None, None),  # all in the test window
        (1, None, None),
        (1, 1, None),
        (0, None, None),
        (0, None, None),
    ]


@pytest.mark.parametrize(
    ("last_day", "hours", "utc"),
    [
        # the clocks go forward on 31 March: validation is 30 March, test the 23 hours of the 31st
        (date(2024, 3, 31), [-50, -25, -24.001, -24, -0.001, 0, 22.999], "2024-03-30 23:00:00"),
        # the clocks go back on 27 October: test is its 25 hours
        (date(2024, 10, 27), [-50, -25, -24.001, -24, -0.001, 0, 24.999], "2024-10-26 22:00:00"),
    ],
)
def test_the_windows_begin_at_local_midnight(spark, last_day, hours, utc):
    """In a time zone a window begins where the local day begins, also where the clocks change."""
    frame = spark.range(1).withColumn("start", F.lit(utc).cast("timestamp"))
    seconds = F.array(*(F.lit(hour * 3600) for hour in hours))
    times = F.transform(seconds, lambda one: F.timestamp_seconds(F.unix_seconds("start") + one))
    how = {"kind": "time", "validation_days": 1, "test_days": 1}
    made = with_splits(
        frame.withColumn("event_times", times), last_day=last_day, time_zone="Europe/Berlin", **how
    ).collect()[0]
    assert (made["num_train"], made["validation_position"], made["test_position"]) == (3, 3, 5)


@pytest.mark.parametrize(("validation", "test", "starts"), [(1, 1, (8, 9)), (3, 2, (5, 8))])
def test_the_test_window_ends_with_the_last_day(validation, test, starts):
    """The test window includes the last day, and the validation window lies just before it."""
    found = window_starts(last_day=date(2024, 5, 9), validation_days=validation, test_days=test)
    assert tuple(day.day for day in found) == starts
