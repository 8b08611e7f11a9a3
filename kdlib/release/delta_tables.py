"""Delivered tables as Delta Lake tables, partitioned by `ds`. Needs the package `deltalake`.

Each commit holds the name of the run's folder (`Delivered.folders`). So the last commit says what the table holds.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import fs

from kdlib.errors import ConfigError, extra_hint
from kdlib.release import promotions
from kdlib.release.places import TABLES, read_bytes
from kdlib.release.promotions import Promotion

PROPERTY = "distilrec.files"
"""Key of a commit's metadata; its value is the name of the run's folder (`Delivered.folders`)."""


def delta_error() -> type[Exception]:
    """The exception class of `deltalake`.

    Raises:
      ConfigError: the package is not installed.
    """
    try:
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise ConfigError(
            f"delivery.format delta needs deltalake, which is not installed here: install {extra_hint('delta')}"
        ) from None
    return DeltaError


def commit(root: Path, night: Promotion, table: str, target: str, *, kept: list[str], name: str, rewrite: bool) -> None:
    """Write a run into a Delta table and delete the dates that are not kept, in one commit.

    Dates after the run are deleted even if they are kept: a rollback has taken them out of use. A table that the run
    does not have is emptied.

    Args:
      root: the output folder.
      night: the run in use.
      table: name of the table.
      target: URL of the Delta table.
      kept: dates that stay, `YYYY-MM-DD`.
      name: the run's folder, from `parquet_files.folder_of`.
      rewrite: write the run even if the last commit says that the table holds it.
    """
    from deltalake import DeltaTable, write_deltalake

    exists = DeltaTable.is_deltatable(target)
    if table not in night.versions:
        if exists:
            DeltaTable(target).delete()
        return
    if exists and not rewrite and DeltaTable(target).history(1)[0].get(PROPERTY) == name:
        return
    data = pads.dataset(promotions.folder_of(root, night, table), format="parquet")
    batches = (batch.append_column("ds", pa.repeat(night.ds, len(batch))) for batch in data.to_batches())
    reader = pa.RecordBatchReader.from_batches(data.schema.append(pa.field("ds", pa.string())), batches)
    write_deltalake(
        target,
        reader,
        mode="overwrite",
        schema_mode="merge",
        partition_by=["ds"],
        commit_properties=_properties(name),
        predicate=f"ds >= '{night.ds}' OR ds NOT IN ({', '.join(map(repr, kept))})" if exists else None,
        # no statistics in the log: they are values, and the id of a forgotten user would stay there
        configuration=None if exists else {"delta.dataSkippingNumIndexedCols": "0"},
    )


def vacuum(target: str, *, name: str, all_now: bool) -> None:
    """Remove files that the Delta table no longer uses: files older than a week, or all of them with `all_now`."""
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(target):
        return
    how: dict[str, Any] = {"retention_hours": 0, "enforce_retention_duration": False, "full": True} if all_now else {}
    DeltaTable(target).vacuum(dry_run=False, commit_properties=_properties(name), **how)


def _properties(name: str) -> Any:
    from deltalake import CommitProperties

    return CommitProperties(custom_metadata={PROPERTY: name})


def remove_delta_tables(system: fs.FileSystem, base: str) -> None:
    """Remove the Delta tables that distilrec has written. A table without our property belongs to somebody else."""
    for table in TABLES:
        log = system.get_file_info(fs.FileSelector(f"{base}/{table}/_delta_log", allow_not_found=True))
        commits = [info.path for info in log if info.extension == "json"]
        if any(PROPERTY.encode() in read_bytes(system, path) for path in commits):
            for info in system.get_file_info(fs.FileSelector(f"{base}/{table}")):
                # the log goes last: it says that the table is ours, which a second attempt needs to know
                if not info.is_file and info.base_name != "_delta_log":
                    system.delete_dir(info.path)
            system.delete_dir(f"{base}/{table}")
