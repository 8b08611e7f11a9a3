"""Which days' files a run reads, reports as missing, takes as too late, and leaves to later runs."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta

import pytest
from pyspark.sql import functions as F

from kdlib.features.arrivals import (
    Days,
    Stretch,
    arrival_lines,
    arrived,
    carried_over,
    carried_until,
    day_of,
    days_of_night,
    not_yet_read,
    with_late_files,
)

LATE_DAYS = 3


def day(number: int) -> date:
    return date(2024, 5, 1) + timedelta(days=number - 1)


def numbers(days: Iterable[date]) -> list[int]:
    return [(one - day(1)).days + 1 for one in days]


def ends(stretches: Iterable[Stretch]) -> list[list[int]]:
    return [numbers(stretch) for stretch in stretches]


def days_of_run(
    there: Iterable[int],
    last: int,
    *,
    earlier: int | None = None,
    unread: Iterable[tuple[int, int]] = (),
    start: int | None = None,
) -> Days:
    return days_of_night(
        set(map(day, there)),
        last_day=day(last),
        period_start=day(start) if start else None,
        earlier_day=day(earlier) if earlier else None,
        earlier_unread=[(day(first), day(end)) for first, end in unread],
        carried_before=carried_until(day(earlier), late_days=LATE_DAYS) if earlier else None,
    )


def test_a_first_night_names_the_days_between_its_files_and_keeps_the_periods_as_unread() -> None:
    """Days before the first file are unread, but not a gap.

    Days before the period and after the run's day do not count.
    """
    found = days_of_run([3, 4, 7, 9], 7, start=1)
    assert (numbers(found.to_read), found.late) == ([3, 4, 7], [])
    assert (ends(found.gaps), ends(found.unread)) == ([[5, 6]], [[1, 2], [5, 6]])
    assert ends(days_of_run([1, 4], 4, start=2).gaps) == [[2, 3]]
    assert ends(days_of_run([2, 4], 4).unread) == [[3, 3]]  # without a start of the period: since the first file
    assert days_of_run([2, 3, 4], 4).unread == []


def test_a_later_night_names_the_days_since_the_earlier_one() -> None:
    """Gaps that the earlier run has reported are not reported again."""
    found = days_of_run([*range(1, 5), 6, 7, 10], 10, earlier=7, unread=[(5, 5)])
    assert (ends(found.gaps), ends(found.unread)) == ([[8, 9]], [[5, 5], [8, 9]])
    assert days_of_run([10, 11], 11, earlier=10).gaps == []  # files of old days may be gone


def test_a_day_that_comes_after_the_look_back_is_read_once_as_late() -> None:
    """The file of day 5 comes on day 10. The run after it no longer counts day 5 as unread."""
    there = set(range(1, 11))
    found = days_of_run(there, 10, earlier=9, unread=[(5, 5)])
    assert (numbers(found.to_read), numbers(found.late), found.unread) == ([5, *range(6, 11)], [5], [])
    after = days_of_run(there | {11}, 11, earlier=10, unread=[])
    assert (numbers(after.to_read), after.late) == (list(range(7, 12)), [])


def test_what_is_left_of_a_stretch_stays_unread() -> None:
    """Of the unread days 2 to 7, days 3, 6 and 7 now have files; only day 3 is too late. Day 1 was never missing."""
    found = days_of_run([1, 3, *range(6, 10)], 9, earlier=8, unread=[(2, 7)])
    assert (numbers(found.late), numbers(found.to_read)) == ([3], [3, 6, 7, 8, 9])
    assert ends(found.unread) == [[2, 2], [4, 5]]


@pytest.mark.parametrize(("last", "late"), [(6, []), (7, []), (8, []), (9, [5])])
def test_a_day_is_late_from_the_night_on_whose_events_of_it_are_carried_over(last: int, late: list[int]) -> None:
    """Before that run, day 5 is read like any other day. At the edge, where the run reads it anyway, it is late."""
    found = days_of_run(range(1, last + 1), last, earlier=last - 1, unread=[(5, 5)])
    assert (5 in numbers(found.to_read), numbers(found.late), found.unread) == (True, late, [])


def test_a_night_without_the_record_has_read_all_days_up_to_its_own() -> None:
    """An old file that was not missing is not read again."""
    found = days_of_run(range(1, 11), 10, earlier=9)
    assert (numbers(found.to_read), found.late, found.unread) == ([*range(6, 11)], [], [])


def test_gaps_and_late_files_are_one_line_each() -> None:
    """A line names a stretch by its ends and at most five stretches. Without gaps and late files there is no line."""

    def lines(found: Days) -> list[str]:
        return arrival_lines(found, path="/x/{day}", late_days=LATE_DAYS)

    assert lines(days_of_run([1, 2], 2)) == []
    assert lines(days_of_run([4, 6, 10], 10, earlier=9, unread=[(4, 5)])) == [
        "the files for 2024-05-04 at /x/{day} came later than late_days (3) allows. All their rows are quarantined"
    ]
    assert lines(days_of_run([4, 6, 10], 10)) == [
        "no file for 2024-05-05, 2024-05-07 to 2024-05-09 at /x/{day} (input.events.path)."
        " Check that the export of each day has run"
    ]
    assert (
        "2024-05-02, 2024-05-04, 2024-05-06, 2024-05-08, 2024-05-10 and 2 more at"
        in lines(days_of_run(range(1, 17, 2), 15))[0]
    )


def test_a_late_files_rows_all_arrive_too_late(spark) -> None:
    """Rows without a time too, which the earlier run has not judged. Rows of other files keep their arrival."""
    rows = spark.createDataFrame(
        [(day(5), "2024-05-05 10:00:00"), (day(5), None), (day(6), "2024-05-05 10:00:00"), (day(8), None)],
        "arrived date, time string",
    ).withColumn("event_time", F.col("time").cast("timestamp"))

    def arrivals(late: list[date]) -> list[tuple[date, bool]]:
        found = not_yet_read(with_late_files(rows, late), before=day(7)).collect()
        return sorted((row["arrived"], row["time"] is None) for row in found)

    assert arrivals([day(5)]) == [(day(8), True), (date.max, False), (date.max, True)]
    assert arrivals([]) == [(day(8), True)]


def test_an_event_is_carried_over_or_read_again_and_not_both(spark) -> None:
    """Of events before day 5, those that arrived before it are carried over and the others are read again.

    Older tables have no arrival: all their events are carried over.
    """
    like = "event_time timestamp, arrived date, file string, corrupt boolean, time_given boolean, event_type string"
    rows = [(day(3), day(3)), (day(4), day(5)), (day(4), day(6)), (day(5), day(5)), (day(4), None)]
    clean = spark.createDataFrame(
        [(datetime(one.year, one.month, one.day, 9), came, 0) for one, came in rows],
        "event_time timestamp, arrived date, event_type tinyint",
    )
    events = spark.createDataFrame([], like)

    def carried(table) -> list:
        found = carried_over(table, events, before=day(5), source="s").collect()
        return [(row["event_time"].date(), row["arrived"]) for row in found]

    assert carried(clean) == [rows[0], rows[4]]
    assert carried(clean.drop("arrived")) == [(day(number), None) for number in (3, 4, 4, 4)]
    again = not_yet_read(clean, before=day(5)).collect()
    assert [(row["event_time"].date(), row["arrived"]) for row in again] == [rows[1], rows[2], rows[3], rows[4]]


def test_an_id_that_is_carried_over_is_judged_by_its_length(spark) -> None:
    """The earlier run may be from before ids had a limit."""
    ids = "user_id string, session_id string, item_id string, event_id string"
    rows = [(datetime(2024, 5, 3, 9), "u", None, item, None, 0) for item in ("a", "a" * 257)]
    clean = spark.createDataFrame(rows, f"event_time timestamp, {ids}, event_type tinyint")
    events = spark.createDataFrame([], f"long_id boolean, {ids}")
    assert [row["long_id"] for row in carried_over(clean, events, before=day(5), source="s").collect()] == [False, True]


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/lake/clicks {day}.csv", "/lake/clicks 2024-05-02.csv"),
        ("/lake/clicks {day}.csv", "file:///lake/clicks%202024-05-02.csv"),
        ("/lake/day={day}/part-[0-9].csv", "file:///lake/day=2024-05-02/part-3.csv"),
        ("/lake/day={day}/[!_]*", "/lake/day=2024-05-02/part.csv"),
        ("/lake/{us,eu}-{day}/*.csv", "/lake/eu-2024-05-02/a.csv"),
        ("/lake/{us/clicks,eu/clicks}-{day}.csv", "/lake/eu/clicks-2024-05-02.csv"),
        ("/lake/100%-{day}", "/lake/100%25-2024-05-02/a.csv"),
        ("/lake/day={day}", "/lake/day=2024-05-02/a/b.csv"),
        ("/lake/{day}.csv", "file:///lake/2024-05-02.csv"),
        ("/lake/{day}", "/2024-01-01/lake/2024-05-02/2024/x"),
        ("s3://shop/*/{day}/", "shop/web/2024-05-02/x.csv.gz"),
    ],
)
def test_the_day_of_a_file(spark, path: str, file: str) -> None:
    """It is found for all globs and for names in URL code, as Spark writes them. Python and Spark agree on it."""
    assert day_of(path, file) == day(2)
    found = spark.createDataFrame([(file,)], "file string").select(arrived(path, F.col("file")))
    assert found.collect()[0][0] == day(2)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/lake/day={day}/part-[0-9].csv", "/lake/day=2024-05-02/part-x.csv"),
        ("/lake/{us,eu}-{day}/*.csv", "/lake/de-2024-05-02/a.csv"),
        ("/lake/clicks {day}.csv", "/lake/clicks-2024-05-02.csv"),
        ("/lake/day={day}/*.csv", "/lake/day=2024-05-02/x.json"),
        ("/lake/day={day}", "/lake/day=2024-05-33/x"),
        ("/lake/day={day}", "/lake/hour=7/x"),
    ],
)
def test_files_that_the_path_does_not_mean_have_no_day(path: str, file: str) -> None:
    """A name that does not match the path gives no day."""
    assert day_of(path, file) is None
