"""Lines of text (CSV, JSON, sequences) → rows of the mapped columns, as text.

A value of the wrong type costs one quarantined row, not the run. A row that does not parse stays, as text, in `CORRUPT`.
"""

from collections.abc import Sequence
from functools import reduce
from operator import and_
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from kdlib.features.read import FILE, file_column, in_folder_names, quoted, spark_path
from kdlib.features.read_errors import CORRUPT, MOST_CHARACTERS, check_columns, reading
from kdlib.features.where import FILTERED, filter_columns, with_filtered

NUM_FIELDS = "num_fields"
"""Key in the metadata of `CORRUPT` of CSV files: how many fields a line has."""
_BLANK = "".join(map(chr, range(33)))
"""Blanks and control characters. A line with nothing else is not a row."""
_SAMPLE_LINES = 1_000
"""How many JSON lines are searched for the wanted keys before all lines are."""
_END = "_end_of_line"
"""Key of an object that is appended to each JSON line. A line that is not exactly one object hides or moves it."""


def read_csv(
    spark: SparkSession,
    path: str,
    *,
    columns: Sequence[str],
    delimiter: str,
    names: Sequence[str] = (),
    line_breaks: bool = False,
    where: str | None = None,
) -> DataFrame:
    """The named columns as text, `CORRUPT`, `FILE` and `FILTERED`. A line with too few or too many fields is corrupt.

    `CORRUPT` has the metadata `NUM_FIELDS`.

    Args:
      spark: the session.
      path: a file, a folder or a glob. The ending `.gz` means gzip.
      columns: the columns to keep.
      delimiter: the character between two fields. A field may be quoted with `"`; a quote inside it is doubled.
      names: the names of all fields, in order, for files without a header. Empty: each file's first line names them.
      line_breaks: quoted fields may hold line breaks. Then one task reads a whole file. A field has at most
        `MOST_CHARACTERS`: otherwise a quote that is never closed would swallow the file.
      where: the filter (`kdlib.features.where`).

    Raises:
      InputError: a file or a column is missing.
      ConfigError: the filter is wrong.
    """

    def reader(subfolders: bool) -> DataFrameReader:
        return spark.read.options(
            sep=delimiter,
            quote='"',
            escape='"',
            header=not names,
            multiLine=line_breaks,
            maxCharsPerColumn=MOST_CHARACTERS if line_breaks else -1,
            recursiveFileLookup=subfolders,
        )

    with reading(path):
        if names:
            found, rows = list(names), reader(True).schema(_text_schema(names)).csv(spark_path(path))
            named = filter_columns(spark, where, found=found, path=path)
            elsewhere = {name for name in names if any(f"/{name}=" in unquote(file) for file in rows.inputFiles())}
            subfolders = not in_folder_names(elsewhere, rows, path=path)
        else:
            rows = reader(True).csv(spark_path(path))
            named = filter_columns(spark, where, found=rows.columns, path=path)
            subfolders = not in_folder_names({*columns, *named} - {*rows.columns}, rows, path=path)
            found = rows.columns if subfolders else reader(False).csv(spark_path(path)).columns
    hint = ""
    if len(found) == 1:
        hint = f". The header is a single field, so the delimiter is probably not {delimiter!r}. Set delimiter"
    check_columns(columns, found, path=path, hint=hint)
    # Spark counts the fields of a line only without column pruning, and compares headers only without enforceSchema.
    strict = reader(subfolders).options(
        mode="PERMISSIVE", columnNameOfCorruptRecord=CORRUPT, columnPruning=False, enforceSchema=False
    )
    with reading(path):
        rows = strict.schema(_text_schema([*found, CORRUPT])).csv(spark_path(path))
    rows = rows.select("*", file_column(rows))
    rows = with_filtered(rows, where, found=found, path=path, parsed=F.col(CORRUPT).isNull())
    corrupt = F.col(CORRUPT).alias(CORRUPT, metadata={NUM_FIELDS: len(found)})
    return rows.select(*map(quoted, columns), corrupt, FILE, FILTERED)


