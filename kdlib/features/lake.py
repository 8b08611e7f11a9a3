"""Tables of Delta Lake and Apache Iceberg: their live Parquet files, and the rows of these files.

The library of the format reads the table's metadata (`lake_delta`, `lake_iceberg`), and Spark reads the Parquet files.
A table whose files alone do not give its rows is an error, for example a table with deletion vectors.
"""

import re
from typing import Literal
from urllib.parse import unquote

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import StringType, StructField, StructType

from kdlib.errors import InputError
from kdlib.features.lake_delta import delta_snapshot
from kdlib.features.lake_iceberg import iceberg_snapshot
from kdlib.features.lake_snapshot import Snapshot
from kdlib.features.read import FILE, file_column, quoted, spark_paths
from kdlib.features.stored_input import shop_name

LAKES = ("delta", "iceberg")
_PARTITION = "_partition "
"""Prefix of the columns with the values of partitions, and the name of the column with their file."""
_LOCAL = r"^file:/+"
"""Spark writes `file:/a` in some places and `file:///a` in others. Here both become `/a`."""
Lake = Literal["delta", "iceberg"]


def snapshot(path: str, format_: Lake) -> Snapshot:
    """The table at a path, as it is now.

    Args:
      path: the table's folder; for Iceberg also a metadata file.
      format_: format of the table.

    Raises:
      ConfigError: the package that reads the format is not installed.
      InputError: the path holds no table, the table has no rows, or its Parquet files alone do not give its rows.
    """
    found = delta_snapshot(path) if format_ == "delta" else iceberg_snapshot(path)
    if not found.files:
        raise InputError(
            f"the {format_} table {path} has no rows (version {found.version}). Check that it is the right table and"
            " that the export has run"
        )
    return found


def spark_schema(table: Snapshot) -> StructType:
    """The columns that Spark can read, with Spark's types."""
    fields = []
    for field in table.schema:
        try:
            fields.append(StructField(field.name, from_arrow_type(field.type, prefer_timestamp_ntz=True)))
        except PySparkException:  # a type that Spark does not know, such as UUID
            continue
    return StructType(fields)


def read_files(spark: SparkSession, table: Snapshot) -> DataFrame:
    """All columns of the table that Spark can read, and `FILE`."""
    schema = spark_schema(table)
    paths = [re.sub(r"([\[\]{}*?\\])", r"\\\1", file) for file in spark_paths(table.files)]  # no pattern
    rows = spark.read.schema(schema).parquet(*paths, recursiveFileLookup=True)
    rows = rows.select("*", file_column(rows))
    fields = [field for field in schema if any(field.name in values for values in table.files.values())]
    if not fields:
        return rows
    by_file = {re.sub(_LOCAL, "/", file): values for file, values in table.files.items()}
    values = []
    for name in rows.inputFiles():
        file = re.sub(_LOCAL, "/", shop_name(name))
        values.append((file, *(by_file[unquote(file)].get(field.name) for field in fields)))
    named = {field.name: f"{_PARTITION}{field.name}" for field in fields}
    columns = [StructField(_PARTITION, StringType()), *(StructField(named[one.name], one.dataType) for one in fields)]
    partitions = F.broadcast(spark.createDataFrame(values, StructType(columns)))
    rows = rows.join(partitions, on=F.regexp_replace(FILE, _LOCAL, "/") == partitions[_PARTITION], how="left")
    unknown = F.raise_error(F.concat(F.lit("no partition is known for "), F.col(FILE)))
    rows = rows.withColumn(FILE, F.when(F.col(quoted(_PARTITION)).isNotNull(), F.col(FILE)).otherwise(unknown))
    given = {name: F.coalesce(quoted(name), quoted(other)) for name, other in named.items()}
    return rows.withColumns(given).drop(_PARTITION, *named.values())
