"""Remove users from every output, and prove that no trace is left.

Published files change in this case only. The users' rows go from every version, including versions that nobody reads
any more. Each file is read once for all users, and replaced in one rename, so that a reader finds the old file or the
new one.

A trace is the id where it stands for the user. An item, a number or a word with the same spelling stays:

    Parquet      a `user_id`; a quarantined row with the id in its user column. If the row does not parse or has no user
                 column: a quarantined row in which the id is a word or a value by itself
    reports      the heading `User <id>`
    logs         the id after `user`, as in `user 4711.`, `no user '4711'`, `user_id=4711`
    other files  none, because nothing writes user ids there

An id that cannot be anything else (`kdlib.privacy.ids.is_unmistakable`) is also a trace in logs and other files, as a word by itself.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdlib.errors import ConfigError
from kdlib.privacy.ids import Ids
from kdlib.privacy.pseudonyms import BLANKS, key_check
from kdlib.store import leases, partitions
from kdlib.store.files import sync
from kdlib.store.leases import check_held
from kdlib.store.mirror import alone, drop, send, write_file
from kdlib.store.working_copy import fetch_everything, held

LIST = "_forgotten.json"
"""File in the output folder: SHA-256 of each forgotten id, and the check value of the pseudonym key. Input rows of
these users are rejected.

The ids are those of the tables. With a key they are pseudonyms, and the list reveals nothing without the key. Without a
key a reader of the list can try out ids.
"""
COPY = "_forgotten.copy.json"
"""The same list once more: without it, the events of forgotten users would come back."""
WAIT_SECONDS = 60
"""How long to wait for another process that adds to the list."""
FRESH = ".forgetting"
"""End of the name of a file that takes another one's place. A killed process may leave one."""
_USER = "user_id"


def digest(user_id: str) -> str:
    """The hash that the list of forgotten users holds for an id."""
    return sha256(user_id.encode()).hexdigest()


def forgotten(root: Path) -> list[str]:
    """The digests of all forgotten ids, sorted."""
    return _read_list(root)["users"]


def check_key(root: Path, key: bytes | None) -> None:
    """Check that the list of forgotten users belongs to this key. None: no pseudonyms.

    Raises:
      ConfigError: the list belongs to another key, so that its users would not be recognised.
    """
    found = _read_list(root)
    if found["users"] and found["key"] != (key_check(key) if key else None):
        made = "under another pseudonym key than" if found["key"] else "without a pseudonym key, unlike"
        raise ConfigError(
            f"the {len(found['users'])} users in {root / LIST} were forgotten {made} this run config has (section"
            " privacy): their events would come back. Set the key as it was; or remove that file and, before the next"
            " run, `distilrec forget` each user again"
        )


def remember_to_forget(root: Path, user_ids: Iterable[str], key: bytes | None = None) -> None:
    """Add ids to the list of forgotten users: later runs reject their input rows.

    Args:
      root: the output folder.
      user_ids: the ids as in the tables; the pseudonyms if pseudonyms are used.
      key: the pseudonym key; None: no pseudonyms.

    Raises:
      ConfigError: the list belongs to another key.
      BusyError: another process has been adding to it for a minute.
    """
    check_key(root, key)
    root.mkdir(parents=True, exist_ok=True)
    with held(root, f"{leases.LOCKS}/forgotten.json", "forget", seconds=WAIT_SECONDS):
        users = sorted({*forgotten(root), *map(digest, user_ids)})
        text = json.dumps({"key": key_check(key) if key else None, "users": users}).encode()
        for name in (COPY, LIST):
            write_file(root / name, text)


