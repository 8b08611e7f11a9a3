"""Input rows → events under our column names, in the same way for every format. The session's time zone must be UTC.

The columns of an event before it is judged:
  corrupt      bool       the line did not parse
  filtered     bool       the line parses, and the filter of the input leaves it out
  user_id, session_id, item_id, event_id   text, trimmed, null where empty or not mapped
  event_type   text       one of EVENT_TYPES; null where the shop's type is not mapped
  time_given   bool       the row has a time, even one that cannot be parsed
  event_time   timestamp  UTC microseconds; null where it cannot be parsed
  line         text       the line of a corrupt row, else null
  fields       struct     the mapped columns as in the input
  file         text       the input file
  arrived      date       the day in the file's name; null where the input's path has no `{day}`
"""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from operator import or_
from typing import Literal

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType, StructType, TimestampNTZType, TimestampType

from kdlib.config.data import EVENT_TYPES, EventsConfig, TimeConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features.arrivals import arrived, path_of_days
from kdlib.features.lake import LAKES, snapshot, spark_schema
from kdlib.features.privacy import with_pseudonyms
from kdlib.features.read import FILE, quoted, spark_path
from kdlib.features.read_errors import CORRUPT
from kdlib.features.read_parquet import WRITTEN, read_lake, read_parquet
from kdlib.features.read_text import read_csv, read_jsonl, read_lines
from kdlib.features.where import FILTERED
from kdlib.privacy.pseudonyms import BLANKS, KeySource

SECONDS_A_DAY = 86_400
MENDED = "\ufffd"
"""Replaces bytes that are not UTF-8."""
_TEXT = "text of "
"""Prefix of the columns that hold the trimmed text of mapped columns."""


def read_events(
    spark: SparkSession,
    events: EventsConfig,
    *,
    last_day: date,
    days: Sequence[date] = (),
    key: KeySource | None = None,
) -> DataFrame:
    """The input as events (columns above). Without a user column, each session counts as a user.

    Args:
      spark: the session.
      events: where the files are and how their columns are named.
      last_day: the run's day.
      days: the arrival days to read, where the path has `{day}`.
      key: key of the pseudonyms for user and session ids; None: the shop's own ids stay.

    Raises:
      InputError: a file is missing or unreadable, or a mapped column is missing or has an unusable type.
      ConfigError: the filter is wrong.
    """
    path = path_of_days(events.path, days) if days else events.path
    rows = _read(spark, events.model_copy(update={"path": path}), last_day=last_day)
    rows = rows.withColumn("arrived", arrived(events.path, F.col("file")) if days else F.lit(None).cast("date"))
    if key is None:
        return rows
    named = [name for name in (events.user, events.session) if name]
    return with_pseudonyms(rows, key, id_columns=named or ["user_id"])


def _read(spark: SparkSession, events: EventsConfig, *, last_day: date) -> DataFrame:
    if events.format == "sequences":
        return sequence_events(read_lines(spark, events.path), last_day=last_day, event_type=events.only_type)
    assert events.item
    assert events.time
    time = events.time
    mapped = [events.user, events.session, events.item, events.event_type, events.event_id]
    mapped += [*time.day_columns, time.order_column] if time.format == "day_and_order" else [time.column]
    columns = list(dict.fromkeys(name for name in mapped if name))
    rows = read_columns(
        spark,
        events.path,
        format_=events.format,
        columns=columns,
        delimiter=events.delimiter,
        names=() if events.header else events.columns,
        where=events.where,
    )
    given, at = parse_time(time, rows.schema, path=events.path)
    fields = F.struct(*map(quoted, columns))
    corrupt, line = judged_line(fields, ids=[events.user, events.session, events.item])
    return rows.select(
        corrupt.alias("corrupt"),
        F.col(FILTERED).alias("filtered"),
        mapped_text(events.user or events.session).alias("user_id"),
        mapped_text(events.session).alias("session_id"),
        mapped_text(events.item).alias("item_id"),
        mapped_text(events.event_id).alias("event_id"),
        (our_type(events.event_type, events.event_types) if events.event_type else F.lit(events.only_type)).alias(
            "event_type"
        ),
        given.alias("time_given"),
        at.alias("event_time"),
        line.alias("line"),
        fields.alias("fields"),
        F.col(FILE).alias("file"),
    )


