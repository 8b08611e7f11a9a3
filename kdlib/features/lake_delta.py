"""The live files of a Delta Lake table, by the package `deltalake`."""

from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from kdlib.errors import ConfigError, InputError, extra_hint
from kdlib.features.lake_snapshot import Snapshot


def delta_snapshot(path: str) -> Snapshot:
    """The table at a path, as it is now; see `kdlib.features.lake.snapshot`."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError:
        raise ConfigError(
            f"input format delta needs deltalake, which is not installed here: install {extra_hint('delta')}"
        ) from None
    try:
        table = DeltaTable(path)
        _check_readable(table, path)
        added = pa.table(table.get_add_actions(flatten=False))
    except TableNotFoundError:
        raise InputError(
            f"{path} is no Delta table: expected a folder with _delta_log. Check the path, or set another format"
        ) from None
    except (DeltaError, OSError) as error:
        raise InputError(
            f"cannot read the Delta table {path}: {str(error).splitlines()[0]}. Check the path and this machine's"
            " access to it"
        ) from None
    metadata = table.metadata()
    parts = added.column("partition").to_pylist() if metadata.partition_columns else [{}] * added.num_rows
    files = [
        file if "://" in file else f"{path.rstrip('/')}/{file}"
        for file in map(unquote, added.column("path").to_pylist())
    ]
    return Snapshot(
        version=f"{table.version()}.{metadata.id}",
        schema=pa.schema(table.schema().to_arrow()),
        files=dict(zip(files, parts, strict=True)),
    )


def _check_readable(table: Any, path: str) -> None:
    """Raise InputError where the Parquet files alone do not give the rows."""
    mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mapping != "none":
        raise InputError(
            f"the Delta table {path} has column mapping ({mapping}): its files have other column names. Give a copy"
            " without it: CREATE TABLE … AS SELECT, with delta.columnMapping.mode = none"
        )
    if "deletionVectors" in (table.protocol().reader_features or ()) and next(table.deletion_vectors(), None):
        raise InputError(
            f"the Delta table {path} has deletion vectors: its files still hold deleted rows. Rewrite them with REORG"
            " TABLE … APPLY (PURGE)"
        )
