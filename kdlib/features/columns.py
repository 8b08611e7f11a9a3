"""The mapped columns of the input: read in any format, trimmed, and judged. Events and searches share these steps."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Literal

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from kdlib.features.lake import LAKES
from kdlib.features.read import quoted
from kdlib.features.read_errors import CORRUPT
from kdlib.features.read_parquet import read_lake, read_parquet
from kdlib.features.read_text import NUM_FIELDS, read_csv, read_jsonl
from kdlib.privacy.pseudonyms import BLANKS

MENDED = "\ufffd"
"""Replaces bytes that are not UTF-8."""
MOST_ID_CHARACTERS = 256
"""A longer id is a fault of the input. A UUID has 36 characters, a SHA-512 in hexadecimal digits has 128. A longer text is
another column, or fields that run together. Every process that knows the items holds their ids in memory."""
MOST_RAW_CHARACTERS = 10_000
"""The quarantine cuts a row at this length."""
_ONE_OBJECT = "one JSON object with plain values"
ACCOUNT = rf'^\{{"found":"\d+ characters(?:, \d+ fields)?","expected":"(?:\d+ fields|{_ONE_OBJECT})"\}}$'
"""A regular expression of what the quarantine says of a line that does not parse: its length, and what was expected."""
_TEXT = "text of "
"""Prefix of the columns that hold the trimmed text of mapped columns."""


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

    `CORRUPT` has none of the line's characters. Where the fields are not told apart, columns that the run config does
    not map would be kept.

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
    rows = rows.withColumn(CORRUPT, F.when(F.col(CORRUPT).isNotNull(), _account(rows, format_, delimiter)))
    # a separate step, so that Spark trims each value once, however often it is used
    return rows.select("*", *(text_of(name).alias(_TEXT + name) for name in columns))


def _account(rows: DataFrame, format_: str, delimiter: str) -> Column:
    """What the quarantine says of a line that does not parse (`ACCOUNT`)."""
    line = F.col(CORRUPT)
    found, expected = F.format_string("%d characters", F.length(line)), F.lit(_ONE_OBJECT)
    if format_ == "csv":
        delimiter = delimiter.replace("\\t", "\t")
        outside = F.regexp_replace(line, '"[^"]*"', "")  # a delimiter inside quotes is part of a field
        breaks = (F.length(outside) - F.length(F.replace(outside, F.lit(delimiter), F.lit("")))) / len(delimiter)
        found = F.concat(found, F.format_string(", %d fields", (breaks + 1).cast("int")))
        expected = F.lit(f"{rows.schema[CORRUPT].metadata[NUM_FIELDS]} fields")
    return F.to_json(F.struct(found.alias("found"), expected.alias("expected")))


def judged_line(fields: Column, *, ids: Sequence[str | None]) -> tuple[Column, Column]:
    """Two columns: whether a row of `read_columns` is corrupt, and what is kept of a corrupt row (else null).

    A row is corrupt if it does not parse or if an id has bytes that are not UTF-8. With the replacement character in
    ids, two users could become one, and one user of two files could become two.

    Args:
      fields: a struct of the row's columns.
      ids: the id columns; None for a column that the input does not have.
    """
    broken = [F.coalesce(F.contains(mapped_text(name), F.lit(MENDED)), F.lit(False)) for name in ids if name]
    corrupt = reduce(or_, broken, F.col(CORRUPT).isNotNull())
    return corrupt, F.when(corrupt, F.coalesce(F.col(CORRUPT), _as_json(fields)))


def is_long(*ids: Column) -> Column:
    """Whether one of the ids has more than `MOST_ID_CHARACTERS`. Never null; a missing id is not long."""
    return reduce(or_, (F.coalesce(F.length(one) > MOST_ID_CHARACTERS, F.lit(False)) for one in ids))


def raw_text() -> Column:
    """A row as the quarantine shows it, in UTF-8: `ACCOUNT` of a line that does not parse, else the mapped columns as JSON.

    A longer text than `MOST_RAW_CHARACTERS` is cut and ends with `…`.
    """
    text = F.make_valid_utf8(F.coalesce(F.col("line"), _as_json(F.col("fields"))))
    cut = F.concat(F.left(text, F.lit(MOST_RAW_CHARACTERS)), F.lit("…"))
    return F.when(F.length(text) > MOST_RAW_CHARACTERS, cut).otherwise(text)


def _as_json(fields: Column) -> Column:
    return F.to_json(fields, {"ignoreNullFields": "false"})


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


def id_of(name: str) -> Column:
    """An id as trimmed text; null where it is empty or has more than `MOST_ID_CHARACTERS`: no event has this id."""
    text = text_of(name)
    return F.when(F.length(text) <= MOST_ID_CHARACTERS, text)


def our_type(column: str, event_types: Mapping[str, str]) -> Column:
    """Our name for the event type in a mapped column; null for a type that is not mapped."""
    text = mapped_text(column)
    ours = F.lit(None).cast("string")
    for theirs, name in event_types.items():
        ours = F.when(text == theirs, F.lit(name)).otherwise(ours)
    return ours