def read_columns(
    spark: SparkSession,
    path: str,
    *,
    format_: Literal["parquet", "csv", "jsonl", "delta", "iceberg"],
    columns: Sequence[str],
    delimiter: str = ",",
    names: Sequence[str] = (),
    where: str | None = None,
) -> DataFrame:
    """The mapped columns as written, and the trimmed text of each (see `mapped_text`); `CORRUPT`, `FILE`, `FILTERED`.

    Args:
      spark: the session.
      path: a file, a folder or a glob.
      format_: format of the files.
      columns: the mapped columns, without repeats.
      delimiter: CSV only: the character between two fields.
      names: CSV without a header only: the names of all columns.
      where: the filter (`kdlib.features.where`).

    Raises:
      InputError: a file is missing or unreadable, or a mapped column is missing or does not hold plain values.
      ConfigError: the filter is wrong.
    """
    if format_ in LAKES:
        rows = read_lake(spark, path, format_=format_, columns=columns, where=where)
    elif format_ == "parquet":
        rows = read_parquet(spark, path, columns=columns, where=where)
    elif format_ == "csv":
        rows = read_csv(spark, path, columns=columns, delimiter=delimiter, names=names, where=where)
    else:
        rows = read_jsonl(spark, path, columns=columns, plain=columns, where=where)
    # a separate step, so that Spark trims each value once, however often it is used
    return rows.select("*", *(text_of(name).alias(_TEXT + name) for name in columns))


def judged_line(fields: Column, *, ids: Sequence[str | None]) -> tuple[Column, Column]:
    """Two columns: whether a row of `read_columns` is corrupt, and the text of a corrupt row (else null).

    A row is corrupt if it does not parse or if an id has bytes that are not UTF-8. With the replacement character in
    ids, two users could become one, and one user of two files could become two.

    Args:
      fields: a struct of the row's columns.
      ids: the id columns; None for a column that the input does not have.
    """
    broken = [F.coalesce(F.contains(mapped_text(name), F.lit(MENDED)), F.lit(False)) for name in ids if name]
    corrupt = reduce(or_, broken, F.col(CORRUPT).isNotNull())
    return corrupt, F.when(corrupt, F.coalesce(F.col(CORRUPT), _as_json(fields)))


def raw_text() -> Column:
    """A row as the quarantine shows it, in UTF-8: the line of a corrupt row, else the mapped columns as JSON."""
    return F.make_valid_utf8(F.coalesce(F.col("line"), _as_json(F.col("fields"))))


def _as_json(fields: Column) -> Column:
    return F.to_json(fields, {"ignoreNullFields": "false"})


def input_columns(spark: SparkSession, events: EventsConfig, *, last_day: date) -> dict[str, str]:
    """Name → type of all columns of the input's files, mapped or not; empty for formats without column names.

    CSV columns have the type `text`. Spark looks into one file only. With `{day}` in the path, it is a file of the
    run's day, because earlier runs have judged the earlier days.
    """
    reader = spark.read.options(sep=events.delimiter, quote='"', escape='"', header=True)

    def columns(subfolders: bool) -> dict[str, str]:
        path = spark_path(path_of_days(events.path, [last_day]))
        if events.format == "csv":
            return dict.fromkeys(reader.csv(path, recursiveFileLookup=subfolders).columns, "text")
        return dict(spark.read.parquet(path, recursiveFileLookup=subfolders).dtypes)

    if events.format in LAKES:
        return {
            field.name: field.dataType.simpleString() for field in spark_schema(snapshot(events.path, events.format))
        }
    if events.format != "parquet" and not (events.format == "csv" and events.header):
        return {}
    try:
        return columns(False)  # including columns from folder names
    except PySparkException:  # the names of the subfolders give no columns, or not the same ones
        return columns(True)


