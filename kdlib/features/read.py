"""Files → rows of the mapped columns, as they are written. Rows that do not parse are kept, as text, in `CORRUPT`.

CSV and JSON values are read as text, so that a value of the wrong type is one quarantined row and not a failed night. A
path means all files below it, in whatever subfolders.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from operator import and_
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
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

CORRUPT = "_corrupt_record"
"""The text of a line that does not parse; null in a good row."""
WRITTEN = "written"
"""In the metadata of a column of a Parquet file: the type that it has there; `_value` makes text of some."""
FILE = "_input_file"
"""The file that a row came from."""

_BLANK = "".join(map(chr, range(33)))
"""Blanks and control characters: a line of nothing else is no row."""
_SAMPLE_LINES = 1_000
"""So many JSON lines are looked at for their keys before all of them are."""
_END = "_end_of_line"
"""The key of an object that is put after each JSON line: a line that is more or less than one object hides or moves it."""
MOST_CHARACTERS = 1_000_000
"""Of a CSV field that may hold line breaks."""
_NANOSECONDS_AS_NUMBERS = "spark.sql.legacy.parquet.nanosAsLong"


def read_parquet(spark: SparkSession, path: str, *, columns: Sequence[str]) -> DataFrame:
    """The named columns with their own types, `CORRUPT` (always null) and `FILE`.

    Times in nanoseconds become timestamps. Floats become text, `12` for 12.0, as pandas writes whole numbers where one is
    missing; null for NaN and for what is too large to tell two whole numbers apart (from 2^53 on, 2^24 for 32 bits).

    Raises:
      InputError: no such file, an unreadable one, a missing column, one that holds lists, maps or structs, or times in
        nanoseconds in some files only.
    """

    def load(subfolders: bool) -> DataFrame:
        try:
            return spark.read.parquet(spark_path(path), recursiveFileLookup=subfolders)
        except (AnalysisException, Py4JJavaError) as error:
            if "TIMESTAMP(NANOS" not in str(error):
                raise
            # pandas writes nanoseconds, which Spark reads only as whole numbers
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
                f"{path}: the column {column} must hold one plain value a row, found {type_.simpleString()}; "
                "map another column"
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
      path: a file, a folder or a glob; gzip by the `.gz` ending.
      columns: the columns to keep.
      delimiter: between two fields. Fields may be quoted with `"`, doubled inside.
      names: the names of all fields, in order, of files without a header; empty: each file's first line names them.
      line_breaks: quoted fields may hold line breaks (then a file is read by one task, and no field may have more than
        `MOST_CHARACTERS`, lest one quote that is never closed swallows the file).

    Raises:
      InputError: no such file, or a missing column.
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
        hint = f". The header is a single field, so the delimiter is probably not {delimiter!r}: set delimiter"
    check_columns(columns, found, path=path, hint=hint)
    # Without column pruning Spark counts every line's fields; enforceSchema off: each file's header must be the same.
    strict = reader(subfolders).options(
        mode="PERMISSIVE", columnNameOfCorruptRecord=CORRUPT, columnPruning=False, enforceSchema=False
    )
    with reading(path):
        rows = strict.schema(_text_schema([*found, CORRUPT])).csv(spark_path(path))
    return rows.select(*map(quoted, columns), CORRUPT, _file(rows))


def read_jsonl(spark: SparkSession, path: str, *, columns: Sequence[str], plain: Sequence[str] = ()) -> DataFrame:
    """The named top-level keys as text, `CORRUPT` and `FILE`; a key that a line lacks is null.

    A line that is not one object, and nothing besides, is corrupt.

    Args:
      spark: the session.
      path: a file, a folder or a glob; gzip by the `.gz` ending.
      columns: the keys to keep. Of an object or a list they hold its JSON text.
      plain: of them, those that must hold one plain value: a line with an object or a list there is corrupt.

    Raises:
      InputError: no such file, or a key that no line has.
    """
    with reading(path):
        lines = _text(spark, path)
        if set(columns) - _keys(lines.limit(_SAMPLE_LINES)):
            found = _keys(lines)
            if found or lines.head(1):
                check_columns(columns, sorted(found), path=path)
        # Spark reads the first object of a line and passes over what follows it: only within a list it takes offence
        object_ = F.rtrim("value", F.lit(f",{_BLANK}"))  # lines of what was a list end with a comma
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
    """The lines that are not blank, as `value`, and `FILE`. Bytes that are no UTF-8 become U+FFFD."""
    with reading(path):
        lines = _text(spark, path)
        lines = lines.select(F.make_valid_utf8("value").alias("value"), _file(lines))
        return lines.filter(F.col("value").rlike(r"\S"))


def quoted(name: str) -> str:
    """A column's name as Spark wants it where it holds dots or spaces."""
    return "`" + name.replace("`", "``") + "`"


