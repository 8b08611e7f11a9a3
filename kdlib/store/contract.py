"""A table's contract, and the checks that a folder of Parquet files keeps it."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.errors import ContractError
from kdlib.store.working_copy import fetch

TIME = pa.timestamp("us", tz="UTC")

_AGAIN = "Run the stage that makes the table again"


@dataclass(frozen=True)
class Table:
    """A table's contract."""

    name: str
    key: tuple[str, ...]
    """The grain: columns that are distinct together, and never null. Empty: rows may repeat."""
    schema: pa.Schema
    may_be_empty: bool = False


def schema_of(**columns: pa.DataType | tuple[pa.DataType, bool]) -> pa.Schema:
    """A schema from `name=type` (never null) and `name=(type, True)` (may be null)."""
    return pa.schema(
        [
            pa.field(name, spec[0], nullable=spec[1])
            if isinstance(spec, tuple)
            else pa.field(name, spec, nullable=False)
            for name, spec in columns.items()
        ]
    )


def check_schema(table: Table, schema: pa.Schema, *, where: str | Path) -> None:
    """Check that a schema has the contract's columns and types. Order, nullability and a column `ds` do not matter.

    Args:
      table: the contract.
      schema: the schema to check.
      where: the file or folder, for the error's text.

    Raises:
      ContractError: a column is missing, extra or of another type. The text names the first one.
    """
    for field in table.schema:
        index = schema.get_field_index(field.name)
        if index < 0:
            raise ContractError(
                f"table {table.name} at {where} lacks the column {field.name} ({field.type}), found {schema.names}."
                f" {_AGAIN}"
            )
        found = schema.field(index).type
        if _plain(found) != _plain(field.type):
            raise ContractError(
                f"table {table.name} at {where}: column {field.name} must be {field.type}, found {found}. {_AGAIN}"
            )
    if extra := sorted(set(schema.names) - set(table.schema.names) - {"ds"}):
        raise ContractError(f"table {table.name} at {where} has columns outside its contract: {extra}. {_AGAIN}")


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type without what writers of Parquet may choose: large offsets, name and nullability of list items."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(pa.field("item", _plain(type_.value_type)))
    if pa.types.is_large_string(type_):
        return pa.string()
    if pa.types.is_large_binary(type_):
        return pa.binary()
    return type_


def check_files(table: Table, folder: Path) -> int:
    """Check a folder of Parquet files against the contract, from the footers where they suffice.

    Returns:
      The number of rows.

    Raises:
      ContractError: no files, an unreadable file, a wrong schema, nulls where none may be, or no rows.
    """
    files = sorted(fetch(folder).glob("*.parquet"))
    if not files:
        raise ContractError(f"table {table.name}: no Parquet files in {folder}. {_AGAIN}")
    rows = 0
    for file in files:
        try:
            footer = pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ContractError(f"table {table.name}: {file} is not a whole Parquet file: {error}. {_AGAIN}") from None
        check_schema(table, footer.schema.to_arrow_schema(), where=file)
        rows += footer.num_rows
        _check_nulls(table, footer, file)
    if rows == 0 and not table.may_be_empty:
        raise ContractError(
            f"table {table.name} at {folder} has no rows, and must have some. Check the input, then run its stage again"
        )
    return rows


def _check_nulls(table: Table, footer: pq.FileMetaData, file: Path) -> None:
    flat = {field.name for field in table.schema if not field.nullable and not pa.types.is_nested(field.type)}
    for group in range(footer.num_row_groups):
        for number in range(footer.num_columns):
            column = footer.row_group(group).column(number)
            name, statistics = column.path_in_schema, column.statistics
            if name not in flat:
                continue
            if statistics is not None and statistics.has_null_count:
                nulls = statistics.null_count
            else:  # writers omit the statistics of long values
                nulls = pq.ParquetFile(file).read_row_group(group, columns=[name])[name].null_count
            if nulls:
                raise ContractError(
                    f"table {table.name}: column {name} must not be null, found {nulls} nulls in {file}. {_AGAIN}"
                )
