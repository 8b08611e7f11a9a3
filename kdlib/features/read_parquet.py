"""Parquet files, and tables that consist of them → rows of the mapped columns."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import pyarrow.fs as pafs
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
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
from kdlib.features.lake import Lake, read_files, snapshot, spark_schema
from kdlib.features.read import FILE, file_column, in_folder_names, quoted, spark_path
from kdlib.features.read_errors import CORRUPT, check_columns, reading
from kdlib.features.where import FILTERED, filter_columns, with_filtered
from kdlib.store.remote_files import is_object, open_remote

WRITTEN = "written"
"""Key in the metadata of a Parquet column: its type in the file. `_value` turns some types into text."""

_NANOSECONDS_AS_NUMBERS = "spark.sql.legacy.parquet.nanosAsLong"


def read_parquet(
    spark: SparkSession, path: str, *, columns: Sequence[str], where: str | None = None, lists: Collection[str] = ()
) -> DataFrame:
    """The named columns with their own types, `CORRUPT` (always null), `FILE` and `FILTERED`.

    Times in nanoseconds become timestamps. Floats and decimals become text, and whole ones have no fraction: pandas
    writes whole numbers as floats where a value is missing. NaN becomes null. Floats too large to tell two whole
    numbers apart become null too (from 2^53 on; from 2^24 on in 32 bits). Columns of `lists` may hold lists, which
    become JSON text.

    Raises:
      InputError: a file is missing or unreadable. A column is missing, or holds lists, maps or structs, or has times in
        nanoseconds in some files only.
      ConfigError: the filter is wrong.
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
        named = filter_columns(spark, where, found=rows.columns, path=path)
        if in_folder_names({*columns, *named} - {*rows.columns}, rows, path=path):
            rows = load(False)
    found = rows.columns
    _check_plain(rows, columns, path=path, lists=lists)
    rows = rows.select("*", file_column(rows))
    if spark.conf.get(_NANOSECONDS_AS_NUMBERS, "false") == "true":
        numbers = _nanosecond_columns(rows, [name for name in {*columns, *named} if name in found], path=path)
        rows = rows.withColumns({name: F.timestamp_micros(F.expr(f"{quoted(name)} div 1000")) for name in numbers})
    rows = with_filtered(rows, where, found=found, path=path, parsed=F.lit(True))
    return _mapped(rows, columns)


def read_lake(
    spark: SparkSession,
    path: str,
    *,
    format_: Lake,
    columns: Sequence[str],
    where: str | None = None,
    lists: Collection[str] = (),
) -> DataFrame:
    """The rows of a Delta Lake or Iceberg table, as `read_parquet` gives those of Parquet files.

    Raises:
      InputError: as `read_parquet`, or as `kdlib.features.lake.snapshot`.
      ConfigError: the filter is wrong, or the package that reads the format is not installed.
    """
    table = snapshot(path, format_)
    found = spark_schema(table).names
    filter_columns(spark, where, found=found, path=path)
    with reading(path):
        rows = read_files(spark, table)
    _check_plain(rows, columns, path=path, lists=lists)
    return _mapped(with_filtered(rows, where, found=found, path=path, parsed=F.lit(True)), columns)


def _check_plain(rows: DataFrame, columns: Sequence[str], *, path: str, lists: Collection[str]) -> None:
    """Raise InputError where a mapped column is missing or holds something else than plain values."""
    check_columns(columns, rows.columns, path=path)
    for column in columns:
        type_ = rows.schema[column].dataType
        if column in lists and isinstance(type_, ArrayType):
            continue
        if isinstance(type_, ArrayType | MapType | StructType | BinaryType):
            raise InputError(
                f"{path}: the column {column} must hold one plain value a row, found {type_.simpleString()}. "
                "Map another column"
            )


def _mapped(rows: DataFrame, columns: Sequence[str]) -> DataFrame:
    """The mapped columns of typed rows, as `read_parquet` gives them."""
    values = [
        _value(rows.schema[name]).alias(name, metadata={WRITTEN: rows.schema[name].dataType.simpleString()})
        for name in columns
    ]
    return rows.select(*values, F.lit(None).cast("string").alias(CORRUPT), FILE, FILTERED)


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
        if is_object(file):  # with a connector
            schema = pq.read_metadata(open_remote(unquote(file))).schema
        else:
            system, name = pafs.FileSystem.from_uri(file)
            schema = pq.read_metadata(name, filesystem=system).schema
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {file}: {error}. Check that it is complete, or take it out of the input"
        ) from None
    fields = [schema.column(place) for place in range(len(schema))]
    return {one.path for one in fields if one.physical_type == "INT64" and "=nanoseconds" in str(one.logical_type)}


def _value(field: StructField) -> Column:
    """A column of a Parquet file as `read_parquet` gives it."""
    value = F.col(quoted(field.name))
    if isinstance(field.dataType, ArrayType):
        return F.to_json(value)
    if isinstance(field.dataType, StringType):
        return F.make_valid_utf8(value)  # some writers do not check this, and Python could not read the text
    if isinstance(field.dataType, DecimalType) and field.dataType.scale > 0:
        whole = value.cast("decimal(38,0)").cast("string")
        return F.when(value % 1 == 0, whole).otherwise(value.cast("string"))
    if not isinstance(field.dataType, FloatType | DoubleType):
        return value
    number = value.try_cast("bigint")
    unclear = F.isnan(value) | (F.abs(value) >= 2.0 ** (24 if isinstance(field.dataType, FloatType) else 53))
    return F.when(~unclear, F.when(value == number, number.cast("string")).otherwise(value.cast("string")))