def erase(root: Path, user_ids: Iterable[str], *, user_columns: Collection[str] = ()) -> dict[str, int]:
    """Remove users' rows from all Parquet files, lines that name one of them from logs, and reports that show one.

    Args:
      root: the output folder.
      user_ids: the ids as in the tables; the pseudonyms if pseudonyms are used.
      user_columns: the input's columns that hold users, needed for quarantined rows. `user_id` always counts as one.

    Returns:
      Folder → number of rows, lines or pages removed.
    """
    root, users, removed = root.resolve(), Ids(user_ids), Counter[str]()
    with alone(root):
        fetch_everything(root)
        for path in list(_files(root)):
            if path.name.endswith(FRESH):
                path.unlink()
            elif count := _erase_from(path, root, users, user_columns):
                removed[str(path.parent.relative_to(root) if path.is_relative_to(root) else path.parent)] += count
    return dict(removed)


def traces(root: Path, user_ids: Iterable[str], *, user_columns: Collection[str] = ()) -> list[Path]:
    """All files that hold a trace of one of the users (see the module), and Parquet files that cannot be read.

    Args: as `erase`.
    """
    found, users = list[Path](), Ids(user_ids)
    unmistakable = users.unmistakable()
    for path in _files(root.resolve()):
        if path.suffix == ".parquet":
            rows = _rows_of(path, users, user_columns)
            left = rows is None or rows.any()
        elif path.suffix == ".log":
            data = path.read_bytes()
            left = bool(users.may_stand_in(data)) and any(map(users.are_named_in, data.splitlines()))
        elif path.suffix == ".html":
            left = users.are_shown_in(path.read_bytes())
        else:
            left = bool(unmistakable.ids) and unmistakable.are_in_file(path.read_bytes())
        if left:
            found.append(path)
    return found


def _erase_from(path: Path, root: Path, users: Ids, user_columns: Collection[str]) -> int:
    """Remove users from a file. Returns the number of rows, lines or pages removed."""
    if path.suffix == ".parquet":
        return _erase_rows(path, root, users, user_columns)
    if path.suffix == ".log":
        data = path.read_bytes()
        lines = data.splitlines(keepends=True) if users.may_stand_in(data) else []
        kept = [line for line in lines if not users.are_named_in(line)]
        if len(kept) < len(lines):
            write_file(path, b"".join(kept))
        return len(lines) - len(kept)
    if path.suffix == ".html" and users.are_shown_in(path.read_bytes()):
        _remove(root, _version_of(path, root) or path)  # `distilrec report` makes the report again
        return 1
    return 0


def _erase_rows(path: Path, root: Path, users: Ids, user_columns: Collection[str]) -> int:
    gone = _rows_of(path, users, user_columns)
    if gone is None or not gone.any():
        return 0
    fresh = path.with_name(f".{path.name}{FRESH}")
    pq.write_table(pq.ParquetFile(path).read().filter(pa.array(~gone)), fresh, compression="zstd")
    sync(fresh)
    # The manifest first, with both forms: a process that is killed in between leaves a table that reads as whole, and
    # rows that the next call removes.
    home = _version_of(path, root)
    if home:
        _mend_manifest(home, path, fresh, keep_before=True)
    check_held()
    send(path, content=fresh)
    fresh.replace(path)
    sync(path.parent)
    if home:
        _mend_manifest(home, path, path, keep_before=False)
    return int(gone.sum())


def _rows_of(path: Path, users: Ids, user_columns: Collection[str]) -> np.ndarray | None:
    """Which rows of a Parquet file are a user's, bool [rows]; None if a killed run left the file unreadable."""
    try:
        file = pq.ParquetFile(path)
        table = file.read([name for name in (_USER, "raw") if name in file.schema_arrow.names])
    except (pa.ArrowInvalid, OSError):
        return None
    found = np.zeros(file.metadata.num_rows, bool)
    if _USER in table.column_names:
        # not utf8_trim: old tables may hold bytes that are no UTF-8
        ids = pc.call_function("ascii_trim", [table[_USER].cast(pa.string())], pc.TrimOptions(BLANKS))
        gone = pc.SetLookupOptions(value_set=pa.array(sorted(users.ids), pa.string()))
        found |= pc.call_function("is_in", [ids], gone).to_numpy()
    if "raw" in table.column_names:
        columns = {_USER, *user_columns}
        rows = table["raw"].cast(pa.binary()).to_pylist()
        found |= np.array([_is_row_of(row, users, columns) for row in rows], bool)
    return found


