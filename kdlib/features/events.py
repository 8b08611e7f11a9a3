"""Input rows → events under our column names, in the same way for every format. The session's time zone must be UTC.

The columns of an event before it is judged:
  corrupt      bool       the line did not parse
  filtered     bool       the line parses, and the filter of the input leaves it out
  user_id, session_id, item_id, event_id   text, trimmed, null where empty or not mapped
  long_id      bool       one of these ids, as the shop writes it, has more than MOST_ID_CHARACTERS
  event_type   text       one of EVENT_TYPES; null where the shop's type is not mapped
  time_given   bool       the row has a time, even one that cannot be parsed
  event_time   timestamp  UTC microseconds; null where it cannot be parsed
  line         text       what the quarantine says of a corrupt row, else null
  fields       struct     the mapped columns as in the input
  file         text       the input file
  arrived      date       the day in the file's name; null where the input's path has no `{day}`
"""

from collections.abc import Sequence
from datetime import date

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.config.data import EVENT_TYPES, EventsConfig
from kdlib.features.arrivals import arrived, path_of_days
from kdlib.features.columns import MENDED, is_long, judged_line, mapped_text, our_type, read_columns, text_of
from kdlib.features.lake import LAKES, snapshot, spark_schema
from kdlib.features.privacy import with_pseudonyms
from kdlib.features.read import FILE, quoted, spark_path
from kdlib.features.read_text import read_lines
from kdlib.features.times import midnight, parse_time
from kdlib.features.where import FILTERED
from kdlib.privacy.pseudonyms import BLANKS, KeySource
from kdlib.store.days import UTC


def read_events(
    spark: SparkSession,
    events: EventsConfig,
    *,
    last_day: date,
    days: Sequence[date] = (),
    key: KeySource | None = None,
    time_zone: str = UTC,
) -> DataFrame:
    """The input as events (columns above). Without a user column, each session counts as a user.

    Args:
      spark: the session.
      events: where the files are and how their columns are named.
      last_day: the run's day.
      days: the arrival days to read, where the path has `{day}`.
      key: key of the pseudonyms for user and session ids; None: the shop's own ids stay.
      time_zone: of dates without a time.

    Raises:
      InputError: a file is missing or unreadable, or a mapped column is missing or has an unusable type.
      ConfigError: the filter is wrong.
    """
    path = path_of_days(events.path, days) if days else events.path
    rows = _read(spark, events.model_copy(update={"path": path}), last_day=last_day, time_zone=time_zone)
    rows = rows.withColumn("arrived", arrived(events.path, F.col("file")) if days else F.lit(None).cast("date"))
    if key is None:
        return rows
    named = [name for name in (events.user, events.session) if name]
    return with_pseudonyms(rows, key, id_columns=named or ["user_id"])


def _read(spark: SparkSession, events: EventsConfig, *, last_day: date, time_zone: str) -> DataFrame:
    if events.format == "sequences":
        lines = read_lines(spark, events.path)
        return sequence_events(lines, last_day=last_day, event_type=events.only_type, time_zone=time_zone)
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
    given, at = parse_time(time, rows.schema, path=events.path, time_zone=time_zone)
    fields = F.struct(*map(quoted, columns))
    corrupt, line = judged_line(fields, ids=[events.user, events.session, events.item])
    ids = {
        "user_id": mapped_text(events.user or events.session),
        "session_id": mapped_text(events.session),
        "item_id": mapped_text(events.item),
        "event_id": mapped_text(events.event_id),
    }
    return rows.select(
        corrupt.alias("corrupt"),
        F.col(FILTERED).alias("filtered"),
        *(text.alias(name) for name, text in ids.items()),
        is_long(*ids.values()).alias("long_id"),
        (our_type(events.event_type, events.event_types) if events.event_type else F.lit(events.only_type)).alias(
            "event_type"
        ),
        given.alias("time_given"),
        at.alias("event_time"),
        line.alias("line"),
        fields.alias("fields"),
        F.col(FILE).alias("file"),
    )


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


def sequence_events(
    lines: DataFrame, *, last_day: date, event_type: str = EVENT_TYPES[0], time_zone: str = UTC
) -> DataFrame:
    """Lines `user item item …`, oldest first → one event an item, one item a day.

    The times are made up: midnight, the last item on `last_day`. A line is corrupt if it has no item or an id that
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
    at = midnight(day, time_zone)
    corrupt = F.col("item_id").isNull() | F.contains(F.concat("user_id", "item_id"), F.lit(MENDED))
    return items.select(
        corrupt.alias("corrupt"),
        F.lit(False).alias("filtered"),
        "user_id",
        text_of(None).alias("session_id"),
        "item_id",
        text_of(None).alias("event_id"),
        is_long(F.col("user_id"), F.col("item_id")).alias("long_id"),
        F.lit(event_type).alias("event_type"),
        F.lit(True).alias("time_given"),
        at.alias("event_time"),
        F.when(corrupt, F.col("value")).alias("line"),
        F.struct("user_id", "item_id", at.alias("event_time")).alias("fields"),
        F.col(FILE).alias("file"),
    )
