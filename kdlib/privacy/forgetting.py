"""Remove one user from every output, and prove that no trace is left.

Published files change in this case only. The user's rows go from every version, including versions that nobody reads
any more. Each file is replaced in one rename, so that a reader finds the old file or the new one.

A trace is the id where it stands for the user. An item, a number or a word with the same spelling stays:

    Parquet      a `user_id`; a quarantined row with the id in its user column. If the row does not parse or has no user
                 column: a quarantined row in which the id is a word or a value by itself
    reports      the heading `User <id>`
    logs         the id after `user`, as in `user 4711.`, `no user '4711'`, `user_id=4711`
    other files  none, because nothing writes user ids there

An id that cannot be anything else (`is_unmistakable`) is also a trace in logs and other files, as a word by itself.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdlib.errors import ConfigError
from kdlib.privacy.pseudonyms import BLANKS, key_check
from kdlib.store import leases, partitions
from kdlib.store.files import replace_file, sync
from kdlib.store.folders import DiskFolder
from kdlib.store.leases import check_held

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
_ALONE = r"(?<!\w)(?<!\w[.@-])"
_AFTER_USER = r"""\b(?:[Uu]ser |user_id[^\w\r\n]{1,6})['"]?"""
"""The text before an id in messages and printed rows."""


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


def remember_to_forget(root: Path, user_id: str, key: bytes | None = None) -> None:
    """Add an id to the list of forgotten users: later runs reject their input rows.

    Args:
      root: the output folder.
      user_id: the id as in the tables; the pseudonym if pseudonyms are used.
      key: the pseudonym key; None: no pseudonyms.

    Raises:
      ConfigError: the list belongs to another key.
      BusyError: another process has been adding to it for a minute.
    """
    check_key(root, key)
    root.mkdir(parents=True, exist_ok=True)
    with leases.held(DiskFolder(root, durable=False), f"{leases.LOCKS}/forgotten.json", "forget", seconds=WAIT_SECONDS):
        users = sorted({*forgotten(root), digest(user_id)})
        text = json.dumps({"key": key_check(key) if key else None, "users": users}).encode()
        for name in (COPY, LIST):
            replace_file(root / name, text)


def erase(root: Path, user_id: str, *, user_columns: Collection[str] = ()) -> dict[str, int]:
    """Remove a user's rows from all Parquet files, lines that name the user from logs, and reports that show the user.

    Args:
      root: the output folder.
      user_id: the id as in the tables; the pseudonym if pseudonyms are used.
      user_columns: the input's columns that hold users, needed for quarantined rows. `user_id` always counts as one.

    Returns:
      Folder → number of rows, lines or pages removed.
    """
    removed: dict[str, int] = {}
    root = root.resolve()
    for path in list(_files(root)):
        count = 0
        if path.name.endswith(FRESH):
            path.unlink()
            continue
        if path.suffix == ".parquet":
            count = _erase_rows(path, root, user_id, user_columns)
        elif path.suffix == ".log":
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not _is_named(line, user_id)]
            count = len(lines) - len(kept)
            if count:
                replace_file(path, b"".join(kept))
        elif path.suffix == ".html" and _is_shown(path.read_bytes(), user_id):
            count = 1  # `distilrec report` makes the report again
            home = _version_of(path, root)
            shutil.rmtree(home) if home else path.unlink()
        if count:
            place = str(path.parent.relative_to(root) if path.is_relative_to(root) else path.parent)
            removed[place] = removed.get(place, 0) + count
    return removed


def traces(root: Path, user_id: str, *, user_columns: Collection[str] = ()) -> list[Path]:
    """All files that hold a trace of the user (see the module), and Parquet files that cannot be read.

    Args: as `erase`.
    """
    found = []
    for path in _files(root.resolve()):
        if path.suffix == ".parquet":
            rows = _rows_of(path, user_id, user_columns)
            left = rows is None or rows.any()
        elif path.suffix == ".log":
            left = any(_is_named(line, user_id) for line in path.read_bytes().splitlines())
        elif path.suffix == ".html":
            left = _is_shown(path.read_bytes(), user_id)
        else:
            left = is_unmistakable(user_id) and _holds(path.read_bytes(), user_id)
        if left:
            found.append(path)
    return found


def is_unmistakable(user_id: str) -> bool:
    """Whether no item, number or word can have this spelling.

    True for a mail address, and for at least 16 characters with a digit and a letter, as pseudonyms and UUIDs have.
    """
    if re.fullmatch(r"\S+@\S+\.\S{2,}", user_id):
        return True
    return len(user_id) >= 16 and any(map(str.isdigit, user_id)) and any(map(str.isalpha, user_id))