def sequence_events(lines: DataFrame, *, last_day: date, event_type: str = EVENT_TYPES[0]) -> DataFrame:
    """Lines `user item item …`, oldest first → one event an item, one item a day.

    The times are made up: midnight UTC, the last item on `last_day`. A line is corrupt if it has no item or an id that
    is not UTF-8.
    """
    words = lines.select("value", FILE, F.split(F.btrim("value", F.lit(BLANKS)), r"\s+").alias("words"))
    items = words.select(
        "value",
        FILE,
        F.col("words")[0].alias("user_id"),
        F.size("words").alias("num_words"),
        F.posexplode_outer(F.slice("words", 2, F.greatest(F.size("words") - 1, F.lit(0)))).alias("place", "item_id"),
    )
    day = F.date_sub(F.lit(last_day.isoformat()).cast("date"), F.col("num_words") - 2 - F.col("place"))
    at = F.timestamp_seconds(F.unix_date(day).cast("bigint") * SECONDS_A_DAY)
    corrupt = F.col("item_id").isNull() | F.contains(F.concat("user_id", "item_id"), F.lit(MENDED))
    return items.select(
        corrupt.alias("corrupt"),
        F.lit(False).alias("filtered"),
        "user_id",
        text_of(None).alias("session_id"),
        "item_id",
        text_of(None).alias("event_id"),
        F.lit(event_type).alias("event_type"),
        F.lit(True).alias("time_given"),
        at.alias("event_time"),
        F.when(corrupt, F.col("value")).alias("line"),
        F.struct("user_id", "item_id", at.alias("event_time")).alias("fields"),
        F.col(FILE).alias("file"),
    )


def parse_time(time: TimeConfig, schema: StructType, *, path: str) -> tuple[Column, Column]:
    """Two columns for rows of `read_columns`: whether a row has a time, and the time (null where it cannot be parsed).

    Raises:
      InputError: the format is iso and the column is neither text, date nor timestamp.
    """
    if time.format == "day_and_order":
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
        day = F.when(day_text.rlike(r"^\d{4}-\d{2}-\d{2}$"), day_text.try_cast("date"))
        seconds = order.try_cast("int")  # the running number becomes seconds after midnight: only the order matters
        midnight = F.unix_date(day).cast("bigint") * SECONDS_A_DAY
        return given, F.when(seconds.between(0, SECONDS_A_DAY - 1), F.timestamp_seconds(midnight + seconds))
    assert time.column
    column = F.col(quoted(time.column))
    if time.format == "iso":
        type_ = schema[time.column].dataType
        if isinstance(type_, TimestampType | TimestampNTZType | DateType):
            return column.isNotNull(), column.cast("timestamp")
        written = schema[time.column].metadata.get(WRITTEN, type_.simpleString())
        if written != "string":
            raise InputError(
                f"{path}: time format iso needs a text, date or timestamp column, but {time.column} is "
                f"{written}. Set time.format to epoch_seconds or epoch_millis"
            )
        text = mapped_text(time.column)
        # Spark would also accept `2017`, and `12:30` as a time of today
        whole = F.when(text.rlike(r"^.{4}-.{2}-.{2}(?:[T ].|\z)"), text)
        # of a time with an offset, Spark wants the seconds too
        with_seconds = F.regexp_replace(whole, r"^(.{4}-.{2}-.{2}[T ]\d{2}:\d{2})(?=[Z+-])", "$1:00")
        return text.isNotNull(), F.coalesce(whole.try_cast("timestamp"), with_seconds.try_cast("timestamp"))
    text = mapped_text(time.column)
    if time.format == "pattern":
        assert time.pattern
        return text.isNotNull(), _parsed_by_pattern(text, time, schema, path=path)
    micros = text.try_cast("decimal(24,6)") * (1_000_000 if time.format == "epoch_seconds" else 1_000)
    return text.isNotNull(), F.timestamp_micros(micros.try_cast("bigint"))


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


def mapped_text(name: str | None) -> Column:
    """The trimmed text of a column of `read_columns`; null in all rows where the name is None."""
    return text_of(None) if name is None else F.col(quoted(_TEXT + name))


def text_of(name: str | None) -> Column:
    """A column as trimmed text, null where empty; null in all rows where the name is None."""
    if name is None:
        return F.lit(None).cast("string")
    text = F.col(quoted(name)).cast("string")
    # trimming costs more than reading: trim only values with a blank at an end
    ends = [end(blank) for end in (text.startswith, text.endswith) for blank in BLANKS]
    trimmed = F.btrim(text, F.lit(BLANKS))
    return F.when(reduce(or_, ends), F.when(trimmed != "", trimmed)).when(text != "", text)


def our_type(column: str, event_types: Mapping[str, str]) -> Column:
    """Our name for the event type in a mapped column; null for a type that is not mapped."""
    text = mapped_text(column)
    ours = F.lit(None).cast("string")
    for theirs, name in event_types.items():
        ours = F.when(text == theirs, F.lit(name)).otherwise(ours)
    return ours
