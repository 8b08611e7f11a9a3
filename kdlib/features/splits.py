"""Which interactions of a history train, validate and test."""

from datetime import date, timedelta
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from kdlib.features.times import day_start
from kdlib.store.days import UTC


def window_starts(*, last_day: date, validation_days: int, test_days: int) -> tuple[date, date]:
    """First day of the validation window and of the test window. The test window ends with `last_day`, included."""
    test = last_day - timedelta(days=test_days - 1)
    return test - timedelta(days=validation_days), test


def with_splits(
    histories: DataFrame,
    *,
    kind: Literal["time", "leave_one_out"],
    last_day: date,
    validation_days: int,
    test_days: int,
    time_zone: str = UTC,
) -> DataFrame:
    """Add num_train, validation_position and test_position (int32) to rows with event_times (ascending).

    `leave_one_out`: of three or more interactions the last one tests and the one before it validates. Shorter histories
    only train.

    `time`: interactions before the validation window train. The first interaction inside the validation window
    validates and the first inside the test window tests, if another interaction precedes it. The windows begin at
    midnight in the time zone.
    """
    total = F.size("event_times")
    if kind == "leave_one_out":
        enough = total >= 3
        num_train = F.when(enough, total - 2).otherwise(total)
        validation, test = F.when(enough, total - 2), F.when(enough, total - 1)
    else:
        first_validation, first_test = window_starts(
            last_day=last_day, validation_days=validation_days, test_days=test_days
        )
        num_train = _num_before(day_start(first_validation, time_zone))
        num_before_test = _num_before(day_start(first_test, time_zone))
        validation = F.when((num_train >= 1) & (num_train < num_before_test), num_train)
        test = F.when((num_before_test >= 1) & (num_before_test < total), num_before_test)
    return histories.withColumns({"num_train": num_train, "validation_position": validation, "test_position": test})


def _num_before(moment: Column) -> Column:
    return F.size(F.filter("event_times", lambda time: time < moment))
