"""Input files → rows of the mapped columns, with values as written.

A row that does not parse stays, as text, in `CORRUPT`.

CSV and JSON values are read as text: a value of the wrong type costs one quarantined row, not the run. A path means all
files below it, in all subfolders.
"""

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import and_
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    DecimalType,
    DoubleType,
    FloatType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from kdlib.errors import InputError
from kdlib.features.read_errors import CORRUPT, MOST_CHARACTERS, check_columns, reading

WRITTEN = "written"
"""Key in the metadata of a Parquet column: its type in the file. `_value` turns some types into text."""
FILE = "_input_file"
"""Column with the file that a row came from."""

_BLANK = "".join(map(chr, range(33)))
"""Blanks and control characters. A line with nothing else is not a row."""
_SAMPLE_LINES = 1_000
"""How many JSON lines are searched for the wanted keys before all lines are."""
_END = "_end_of_line"
"""Key of an object that is appended to each JSON line. A line that is not exactly one object hides or moves it."""
_NANOSECONDS_AS_NUMBERS = "spark.sql.legacy.parquet.nanosAsLong"


def read_parquet(spark: SparkSession, path: str, *, columns: Sequence[str]) -> DataFrame:
    """The named columns with their own types, `CORRUPT` (always null) and `FILE`.

    Times in nanoseconds become timestamps. Floats and decimals become text, and whole ones have no fraction: pandas
    writes whole numbers as floats where a value is missing. NaN becomes null. Floats too large to tell two whole
    numbers apart become null too (from 2^53 on; from 2^24 on in 32 bits).

    Raises:
      InputError: a file is missing or unreadable. A column is missing, or holds lists, maps or structs, or has times in
        nanoseconds in some files only.
    """

    def load(subfolders: bool) -> DataFrame:
        try:
            return spark.read.parquet(spark_path(path), recursiveFileLookup=subfolders)
        except (AnalysisException, Py4JJavaError) as error:
            if "TIMESTAMP(NANOS" not in str(error):
                raise
            # pandas writes nanoseconds; Spark reads them only as whole numbers
            spark.conf.set(_NANOSECONDS_AS_NUMBERS, "true")
            return spark.read.parquet(spark_path(path), recursiveFileLookup=subfolders)

    with reading(path):
        rows = load(True)
        if _in_folder_names(set(columns) - set(rows.columns), rows, path=path):
            rows = load(False)
    check_columns(columns, rows.columns, path=path)
    for column in columns:
        type_ = rows.schema[column].dataType
        if isinstance(type_, ArrayType | MapType | StructType | BinaryType):
            raise InputError(
                f"{path}: the column {column} must hold one plain value a row, found {type_.simpleString()}. "
                "Map another column"
            )
    nanoseconds = set()
    if spark.conf.get(_NANOSECONDS_AS_NUMBERS, "false") == "true":
        nanoseconds = _nanosecond_columns(rows, columns, path=path)
    values = [
        _value(rows.schema[name], nanoseconds=name in nanoseconds).alias(
            name, metadata={WRITTEN: rows.schema[name].dataType.simpleString()}
        )
        for name in columns
    ]
    return rows.select(*values, F.lit(None).cast("string").alias(CORRUPT), _file(rows))