def _erase_rows(path: Path, root: Path, user_id: str, user_columns: Collection[str]) -> int:
    gone = _rows_of(path, user_id, user_columns)
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
    fresh.replace(path)
    sync(path.parent)
    if home:
        _mend_manifest(home, path, path, keep_before=False)
    return int(gone.sum())


def _rows_of(path: Path, user_id: str, user_columns: Collection[str]) -> np.ndarray | None:
    """Which rows of a Parquet file are the user's, bool [rows]; None if a killed run left the file unreadable."""
    try:
        file = pq.ParquetFile(path)
        table = file.read([name for name in (_USER, "raw") if name in file.schema_arrow.names])
    except (pa.ArrowInvalid, OSError):
        return None
    found = np.zeros(file.metadata.num_rows, bool)
    if _USER in table.column_names:
        # not utf8_trim: old tables may hold bytes that are no UTF-8
        ids = pc.call_function("ascii_trim", [table[_USER].cast(pa.string())], pc.TrimOptions(BLANKS))
        found |= pc.call_function("equal", [ids, pa.scalar(user_id)]).fill_null(False).to_numpy()
    if "raw" in table.column_names:
        columns = {_USER, *user_columns}
        rows = table["raw"].cast(pa.binary()).to_pylist()
        found |= np.array([_is_row_of(row, user_id, columns) for row in rows], bool)
    return found


def _is_row_of(raw: bytes | None, user_id: str, columns: Collection[str]) -> bool:
    """Whether a quarantined row is the user's. The row may be no UTF-8."""
    text = (raw or b"").decode(errors="replace")
    try:
        row = json.loads(text, parse_int=str, parse_float=str)  # keep the spelling of numbers
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        return _word(user_id).search(text) is not None
    values = [row[name] for name in columns if name in row] or row.values()
    return any(isinstance(value, str) and value.strip(BLANKS) == user_id for value in values)


def _is_shown(page: bytes, user_id: str) -> bool:
    """Whether a report shows the user, under the heading that `kdlib.report.people` writes."""
    return any(
        unescape(name) == user_id for name in re.findall(r"<h3>User ([^<]*)</h3>", page.decode(errors="replace"))
    )


def _is_named(line: bytes, user_id: str) -> bool:
    """Whether a log line names the user."""
    before = _ALONE if is_unmistakable(user_id) else _AFTER_USER
    return _word(user_id, before).search(line.decode(errors="replace")) is not None


def _holds(data: bytes, user_id: str) -> bool:
    """Whether the id is a word of a file. The file may be large, and may be no text."""
    forms = (user_id, json.dumps(user_id)[1:-1])
    return any(form.encode() in data for form in forms) and bool(_word(user_id).search(data.decode(errors="replace")))


@lru_cache
def _word(user_id: str, before: str = _ALONE) -> re.Pattern[str]:
    """A pattern for the id as a word by itself, plain or as CSV or JSON write it.

    `12` is no word by itself in `2012`, `12.5` or `a-12`.
    """
    in_csv = re.escape(user_id.replace('"', '""'))
    in_json = re.sub(r"(?<=\\u)[0-9a-f]{4}", r"(?i:\g<0>)", re.escape(json.dumps(user_id)[1:-1]))
    return re.compile(rf"{before}(?:{re.escape(user_id)}|{in_csv}|{in_json})(?![.@-]?\w)")


def _read_list(root: Path) -> dict[str, Any]:
    """The list, or its copy where the list is damaged. Without a list nobody is forgotten.

    Raises:
      ConfigError: both are damaged.
    """
    if not (root / LIST).exists():
        return {"key": None, "users": []}
    for name in (LIST, COPY):
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads((root / name).read_text())
            found = {"key": None, "users": found} if isinstance(found, list) else found
            return {"key": found["key"], "users": [str(user) for user in found["users"]]}
    raise ConfigError(
        f"the list of forgotten users, {root / LIST}, is empty or damaged: without it, their events would come back. Put it"
        " back from a copy; or remove it and, before the next run, `distilrec forget` each user again"
    )


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
    replace_file(home / "manifest.json", json.dumps(manifest, indent=1).encode())


def _version_of(path: Path, root: Path) -> Path | None:
    """The version folder of a data file; None for a file of an unfinished table."""
    versions = root / partitions.VERSIONS
    return next((p for p in path.parents if versions in p.parents and (p / "manifest.json").exists()), None)
