"""The time of an event, from the columns that hold it, and the day of a time. The session's time zone must be UTC."""

import re
from datetime import date

from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, StructType, TimestampNTZType, TimestampType

from kdlib.config.data import TimeConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features.columns import mapped_text
from kdlib.features.read import quoted
from kdlib.features.read_parquet import WRITTEN
from kdlib.store import days
from kdlib.store.days import SECONDS_A_DAY, UTC

_MICROS = {"epoch_seconds": 1_000_000, "epoch_millis": 1_000, "epoch_micros": 1}
"""Time format → microseconds in its unit."""


def day_start(day: date, time_zone: str = UTC) -> Column:
    """The first moment of a day, independent of the time zones of the machine and the session."""
    return F.timestamp_seconds(F.lit(int(days.day_start(day, time_zone).timestamp())))


def local_date(time: Column, time_zone: str = UTC) -> Column:
    """The local date of a time."""
    return F.to_date(time if time_zone == UTC else F.from_utc_timestamp(time, time_zone))


def midnight(day: Column, time_zone: str = UTC) -> Column:
    """The first moment of a local date."""
    return _local(F.timestamp_seconds(F.unix_date(day).cast("bigint") * SECONDS_A_DAY), time_zone)


def _local(time: Column, time_zone: str) -> Column:
    """A local time that was read as if it were UTC, as the moment that it means."""
    return time if time_zone == UTC else F.to_utc_timestamp(time, time_zone)


def parse_time(time: TimeConfig, schema: StructType, *, path: str, time_zone: str = UTC) -> tuple[Column, Column]:
    """Two columns for rows of `read_columns`: whether a row has a time, and the time (null where it cannot be parsed).

    A date without a time is midnight in the time zone. Another time without an offset is UTC.

    Raises:
      InputError: the format is iso and the column is neither text, date nor timestamp, or the format is pattern and the
        column is not text.
      ConfigError: Spark does not know the pattern.
    """
    if time.format == "day_and_order":
        return _day_and_order(time, time_zone)
    assert time.column
    column = F.col(quoted(time.column))
    if time.format == "iso":
        type_ = schema[time.column].dataType
        if isinstance(type_, DateType):
            return column.isNotNull(), _local(column.cast("timestamp"), time_zone)
        if isinstance(type_, TimestampType | TimestampNTZType):
            return column.isNotNull(), column.cast("timestamp")
        written = schema[time.column].metadata.get(WRITTEN, type_.simpleString())
        if written != "string":
            raise InputError(
                f"{path}: time format iso needs a text, date or timestamp column, but {time.column} is "
                f"{written}. Set time.format to epoch_seconds, epoch_millis or epoch_micros"
            )
        text = mapped_text(time.column)
        # Spark would also accept `2017`, and `12:30` as a time of today
        whole = F.when(text.rlike(r"^.{4}-.{2}-.{2}(?:[T ].|\z)"), text)
        # Spark reads a time with an offset only if it has seconds
        with_seconds = F.regexp_replace(whole, r"^(.{4}-.{2}-.{2}[T ]\d{2}:\d{2})(?=[Z+-])", "$1:00")
        at = F.coalesce(whole.try_cast("timestamp"), with_seconds.try_cast("timestamp"))
        if time_zone != UTC:
            at = F.when(F.length(whole) == len("2026-11-22"), _local(at, time_zone)).otherwise(at)
        return text.isNotNull(), at
    text = mapped_text(time.column)
    if time.format == "pattern":
        assert time.pattern
        at = _parsed_by_pattern(text, time, schema, path=path)
        has_hours = re.search("[HhKk]", re.sub(r"'[^']*'", "", time.pattern))
        return text.isNotNull(), at if has_hours else _local(at, time_zone)
    micros = text.try_cast("decimal(24,6)") * _MICROS[time.format]
    return text.isNotNull(), F.timestamp_micros(micros.try_cast("bigint"))


def _day_and_order(time: TimeConfig, time_zone: str) -> tuple[Column, Column]:
    """`parse_time` for a day and a running number. The number becomes a time after midnight: only the order matters.

    Where the clocks go forward, the numbers of the 24th hour share the day's last moment.
    """
    parts = [mapped_text(name) for name in time.day_columns]
    order = mapped_text(time.order_column)
    given = F.lit(True)
    for part in (*parts, order):
        given = given & part.isNotNull()
    day_text = parts[0]
    if len(parts) == 3:
        # a part that is too long is left out: the text is then no day. pandas writes 5.0 where a value is missing
        whole = [F.regexp_replace(part, r"\.0+$", "") for part in parts]
        widths = zip(whole, (4, 2, 2), strict=True)
        day_text = F.concat_ws("-", *(F.when(F.length(part) <= n, F.lpad(part, n, "0")) for part, n in widths))
    day = F.when(day_text.rlike(r"^\d{4}-\d{2}-\d{2}$"), F.unix_date(day_text.try_cast("date")))
    if len(parts) == 1:
        number = F.regexp_replace(day_text, r"\.0+$", "")
        day = F.coalesce(day, F.when(number.rlike(r"^\d{1,5}$"), number.try_cast("int")))
    units = 1 if time.order_unit == "seconds" else 1_000
    running = order.try_cast("bigint")
    start, end = (F.unix_micros(midnight(F.date_from_unix_date(one), time_zone)) for one in (day, day + 1))
    at = F.timestamp_micros(F.least(start + running * (1_000_000 // units), end - 1))
    return given, F.when(running.between(0, SECONDS_A_DAY * units - 1), at)


def _parsed_by_pattern(text: Column, time: TimeConfig, schema: StructType, *, path: str) -> Column:
    """The time in a text of the form `time.pattern`; null where the text has another form."""
    assert time.column
    assert time.pattern
    type_ = schema[time.column].dataType
    if isinstance(type_, TimestampType | TimestampNTZType | DateType):
        raise InputError(
            f"{path}: time format pattern needs a text column, but {time.column} is {type_.simpleString()}. Set"
            " time.format to iso"
        )
    spark = SparkSession.getActiveSession()
    assert spark
    try:
        spark.range(1).select(F.try_to_timestamp(F.lit("1"), F.lit(time.pattern))).collect()
    except PySparkException:
        raise ConfigError(
            f"Spark does not know the datetime pattern {time.pattern!r} (time.pattern of {path}). Expected letters such"
            " as in d/M/yyyy H:mm, yyyyMMdd or M/d/yyyy h:mm a, and quotes around other words"
        ) from None
    return F.try_to_timestamp(text, F.lit(time.pattern))
