"""Delivered tables as Delta Lake tables, partitioned by `ds`. Needs the package `deltalake`.

Each commit holds the name of the run's folder (`Delivered.folders`). So the last commit says what the table holds.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from kdlib.errors import ConfigError, extra_hint
from kdlib.release import promotions
from kdlib.release.places import TABLES
from kdlib.release.promotions import Promotion
from kdlib.store import objects
from kdlib.store.folders import Folder
from kdlib.store.waiting import wait_for

PROPERTY = "distilrec.files"
"""Key of a commit's metadata; its value is the name of the run's folder (`Delivered.folders`)."""
REQUESTS = 20
"""How many slow requests a step may make beside the transfer of the rows."""
DATA_FILE = re.compile(r"ds=\d{4}-\d\d-\d\d/part-[^/]+\.parquet")


def check_delta() -> None:
    """Raise ConfigError where the package `deltalake` is not installed."""
    try:
        import deltalake.exceptions  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"delivery.format delta needs deltalake, which is not installed here: install {extra_hint('delta')}"
        ) from None


def foreign_tables(there: Folder) -> list[str]:
    """The tables at a place that distilrec has not written: without our property in the log, or with other files.

    A first commit that was killed leaves data files without a log.
    """
    foreign = []
    for table in TABLES:
        files, log = _files_of(there, table)
        if not (_has_our_commit(there, table) if log else all(map(DATA_FILE.fullmatch, files))):
            foreign.append(table)
    return foreign


def _files_of(there: Folder, table: str) -> tuple[list[str], list[str]]:
    """The files of a Delta table, in order and relative to the table: data, log."""
    found = sorted(path.removeprefix(f"{table}/") for path in there.files(table) if path != table)  # a folder's marker
    log = [path for path in found if path.startswith("_delta_log/")]
    return [path for path in found if not path.startswith("_delta_log/")], log


def _has_our_commit(there: Folder, table: str) -> bool:
    return any(PROPERTY in commit for commit in _commits(there, table))


def _commits(there: Folder, table: str) -> Iterator[dict[str, Any]]:
    """What the log says of the commits, newest first. Nothing where the place has no Delta table.

    `DeltaTable.is_deltatable` and `history` say the same, but hold Python's interpreter lock while they wait.
    """
    log = sorted(there.files(f"{table}/_delta_log"), reverse=True)
    for path in (one for one in log if re.fullmatch(rf"{table}/_delta_log/\d+\.json", one)):
        if found := there.read(path):
            try:
                actions = [json.loads(line) for line in found.data.splitlines()]
                yield next((one["commitInfo"] for one in actions if "commitInfo" in one), {})
            except (ValueError, TypeError):  # somebody else's
                yield {}


def commit(
    root: Path, night: Promotion, table: str, there: Folder, *, kept: list[str], name: str, rewrite: bool
) -> None:
    """Write a run into a Delta table and delete the dates that are not kept, in one commit.

    Dates after the run are deleted even if they are kept: a rollback has taken them out of use. A table that the run
    does not have is emptied.

    Args:
      root: the output folder.
      night: the run in use.
      table: name of the table.
      there: the place.
      kept: dates that stay, `YYYY-MM-DD`.
      name: the run's folder, from `parquet_files.folder_of`; empty if the run does not have the table.
      rewrite: write the run even if the last commit says that the table holds it.

    Raises:
      OSError: the table cannot be reached or written.
    """
    target, last = f"{there.url}/{table}", next(_commits(there, table), None)
    if table in night.versions:
        if last is None or rewrite or last.get(PROPERTY) != name:
            size = sum(file["bytes"] for file in promotions.manifest_of(root, night, table).files)
            predicate = f"ds >= '{night.ds}' OR ds NOT IN ({', '.join(map(repr, kept))})" if last is not None else None
            source = promotions.folder_of(root, night, table)
            _within_time(lambda: _write(source, night.ds, target, predicate, name), target, size=size)
    elif last is not None:
        _within_time(lambda: _empty(target, name), target)


def _write(source: Path, ds: str, target: str, predicate: str | None, name: str) -> None:
    from deltalake import write_deltalake

    data = pads.dataset(source, format="parquet")
    batches = (batch.append_column("ds", pa.repeat(ds, len(batch))) for batch in data.to_batches())
    reader = pa.RecordBatchReader.from_batches(data.schema.append(pa.field("ds", pa.string())), batches)
    write_deltalake(
        target,
        reader,
        storage_options=_options(target),
        mode="overwrite",
        schema_mode="merge",
        partition_by=["ds"],
        commit_properties=_properties(name),
        predicate=predicate,
        # no statistics in the log: they are values, and the id of a forgotten user would stay there
        configuration={"delta.dataSkippingNumIndexedCols": "0"} if predicate is None else None,
    )


def _empty(target: str, name: str) -> None:
    from deltalake import DeltaTable

    DeltaTable(target, storage_options=_options(target)).delete(commit_properties=_properties(name))


def vacuum(there: Folder, table: str, *, name: str, all_now: bool) -> None:
    """Remove files that the Delta table no longer uses: files older than a week, or all of them with `all_now`.

    Raises:
      OSError: the table cannot be reached or written.
    """
    target = f"{there.url}/{table}"
    if next(_commits(there, table), None) is not None:
        _within_time(lambda: _vacuum(target, name, all_now), target)


def _vacuum(target: str, name: str, all_now: bool) -> None:
    from deltalake import DeltaTable

    how: dict[str, Any] = {"retention_hours": 0, "enforce_retention_duration": False, "full": True} if all_now else {}
    table = DeltaTable(target, storage_options=_options(target))
    table.vacuum(dry_run=False, commit_properties=_properties(name), **how)


def _within_time(call: Callable[[], None], target: str, *, size: int = 0) -> None:
    """Each request has a deadline (`_options`). This one is for all requests of a step, and a signal ends it."""
    requests = REQUESTS + size // objects.CHUNK_BYTES
    wait_for(call, seconds=objects.RETRY_SECONDS + objects.REQUEST_SECONDS * requests, where=target)


def _options(target: str) -> dict[str, str]:
    """Deadlines, keys and region as for all other requests."""
    options = {
        "timeout": f"{objects.REQUEST_SECONDS}s",
        "connect_timeout": f"{objects.CONNECT_SECONDS}s",
        "max_retries": str(objects.RETRIES),
        "retry_timeout": f"{objects.RETRY_SECONDS}s",
        "allow_http": "true",
    }
    if target.startswith("s3:"):
        keys = provider() if (provider := objects.s3_provider()) else {}
        found = {f"aws_{name}": keys.get(name) for name in ("access_key_id", "secret_access_key")}
        found |= {"aws_session_token": keys.get("token"), "region": objects.s3_region(target)}
        options |= {name: value for name, value in found.items() if value}
    return options


def _properties(name: str) -> Any:
    from deltalake import CommitProperties

    return CommitProperties(custom_metadata={PROPERTY: name})


def remove_delta_tables(there: Folder) -> None:
    """Remove the Delta tables that distilrec has written. A table without our property belongs to somebody else."""
    for table in TABLES:
        files, log = _files_of(there, table)
        if log and _has_our_commit(there, table):
            # the log goes last, and its first commit at the very end: a second attempt needs to know whose the table is
            there.remove(f"{table}/{path}" for path in [*files, *reversed(log)])