def read_jsonl(
    spark: SparkSession, path: str, *, columns: Sequence[str], plain: Sequence[str] = (), where: str | None = None
) -> DataFrame:
    """The named top-level keys as text, `CORRUPT`, `FILE` and `FILTERED`. A key that a line lacks is null.

    A line that is not exactly one object is corrupt.

    Args:
      spark: the session.
      path: a file, a folder or a glob. The ending `.gz` means gzip.
      columns: the keys to keep. Objects and lists become JSON text.
      plain: the keys that must hold one plain value. A line with an object or a list there is corrupt.
      where: the filter (`kdlib.features.where`).

    Raises:
      InputError: a file is missing, or no line has one of the keys.
      ConfigError: the filter is wrong.
    """
    with reading(path):
        lines = _text(spark, path)
        found = _keys(lines.limit(_SAMPLE_LINES))
        named = filter_columns(spark, where, found=sorted(found), path=path)
        if {*columns, *named} - found:
            found = _keys(lines)
            if found or lines.head(1):
                check_columns(columns, sorted(found), path=path)
        columns_read = [*dict.fromkeys([*columns, *(name for name in named if name in found)])]
        # Spark ignores what follows the first object of a line, except inside a list
        object_ = F.rtrim("value", F.lit(f",{_BLANK}"))  # lines cut from a list end with a comma
        listed = F.concat(F.lit("["), object_, F.lit(f',{{"{_END}":0}}]'))
        records = F.from_json(listed, ArrayType(_text_schema([*columns_read, _END])))
        rows = lines.filter(F.btrim("value", F.lit(_BLANK)) != "").select(
            "value", records.alias("records"), file_column(lines)
        )
    record, end = (F.get("records", F.lit(place)) for place in (0, 1))
    whole = (F.size("records") == 2) & record.isNotNull() & end[_END].isNotNull()
    good = F.coalesce(reduce(and_, (~_is_nested(record[name], F.col("value")) for name in plain), whole), F.lit(False))
    rows = rows.withColumn("good", good)
    rows = rows.select(
        *(F.when(F.col("good"), record[name]).alias(name) for name in columns_read),
        F.when(~F.col("good"), F.col("value")).alias(CORRUPT),
        FILE,
    )
    rows = with_filtered(rows, where, found=sorted(found), path=path, parsed=F.col(CORRUPT).isNull())
    return rows.select(*map(quoted, columns), CORRUPT, FILE, FILTERED)


def read_lines(spark: SparkSession, path: str) -> DataFrame:
    """The lines that are not blank, as `value`, and `FILE`. Bytes that are not UTF-8 become U+FFFD."""
    with reading(path):
        lines = _text(spark, path)
        lines = lines.select(F.make_valid_utf8("value").alias("value"), file_column(lines))
        return lines.filter(F.col("value").rlike(r"\S"))


def _text_schema(names: Sequence[str]) -> StructType:
    return StructType([StructField(name, StringType()) for name in names])


def _text(spark: SparkSession, path: str) -> DataFrame:
    return spark.read.text(spark_path(path), recursiveFileLookup=True)


def _is_nested(text: Column, line: Column) -> Column:
    """Whether the text of a line's JSON value is an object or a list; never null. The text `[deleted]`
    is neither, nor is the JSON string `"[1]"`."""
    parsed = F.when(text.startswith("{"), F.json_object_keys(text).isNotNull()).when(
        text.startswith("["), F.json_array_length(text).isNotNull()
    )
    return F.coalesce(parsed & ~line.contains(F.concat(F.lit('"'), text, F.lit('"'))), F.lit(False))


def _keys(lines: DataFrame) -> set[str]:
    return {
        row["key"] for row in lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct().collect()
    }
