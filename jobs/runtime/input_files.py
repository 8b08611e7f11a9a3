"""The files of the shop's raw input, and their version."""

import hashlib
import json
import os
from contextlib import suppress
from datetime import date
from glob import glob
from pathlib import Path

from jobs.runtime.input_content import File, check_files, check_no_table, unreadable
from kdlib.config.data import DAY
from kdlib.errors import InputError
from kdlib.features.arrivals import DAY_PATTERN, day_of
from kdlib.features.lake import LAKES, snapshot
from kdlib.store.fingerprint import fingerprint_of
from kdlib.store.remote_files import HIDDEN, alternatives, fixed_part, is_hidden, remote_files, why

HASHES = "_input_hashes.json"
"""In the output folder: size, time and hash of each local input file that was read, so that no file is hashed twice."""


MOST_BYTES, MOST_FILES = 50 * 2**30, 100_000
"""Local files are hashed up to this total size and number. Beyond it, reading would take minutes at 500 MB a second."""


def version_of_files(files: list[File], root: Path) -> str:
    """A hash of names and contents.

    For files at a URL, size and the store's tag count in place of the content, because nothing is fetched. Without a tag,
    and for local files of more than MOST_BYTES or MOST_FILES in total, the time of the last change counts.

    Args:
      files: the files to hash.
      root: the output folder, which keeps the hashes.

    Raises:
      InputError: a file cannot be read.
    """
    local = [file for file in files if Path(file[0]).is_absolute()]
    if len(local) > MOST_FILES or sum(size for _, size, _ in local) > MOST_BYTES:
        return fingerprint_of(files)
    kept = _kept_hashes(root)
    found = {name: [size, time, _hash_of(name, size, time, kept)] for name, size, time in local}
    if found.keys() - kept.keys() or any(kept[name] != one for name, one in found.items()):
        _keep_hashes(root, kept | found)
    return fingerprint_of(
        [(name, found[name][2]) if name in found else (name, size, time) for name, size, time in files]
    )


def _hash_of(name: str, size: int, time: int | str, kept: dict[str, list]) -> str:
    before = kept.get(name)
    if before is not None and before[:2] == [size, time]:
        return before[2]
    try:
        with open(name, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:24]
    except OSError as error:
        raise unreadable(name, error) from None


def _kept_hashes(root: Path) -> dict[str, list]:
    try:
        return json.loads((root / HASHES).read_text())
    except (OSError, ValueError):
        return {}


def _keep_hashes(root: Path, hashes: dict[str, list]) -> None:
    """Write the hashes if that is possible. Without them the next run hashes the files again."""
    with suppress(OSError):
        fresh = root / f"{HASHES}.{os.getpid()}"
        fresh.write_text(json.dumps(hashes))
        fresh.replace(root / HASHES)


def version_of(path: str, format_: str, root: Path) -> str:
    """A hash of the files at a path: a file, a folder or a glob, local or a URL. Of a table: its id and version.

    Raises:
      InputError: there are no files, or a file is not of the format (`check_files`). Or the path holds a Delta Lake or
        Iceberg table, whose folder also has files that the table no longer uses.
    """
    if format_ in LAKES:
        return snapshot(path, format_).version
    files = _files(path)
    if not files:
        raise InputError(f"no file matches {path}: check the path in the run config")
    check_no_table(path, files)
    check_files(files, format_, path=path)
    return version_of_files(files, root)


def _files(path: str) -> list[File]:
    path = path.removeprefix("file://")
    return _remote_files(path) if "://" in path else _local_files(path)


def files_by_day(path: str, *, needed: date) -> dict[date, list[File]]:
    """Day → files at a path with `{day}`; InputError where the day `needed` has no files."""
    anywhere, found = path.replace(DAY, DAY_PATTERN), {}
    for file in _files(anywhere):
        if (day := day_of(path, file[0])) is not None:
            found.setdefault(day, []).append(file)
    if needed not in found:
        there = f"There are files of {min(found)} to {max(found)}" if found else "There is no file of any day"
        raise InputError(
            f"no file of {needed} matches {path}: has the day's export run? {there}. With input.events.ready a run waits"
        )
    return found


def _local_files(path: str) -> list[File]:
    tops = [Path(top).absolute() for one in alternatives(path) for top in (glob(one) if _is_glob(one) else [one])]
    found = {file for top in tops for file in ([top] if top.is_file() else _files_below(top))}
    return [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(found)
        if not file.name.startswith(HIDDEN)
    ]


def _files_below(folder: Path) -> list[Path]:
    """The files that Spark finds: in all subfolders that are not hidden, also through links."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN) or (name[0] == "_" and "=" in name)]
        found += [Path(place, name) for name in names if Path(place, name).is_file()]
    return found


def _remote_files(path: str) -> list[File]:
    try:
        found = [(file.url, file.size, file.mark) for file in remote_files(path)]
    except OSError as error:
        raise InputError(f"cannot list {path}: {why(error, path)}") from None
    start = len(fixed_part(path)) + 1
    # the log of a Delta Lake table is hidden, too, and tells that the folder holds one
    return sorted(file for file in found if "/_delta_log/" in file[0] or not is_hidden(file[0][start:]))


def _is_glob(path: str) -> bool:
    return any(sign in path for sign in "*?[{")