def read_csv(
    spark: SparkSession,
    path: str,
    *,
    columns: Sequence[str],
    delimiter: str,
    names: Sequence[str] = (),
    line_breaks: bool = False,
) -> DataFrame:
    """The named columns as text, `CORRUPT` and `FILE`. A line with too few or too many fields is corrupt.

    Args:
      spark: the session.
      path: a file, a folder or a glob. The ending `.gz` means gzip.
      columns: the columns to keep.
      delimiter: the character between two fields. A field may be quoted with `"`; a quote inside it is doubled.
      names: the names of all fields, in order, for files without a header. Empty: each file's first line names them.
      line_breaks: quoted fields may hold line breaks. Then one task reads a whole file. A field has at most
        `MOST_CHARACTERS`: otherwise a quote that is never closed would swallow the file.

    Raises:
      InputError: a file or a column is missing.
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
            elsewhere = {name for name in names if any(f"/{name}=" in unquote(file) for file in rows.inputFiles())}
            subfolders = not _in_folder_names(elsewhere, rows, path=path)
        else:
            rows = reader(True).csv(spark_path(path))
            subfolders = not _in_folder_names(set(columns) - set(rows.columns), rows, path=path)
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
    return rows.select(*map(quoted, columns), CORRUPT, _file(rows))


def read_jsonl(spark: SparkSession, path: str, *, columns: Sequence[str], plain: Sequence[str] = ()) -> DataFrame:
    """The named top-level keys as text, `CORRUPT` and `FILE`. A key that a line lacks is null.

    A line that is not exactly one object is corrupt.

    Args:
      spark: the session.
      path: a file, a folder or a glob. The ending `.gz` means gzip.
      columns: the keys to keep. Objects and lists become JSON text.
      plain: the keys that must hold one plain value. A line with an object or a list there is corrupt.

    Raises:
      InputError: a file is missing, or no line has one of the keys.
    """
    with reading(path):
        lines = _text(spark, path)
        if set(columns) - _keys(lines.limit(_SAMPLE_LINES)):
            found = _keys(lines)
            if found or lines.head(1):
                check_columns(columns, sorted(found), path=path)
        # Spark ignores what follows the first object of a line, except inside a list
        object_ = F.rtrim("value", F.lit(f",{_BLANK}"))  # lines cut from a list end with a comma
        listed = F.concat(F.lit("["), object_, F.lit(f',{{"{_END}":0}}]'))
        records = F.from_json(listed, ArrayType(_text_schema([*columns, _END])))
        rows = lines.filter(F.btrim("value", F.lit(_BLANK)) != "").select(
            "value", records.alias("records"), _file(lines)
        )
    record, end = (F.get("records", F.lit(place)) for place in (0, 1))
    whole = (F.size("records") == 2) & record.isNotNull() & end[_END].isNotNull()
    good = F.coalesce(reduce(and_, (~_is_nested(record[name], F.col("value")) for name in plain), whole), F.lit(False))
    rows = rows.withColumn("good", good)
    return rows.select(
        *(F.when(F.col("good"), record[name]).alias(name) for name in columns),
        F.when(~F.col("good"), F.col("value")).alias(CORRUPT),
        FILE,
    )


def read_lines(spark: SparkSession, path: str) -> DataFrame:
    """The lines that are not blank, as `value`, and `FILE`. Bytes that are not UTF-8 become U+FFFD."""
    with reading(path):
        lines = _text(spark, path)
        lines = lines.select(F.make_valid_utf8("value").alias("value"), _file(lines))
        return lines.filter(F.col("value").rlike(r"\S"))


def quoted(name: str) -> str:
    """A column's name in Spark's quotes, for names with dots or spaces."""
    return "`" + name.replace("`", "``") + "`"


def spark_path(path: str | Path) -> str:
    """The path for Spark.

    A path without a scheme is local or on a shared mount, whatever the cluster's default file system.
    """
    return path if isinstance(path, str) and "://" in path else f"file:{os.path.abspath(path)}"


def _text_schema(names: Sequence[str]) -> StructType:
    return StructType([StructField(name, StringType()) for name in names])


def _file(rows: DataFrame) -> Column:
    """The file that a row came from.

    It is right even if the input has a column `_metadata`, the name of Spark's own column.
    """
    return rows.metadataColumn("_metadata")["file_path"].alias(FILE)


def _text(spark: SparkSession, path: str) -> DataFrame:
    return spark.read.text(spark_path(path), recursiveFileLookup=True)


def _in_folder_names(missing: Collection[str], rows: DataFrame, *, path: str) -> bool:
    """Whether the names of folders give these columns, which the files lack, as in `shop=nl`.

    Spark either searches all subfolders or takes columns from folder names. In the second case it skips files outside
    these folders.

    Raises:
      InputError: a file lies outside these folders; the text names it.
    """
    files = (
        {file: all(f"/{name}=" in unquote(file) for name in missing) for file in rows.inputFiles()} if missing else {}
    )
    if not any(files.values()):
        return False
    if outside := [file for file, inside in files.items() if not inside]:
        raise InputError(
            f"{path}: {outside[0]} is not in a folder that names {', '.join(sorted(missing))}, unlike other files. "
            "Move the file into one, or take it out of the input"
        )
    return True


def _nanosecond_columns(rows: DataFrame, columns: Sequence[str], *, path: str) -> set[str]:
    """The columns with times in nanoseconds, by the footers of all files.

    Raises:
      InputError: a column has them in some files only.
    """
    times = {
        name for name in columns if isinstance(rows.schema[name].dataType, LongType | TimestampType | TimestampNTZType)
    }
    files = rows.inputFiles() if times else []
    with ThreadPoolExecutor(16) as pool:
        found = dict(zip(files, pool.map(_nanoseconds_of, files), strict=True))
    somewhere = times & set().union(*found.values())
    for file, names in found.items():
        if other := sorted(somewhere - names):
            one = next(one for one, names in found.items() if other[0] in names)
            raise InputError(
                f"{path}: {one} has the column {other[0]} in nanoseconds, {file} does not. Write it alike in all files"
                " (pandas: coerce_timestamps='us'), or read the files in separate runs"
            )
    return somewhere


def _nanoseconds_of(file: str) -> set[str]:
    """The columns of a Parquet file with times in nanoseconds that Spark takes for numbers.

    Spark reads INT96 as times.
    """
    try:
        system, name = pafs.FileSystem.from_uri(file)
        schema = pq.read_metadata(name, filesystem=system).schema
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {file}: {error}. Check that it is complete, or take it out of the input"
        ) from None
    fields = [schema.column(place) for place in range(len(schema))]
    return {one.path for one in fields if one.physical_type == "INT64" and "=nanoseconds" in str(one.logical_type)}


def _value(field: StructField, *, nanoseconds: bool) -> Column:
    """A column of a Parquet file as `read_parquet` gives it."""
    value = F.col(quoted(field.name))
    if isinstance(field.dataType, StringType):
        return F.make_valid_utf8(value)  # some writers do not check this, and Python could not read the text
    if nanoseconds:
        return F.timestamp_micros(F.expr(f"{quoted(field.name)} div 1000"))
    if isinstance(field.dataType, DecimalType) and field.dataType.scale > 0:
        whole = value.cast("decimal(38,0)").cast("string")
        return F.when(value % 1 == 0, whole).otherwise(value.cast("string"))
    if not isinstance(field.dataType, FloatType | DoubleType):
        return value
    number = value.try_cast("bigint")
    unclear = F.isnan(value) | (F.abs(value) >= 2.0 ** (24 if isinstance(field.dataType, FloatType) else 53))
    return F.when(~unclear, F.when(value == number, number.cast("string")).otherwise(value.cast("string")))


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
