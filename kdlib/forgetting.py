"""Take one user out of every output, and prove that no trace is left.

The one case in which published files change: a row that must go goes from every version, also from those that nobody
reads any more. Each file is replaced in one rename, so that a reader finds the old file or the new one.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdlib import publish

LIST = "_forgotten.json"
"""SHA-256 of the ids that are never taken in again, under the folder of all outputs."""
_WORD = r"(?<![\w.@-]){}(?![\w.@-])"


def digest(user_id: str) -> str:
    """What is kept of a forgotten id."""
    return sha256(user_id.encode()).hexdigest()


def forgotten(root: Path) -> list[str]:
    """The digests of all forgotten ids, sorted."""
    path = root / LIST
    return json.loads(path.read_text()) if path.exists() else []


def remember_to_forget(root: Path, user_id: str) -> None:
    """Add an id to those that are never taken in again."""
    root.mkdir(parents=True, exist_ok=True)
    _replace(root / LIST, json.dumps(sorted({*forgotten(root), digest(user_id)})).encode())


def erase(root: Path, user_id: str) -> dict[str, int]:
    """Remove the user's rows from all Parquet files, the lines that name it from logs, and reports that show it.

    Args:
      root: the folder of all outputs.
      user_id: as it stands in the tables: the pseudonym where there are pseudonyms.

    Returns:
      Folder → rows, lines or pages removed.
    """
    removed: dict[str, int] = {}
    for path in list(_files(root)):
        count = 0
        if path.suffix == ".parquet":
            count = _erase_rows(path, user_id)
        elif path.suffix == ".log":
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not _stands_in(line, user_id)]
            count = len(lines) - len(kept)
            if count:
                _replace(path, b"".join(kept))
        elif path.suffix == ".html" and _stands_in(path.read_bytes(), user_id):
            count = 1  # `distilrec report` makes it anew
            home = _version_of(path)
            shutil.rmtree(home) if home else path.unlink()
        if count:
            place = str(path.relative_to(root).parent)
            removed[place] = removed.get(place, 0) + count
    return removed


def traces(root: Path, user_id: str) -> list[Path]:
    """Files that still name the user: all texts of Parquet files, decoded, all JSON texts, and every other file's bytes."""
    found = []
    for path in _files(root):
        if path.suffix == ".parquet":
            left = any(_mentions(table, user_id) for table in _row_groups(path))
        elif path.suffix == ".json":
            left = json.dumps(user_id).encode() in path.read_bytes()
        else:
            left = _stands_in(path.read_bytes(), user_id)
        if left or user_id in path.name:
            found.append(path)
    return found


def _erase_rows(path: Path, user_id: str) -> int:
    table = pq.ParquetFile(path).read()
    gone = np.zeros(len(table), bool)
    if "user_id" in table.column_names:
        gone |= pc.call_function("equal", [table["user_id"], pa.scalar(user_id)]).fill_null(False).to_numpy()
    if "raw" in table.column_names:  # of the quarantine
        gone |= np.array([_raw_names(text, user_id) for text in table["raw"].to_pylist()], bool)
    if not gone.any():
        return 0
    fresh = path.with_name(f".{path.name}.forgetting")
    pq.write_table(table.filter(pa.array(~gone)), fresh, compression="zstd")
    fresh.replace(path)
    _mend_manifest(path)
    return int(gone.sum())


def _raw_names(text: str | None, user_id: str) -> bool:
    """Whether a quarantined row is the user's: one of its values is the id; or, where it does not parse, a word of it."""
    if not text or user_id not in text:
        return False
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if isinstance(row, dict):
        return user_id in map(str, row.values())
    return _stands_in(text.encode(), user_id)


def _mentions(table: pa.Table, user_id: str) -> bool:
    """Whether any text of the table, also one inside a list, is the id, or any quarantined row names it."""
    for name in table.column_names:
        values = table[name].combine_chunks()
        while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            values = values.flatten()
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            continue
        if pc.call_function("any", [pc.call_function("equal", [values, pa.scalar(user_id, values.type)])]).as_py():
            return True
        if name == "raw" and any(_raw_names(text, user_id) for text in values.to_pylist()):
            return True
    return False


def _stands_in(data: bytes, user_id: str) -> bool:
    """Whether the id stands there as a word of its own; `12` does not in `2012` or `12.5`."""
    return re.search(_WORD.format(re.escape(user_id)).encode(), data) is not None


def _files(root: Path) -> Iterator[Path]:
    """Every file below, once: links lead to the same version folders."""
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not Path(place, name).is_symlink()]
        yield from (Path(place, name) for name in sorted(names) if not Path(place, name).is_symlink())


def _row_groups(path: Path) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path)
    for number in range(file.num_row_groups):
        yield file.read_row_group(number)


def _mend_manifest(path: Path) -> None:
    """Write a changed file's size, rows and hash into its version's manifest."""
    home = _version_of(path)
    if home is None:
        return
    manifest: dict[str, Any] = json.loads((home / "manifest.json").read_text())
    base = home / "data"
    manifest["files"] = [
        publish.describe(base / file["path"], base) for file in manifest["files"] if (base / file["path"]).exists()
    ]
    manifest["rows"] = publish.rows_in(manifest["files"])
    _replace(home / "manifest.json", json.dumps(manifest, indent=1).encode())


def _version_of(path: Path) -> Path | None:
    """The version folder that a data file belongs to."""
    return next((parent for parent in path.parents if (parent / "manifest.json").exists()), None)


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.forgetting")
    fresh.write_bytes(data)
    fresh.replace(path)
