"""Files → rows of the mapped columns, as they are written. Rows that do not parse are kept, as text, in `CORRUPT`.

CSV and JSON values are read as text, so that a value of the wrong type is one quarantined row and not a failed night.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, MapType, StringType, StructField, StructType

from kdlib.errors import InputError

CORRUPT = "_corrupt_record"
"""The text of a line that does not parse; null in a good row."""
FILE = "_input_file"
"""The file that a row came from."""

_BLANK = "".join(map(chr, range(33)))
"""Blanks and control characters: a line of nothing else is no row."""
_SAMPLE_LINES = 1_000
"""So many JSON lines are looked at for their keys before all of them are."""


def read_parquet(spark: SparkSession, path: str, *, columns: Sequence[str]) -> DataFrame:
    """The named columns with their own types, `CORRUPT` (always null) and `FILE`.

    Raises:
      InputError: no such file, an unreadable one, a missing column, or one that holds lists, maps or structs.
    """
    with reading(path):
        try:
            rows = spark.read.parquet(spark_path(path))
        except (AnalysisException, Py4JJavaError) as error:
            if "TIMESTAMP(NANOS" not in str(error):
                raise
            # pandas writes nanoseconds, which Spark reads only as whole numbers
            spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
            rows = spark.read.parquet(spark_path(path))
    check_columns(columns, rows.columns, path=path)
    for column in columns:
        type_ = rows.schema[column].dataType
        if isinstance(type_, ArrayType | MapType | StructType | BinaryType):
            raise InputError(
                f"{path}: the column {column} must hold one plain value a row, found {type_.simpleString()}; "
                "map another column"
            )
    return rows.select(*map(quoted, columns), F.lit(None).cast("string").alias(CORRUPT), _file())


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
      line_breaks: quoted fields may hold line breaks (then a file is read by one task).

    Raises:
      InputError: no such file, or a missing column.
    """
    reader = spark.read.options(sep=delimiter, quote='"', escape='"', header=not names, multiLine=line_breaks)
    found = list(names)
    if not names:
        with reading(path):
            found = reader.csv(spark_path(path)).columns
    hint = ""
    if len(found) == 1:
        hint = f". The header is a single field, so the delimiter is probably not {delimiter!r}: set delimiter"
    check_columns(columns, found, path=path, hint=hint)
    # Without column pruning Spark counts every line's fields; enforceSchema off: each file's header must be the same.
    strict = reader.options(
        mode="PERMISSIVE", columnNameOfCorruptRecord=CORRUPT, columnPruning=False, enforceSchema=False
    )
    with reading(path):
        rows = strict.schema(_text_schema([*found, CORRUPT])).csv(spark_path(path))
    return rows.select(*map(quoted, columns), CORRUPT, _file())


def read_jsonl(spark: SparkSession, path: str, *, columns: Sequence[str]) -> DataFrame:
    """The named top-level keys as text, `CORRUPT` and `FILE`; a key that a line lacks is null.

    Raises:
      InputError: no such file, or a key that no line has.
    """
    with reading(path):
        lines = spark.read.text(spark_path(path))
        if set(columns) - _keys(lines.limit(_SAMPLE_LINES)):
            found = _keys(lines)
            if found or lines.head(1):
                check_columns(columns, sorted(found), path=path)
        # Spark's own reader of JSON files makes no row of a line `[]` and several of an array
        how = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": CORRUPT}
        record = F.from_json("value", _text_schema([*columns, CORRUPT]), how)
        rows = lines.filter(F.btrim("value", F.lit(_BLANK)) != "").select("value", record.alias("record"), _file())
    no_record = F.btrim("value", F.lit(_BLANK)).startswith("[") | F.col("record").isNull()
    return rows.select(
        *(F.when(~no_record, F.col("record")[name]).alias(name) for name in columns),
        F.when(no_record, F.col("value")).otherwise(F.col("record")[CORRUPT]).alias(CORRUPT),
        FILE,
    )


def read_lines(spark: SparkSession, path: str) -> DataFrame:
    """The lines that are not blank, as `value`, and `FILE`."""
    with reading(path):
        return spark.read.text(spark_path(path)).select("value", _file()).filter(F.col("value").rlike(r"\S"))


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
            raise InputError(
                f"the CSV files of {path} do not all have the same header; see {file[1] if file else 'the log'}. "
                "Give them one order of columns, or read them in separate runs"
            ) from None
        if "FAILED_READ_FILE" in text:
            file = re.search(r"reading file (\S+)", text)
            causes = re.findall(r"Caused by: (.+)", text)
            cause = causes[-1].strip() if causes else "damaged file"
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


def spark_path(path: str) -> str:
    """Paths without a scheme are local (or on a shared mount), whatever file system the cluster has for its default."""
    return path if "://" in path else f"file:{os.path.abspath(path)}"


def _text_schema(names: Sequence[str]) -> StructType:
    return StructType([StructField(name, StringType()) for name in names])


def _file():
    return F.col("_metadata.file_path").alias(FILE)


def _keys(lines: DataFrame) -> set[str]:
    return {
        row["key"] for row in lines.select(F.explode(F.json_object_keys("value")).alias("key")).distinct().collect()
    }