def _is_row_of(raw: bytes | None, users: Ids, columns: Collection[str]) -> bool:
    """Whether a quarantined row is a user's. The row may be no UTF-8."""
    try:  # keep the spelling of numbers
        row = json.loads((raw or b"").decode(errors="replace"), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return users.stand_in(raw or b"")
    return users.are_among([row[name] for name in columns if name in row] or row.values())


def _read_list(root: Path) -> dict[str, Any]:
    """The list, or its copy where the list is damaged. Without a list nobody is forgotten.

    Raises:
      ConfigError: both are damaged.
    """
    if not (root / LIST).exists():
        return {"key": None, "users": []}
    if found := _parsed(root / LIST) or _parsed(root / COPY):
        return found
    raise ConfigError(
        f"the list of forgotten users, {root / LIST}, is empty or damaged: without it, their events would come back. Put it"
        " back from a copy; or remove it and, before the next run, `distilrec forget` each user again"
    )


def _parsed(path: Path) -> dict[str, Any] | None:
    """The list in a file; None where the file is damaged or missing."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_text())
        found = {"key": None, "users": found} if isinstance(found, list) else found
        return {"key": found["key"], "users": [str(user) for user in found["users"]]}
    return None


def list_is_damaged(root: Path) -> bool:
    """Whether the list of forgotten users is there and cannot be read."""
    return (root / LIST).exists() and _parsed(root / LIST) is None


def has_copy(root: Path) -> bool:
    """Whether the copy of the list of forgotten users can be read."""
    return _parsed(root / COPY) is not None


def put_back(root: Path) -> None:
    """Replace the list of forgotten users by its copy."""
    write_file(root / LIST, (root / COPY).read_bytes())


def _files(root: Path) -> Iterator[Path]:
    """Every file under a folder, once, including files elsewhere that links lead to, such as logs on another disk.

    Files are named by their own paths. Links into the version folders add nothing, because these are walked anyway.
    """
    waiting, looked_at = [root], set[Path]()
    while waiting:
        top = waiting.pop()
        if any(top.is_relative_to(other) for other in looked_at):
            continue
        looked_at.add(top)
        if top.is_file():
            yield top
        for place, folders, names in os.walk(top):
            links = [path for path in (Path(place, name) for name in (*folders, *names)) if path.is_symlink()]
            waiting += [path.resolve() for path in links]
            yield from (Path(place, name) for name in sorted(names) if Path(place, name) not in links)


def _mend_manifest(home: Path, path: Path, fresh: Path, *, keep_before: bool) -> None:
    """Write size, rows and hash of a file's new form into the manifest of its version.

    Args:
      home: the version's folder.
      path: the file.
      fresh: a file with the new form.
      keep_before: the old form is right too, until the new one is in its place.
    """
    manifest: dict[str, Any] = json.loads((home / "manifest.json").read_text())
    name = str(path.relative_to(home / "data"))
    mended = partitions.describe(fresh, fresh.parent) | {"path": name, "rows": pq.read_metadata(fresh).num_rows}
    for number, file in enumerate(manifest["files"]):
        if file["path"] == name:
            before = (
                {"before": partitions.describe(path, path.parent)} if keep_before else {}
            )  # not what a killed call noted
            manifest["files"][number] = mended | before
    manifest["rows"] = partitions.rows_in(manifest["files"])
    write_file(home / "manifest.json", json.dumps(manifest, indent=1).encode())


def _remove(root: Path, path: Path) -> None:
    """Remove a version or a file. The link of a version's partition goes first if it leads there."""
    for link in partitions.links(root).values():
        if link.resolve() == path / "data":
            drop(link)
            link.unlink()
    drop(path)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _version_of(path: Path, root: Path) -> Path | None:
    """The version folder of a data file; None for a file of an unfinished table."""
    versions = root / partitions.VERSIONS
    return next((p for p in path.parents if versions in p.parents and (p / "manifest.json").exists()), None)