def check_columns(wanted: Sequence[str], found: Sequence[str], *, path: str, hint: str = "") -> None:
    """All wanted columns are there.

    Raises:
      InputError: names the missing ones and those found.
    """
    if missing := [name for name in wanted if name not in found]:
        raise InputError(
            f"{path} lacks the mapped column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; found "
            f"{', '.join(found) or 'none'}{hint or '. Mend the column names in the run config'}"
        )


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn Spark's errors about the input files, which may come only when it runs, into InputError."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if "PATH_NOT_FOUND" in text:
            missing = re.search(r"Path does not exist: (?:file:)?(\S+?)\.?(?:\s|$)", text)
            raise InputError(
                f"no file matches {missing[1] if missing else path}: check the path in the run config"
            ) from None
        if "UNABLE_TO_INFER_SCHEMA" in text:
            raise InputError(f"{path} holds no data files (names that begin with . or _ do not count)") from None
        if "CSV header does not conform" in text:
            file = re.search(r"CSV file: (\S+)", text)
            header = re.search(r"Header: (.+)", text)
            names = header[1].split(", ") if header else []
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise InputError(
                    f"the header of {file[1] if file else path} has {', '.join(twice)} twice. Rename one, or set header: false"
                    " and columns in the run config"
                ) from None
            if "but found: \n" in text:
                raise InputError(
                    f"the header of {file[1] if file else path} has a field without a name. Name it in the file, or set"
                    " header: false and columns in the run config"
                ) from None
            schema = re.search(r"Schema: (.+)", text)
            found, expected = (part[1].removesuffix(f", {CORRUPT}") if part else "" for part in (header, schema))
            raise InputError(
                f"the CSV files of {path} do not all have the same header: {file[1] if file else 'one'} has {found}, where the"
                f" first has {expected}. Give them the same columns in one order, or take it out of the input"
            ) from None
        if illegal := re.search(r"Illegal Parquet type: (.+?)\.? SQLSTATE", text):
            raise InputError(
                f"{path} has a column of the Parquet type {illegal[1]}, which Spark cannot read: leave it out of the export, or"
                " write it as text"
            ) from None
        if "MALFORMED_CSV_RECORD" in text:
            raise InputError(
                f"{path}: a field has more than {MOST_CHARACTERS:,} characters, so that a quote is probably not closed:"
                " close it, or double the quotes within the field"
            ) from None
        if "FAILED_READ_FILE" in text:
            file = re.search(r"reading file (\S+)", text)
            causes = re.findall(r"Caused by: (.+)", text)
            cause = causes[-1].strip() if causes else "damaged file"
            if f"out of bounds for length {MOST_CHARACTERS}" in cause:
                cause = f"a field has more than {MOST_CHARACTERS:,} characters: a quote is probably not closed"
            if other := re.search(r"column: \[(.+?)\], physicalType: (\w+), logicalType: (\w+)", cause):
                raise InputError(
                    f"{file[1].rstrip('.') if file else path} has the column {other[1]} as {other[2]}, other files of"
                    f" {path} as {other[3]}. Give it one type in all files, or read them in separate runs"
                ) from None
            raise InputError(
                f"cannot read {file[1].rstrip('.') if file else path}: {cause}. "
                "Is it whole, and is the format right? Replace it or take it out of the input"
            ) from None
        raise


def spark_path(path: str | Path) -> str:
    """Paths without a scheme are local (or on a shared mount), whatever file system the cluster has for its default."""
    return path if isinstance(path, str) and "://" in path else f"file:{os.path.abspath(path)}"


def _text_schema(names: Sequence[str]) -> StructType:
    return StructType([StructField(name, StringType()) for name in names])


def _file(rows: DataFrame) -> Column:
    """The file that a row was read from, also where the input has a column of the name that Spark keeps it under."""
    return rows.metadataColumn("_metadata")["file_path"].alias(FILE)


def _text(spark: SparkSession, path: str) -> DataFrame:
    return spark.read.text(spark_path(path), recursiveFileLookup=True)


def _in_folder_names(missing: Collection[str], rows: DataFrame, *, path: str) -> bool:
    """Whether these columns, which the files lack, stand in the names of their folders, as in `shop=nl`.

    Spark either looks into all subfolders or takes columns from their names, and then passes over files outside such ones.

    Raises:
      InputError: names a file that lies outside.
    """
    files = (
        {file: all(f"/{name}=" in unquote(file) for name in missing) for file in rows.inputFiles()} if missing else {}
    )
    if not any(files.values()):
        return False
    if outside := [file for file, inside in files.items() if not inside]:
        raise InputError(
            f"{path}: {outside[0]} lies in no folder that tells {', '.join(sorted(missing))}, as other files do: "
            "move it into one, or take it out of the input"
        )
    return True


def _nanosecond_columns(rows: DataFrame, columns: Sequence[str], *, path: str) -> set[str]:
    """Those that hold times in nanoseconds, by the footers of all files; InputError where only some files' do."""
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
                f"{path}: {one} has the column {other[0]} in nanoseconds, {file} has not. Write it alike in all files"
                " (pandas: coerce_timestamps='us'), or read them in separate runs"
            )
    return somewhere


def _nanoseconds_of(file: str) -> set[str]:
    """The columns of a Parquet file that hold times in nanoseconds which Spark takes for numbers; INT96 it knows."""
    try:
        system, name = pafs.FileSystem.from_uri(file)
        schema = pq.read_metadata(name, filesystem=system).schema
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}. Is it whole? Replace it or take it out of the input") from None
    fields = [schema.column(place) for place in range(len(schema))]
    return {one.path for one in fields if one.physical_type == "INT64" and "=nanoseconds" in str(one.logical_type)}


def _value(field: StructField, *, nanoseconds: bool) -> Column:
    """A column of a Parquet file as `read_parquet` gives it."""
    value = F.col(quoted(field.name))
    if isinstance(field.dataType, StringType):
        return F.make_valid_utf8(value)  # which other writers do not see to, and Python cannot read otherwise
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
    """Whether the text of a line's JSON value is an object or a list; neither `[deleted]` is, nor a string `"[1]"`. Never null."""
    parsed = F.when(text.startswith("{"), F.json_object_keys(text).isNotNull()).when(
        text.startswith("["), F.json_array_length(text).isNotNull()
    )
    return F.coalesce(parsed & ~line.contains(F.concat(F.lit('"'), text, F.lit('"'))), F.lit(False))


def _keys(lines: DataFrame) -> set[str]:
    return {
        row["key"] for row in lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct().collect()
    }
