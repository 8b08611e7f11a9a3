"""Read an output folder that lies in an object store: bring its working copy up to date, and fetch data (`kdlib.store.mirror`)."""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdlib.errors import InputError
from kdlib.store import leases
from kdlib.store.conditions import check_conditions
from kdlib.store.files import replace_file
from kdlib.store.leases import Lease
from kdlib.store.mirror import (
    LOCAL,
    MANIFEST,
    RECORDS,
    REMOTE,
    SEEN,
    SENDING,
    STAGING,
    VERSIONS,
    Mirror,
    alone,
    folder_of,
    is_link,
    is_small,
    mirror_of,
    pointer_of,
    version_of,
)
from kdlib.store.waiting import in_parallel

OLD_LOG_SECONDS = 3600.0
"""A log that has not changed for this time is not being written."""


@contextmanager
def held(root: Path, path: str, stage: str, **how: Any) -> Iterator[Lease]:
    """Take a lease of an output folder, as `kdlib.store.leases.held`. The working copy is up to date then.

    Raises:
      ConfigError: the store ignores the conditions of a write.
    """
    if mirror := mirror_of(root):
        check_conditions(mirror.folder)
    with leases.held(folder_of(root), path, stage, **how) as lease:
        refresh(root)
        yield lease


def refresh(root: Path, *, older_than: float = 0.0) -> None:
    """Make the working copy equal to the store, without the data of versions.

    Args:
      root: the output folder.
      older_than: do nothing if this process has done so within this many seconds.

    Raises:
      BusyError: as `alone`.
      OSError: the store cannot be reached.
    """
    mirror = mirror_of(root)
    if mirror is None or time.monotonic() - _refreshed.get(root, -older_than) < older_than:
        return
    with alone(root):
        here = _sent_homes(root)  # before the listing: what is sent meanwhile is not in it
        there = mirror.folder.tags()
        small = {name: tag for name, tag in there.items() if is_small(name)}
        with suppress(OSError, ValueError, AttributeError):
            seen = json.loads((root / SEEN).read_text())
            small = small | {name: None for name, tag in small.items() if seen.get(name) == [tag, _stamp(root, name)]}
        changed = [name for name, tag in small.items() if tag is not None]
        found = dict(zip(changed, in_parallel(mirror.folder.read, changed), strict=True))
        if "_forgotten.json" in changed:
            _remove_old_logs(root)
        homes = {home for name in there if (home := version_of(root / name))}
        for home in homes:
            manifest = home / MANIFEST
            is_sent = manifest.exists() and not (home / SENDING).exists()
            if is_sent and manifest.relative_to(root).as_posix() not in small:
                (home / REMOTE).touch()  # its removal, or its sending, was cut off
                manifest.unlink()
            if not (home / "data").exists():
                home.mkdir(parents=True, exist_ok=True)
                (home / REMOTE).touch()  # first: an empty `data` without this mark reads as whole
                (home / "data").mkdir()
        for name in sorted(changed, key=lambda name: (pointer_of(name) is not None, name == "promoted.json")):
            if (object_ := found[name]) is not None:  # else it was removed just now
                _place(root, name, object_.data)
        _remove_gone(root, set(small), here - homes)
        tags = {name: [there[name], _stamp(root, name)] for name in small}
        replace_file(root / SEEN, json.dumps(tags).encode(), durable=False)
    _refreshed[root] = time.monotonic()


_refreshed: dict[Path, float] = {}
"""Working copy → when this process made it equal to the store, on the monotonic clock."""


def fetch(path: Path) -> Path:
    """Bring a file or folder of the output folder to this machine, where it is not here yet. Returns the path.

    Raises:
      InputError: the store does not have it.
      OSError: the store cannot be reached.
    """
    mirror = mirror_of(path)
    home = version_of(path) if mirror else None
    if mirror and home:
        if (home / REMOTE).exists() or not home.exists():
            _fetch_version(mirror, home)
    elif mirror:
        _fetch_files(mirror, path)
    return path


def give_up(data: Path) -> bool:
    """Do not trust the data of a version on this machine any more; False where there is no store to fetch them from."""
    if mirror_of(data) is None or not data.parent.exists() or (data.parent / SENDING).exists():
        return False
    (data.parent / REMOTE).touch()
    return True


def others(root: Path, *places: str) -> set[Path]:
    """The files and folders that other machines have written to some folders of the store, named as here."""
    mirror = mirror_of(root)
    if mirror is None:
        return set()
    return {root.joinpath(*name.split("/")[:2]) for place in places for name in mirror.folder.files(place)}


def fetch_everything(root: Path) -> None:
    """Bring every file of an output folder to this machine, unfinished ones and logs too."""
    if mirror := mirror_of(root):
        found = mirror.folder.files()
        for home in sorted({one for name in found if (one := version_of(root / name))}):
            with suppress(InputError):  # it has lost its data
                fetch(home)
        left = [name for name in found if not is_small(name) and not name.startswith((VERSIONS, leases.LOCKS))]
        _fetch_objects(mirror, dict.fromkeys(left, -1))  # an equal size says nothing about a log


def remote_sizes(folder: Path) -> dict[str, int] | None:
    """The files of a version's data in the store → bytes; None where the data are on this machine."""
    mirror = mirror_of(folder) if (folder.parent / REMOTE).exists() else None
    if mirror is None:
        return None
    start = f"{mirror.name(folder)}/"
    return {name.removeprefix(start): size for name, size in mirror.below(folder).items()}


def _place(root: Path, name: str, data: bytes) -> None:
    """Write what a small object says into the working copy."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if link := pointer_of(name):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # somebody else's object
            target = json.loads(data)["target"]
            if target.startswith((f"{VERSIONS}/", f"{RECORDS}/")):
                _link(root / link, root / target)
        return
    if path.name == MANIFEST and path.exists() and path.read_bytes() != data:  # another machine has changed its files
        (path.parent / REMOTE).touch()
        for file in (path.parent / "data").rglob("*"):  # a forgotten user's rows may be in it
            if file.is_file():
                file.unlink(missing_ok=True)
    replace_file(path, data, durable=False)
    if path.parent.parent == root / RECORDS and path.name == "promotion.json":
        with suppress(ValueError, KeyError, AttributeError):  # a damaged record is shown by its reader
            record = json.loads(data)
            for table, version in record["versions"].items():
                _link(path.parent / table, root / VERSIONS / table / f"ds={record['ds']}.{version}" / "data")


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{uuid.uuid4().hex[:8]}")
    fresh.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    fresh.replace(link)


def _remove_gone(root: Path, small: set[str], homes: set[Path]) -> None:
    """Remove what the store does not have, from the working copy."""
    links = [
        path for depth in ("ds=*", "*/ds=*", "*/*/ds=*", "promoted") for path in root.glob(depth) if path.is_symlink()
    ]
    gone = [
        path
        for path in links
        if is_link(path.relative_to(root).as_posix()) and f"{path.relative_to(root)}.json" not in small
    ]
    kept = [
        path
        for path in (*root.glob("_*.json"), *(root / RECORDS).rglob("*"))
        if path.is_file() and path.name not in LOCAL
    ]
    gone += [
        path
        for path in kept
        if path.relative_to(root).as_posix() not in small and root / VERSIONS not in path.resolve().parents
    ]
    for path in gone:
        path.unlink(missing_ok=True)
    for record in (root / RECORDS).glob("*.ds=*"):
        if not any(name.startswith(f"{RECORDS}/{record.name}/") for name in small):
            shutil.rmtree(record, ignore_errors=True)
    for home in homes:
        if not (home / SENDING).exists():
            shutil.rmtree(home, ignore_errors=True)


def _remove_old_logs(root: Path) -> None:
    """Remove logs and failed quarantines that no run writes any more: another machine may have taken a user out of them."""
    for folder in ("logs", "quarantine_failed", "search_quarantine_failed"):
        for path in (root / folder).rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file() and time.time() - path.stat().st_mtime > OLD_LOG_SECONDS:
                    path.unlink()


def _sent_homes(root: Path) -> set[Path]:
    """The folders of versions that are here, and have been sent whole or come from the store."""
    found = set[Path]()
    for place, folders, _ in os.walk(root / VERSIONS):
        for name in [name for name in folders if name.startswith("ds=")]:
            folders.remove(name)
            if not Path(place, name, SENDING).exists():
                found.add(Path(place, name))
    return found


def _stamp(root: Path, name: str) -> list[int] | None:
    """What changes if a file or link here changes."""
    with suppress(FileNotFoundError):
        found = (root / (pointer_of(name) or name)).lstat()
        return [found.st_ino, found.st_size, found.st_mtime_ns]
    return None


def _fetch_version(mirror: Mirror, home: Path) -> None:
    """Bring the data of a version to this machine, in one rename."""
    (mirror.root / STAGING).mkdir(parents=True, exist_ok=True)
    with (mirror.root / ".store_fetch.lock").open("a") as file:  # workers of a node ask for the same at the same time
        fcntl.flock(file, fcntl.LOCK_EX)
        if home.exists() and not (home / REMOTE).exists():
            return
        for left_over in (mirror.root / STAGING).glob("fetched.*"):  # of killed processes
            shutil.rmtree(left_over, ignore_errors=True)
        said = _said(home)
        data, fresh = home / "data", mirror.root / STAGING / f"fetched.{uuid.uuid4().hex[:8]}"
        found, start = mirror.below(data), f"{mirror.name(data)}/"
        if not found and (said is None or json.loads(said)["files"]):
            raise InputError(f"{mirror.folder.url}/{start} has no files: the version was removed")
        try:
            fresh.mkdir(parents=True)
            pairs = [(name, fresh / name.removeprefix(start)) for name in found]
            for parent in {path.parent for _, path in pairs}:
                parent.mkdir(parents=True, exist_ok=True)
            in_parallel(lambda pair: mirror.folder.download(*pair), pairs)
            home.mkdir(parents=True, exist_ok=True)
            old = fresh.with_name(f"{fresh.name}.old")
            with suppress(FileNotFoundError):
                data.rename(old)
            fresh.rename(data)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        if _said(home) == said:  # else the store has changed it meanwhile
            (home / REMOTE).unlink(missing_ok=True)


def _said(home: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        return (home / MANIFEST).read_bytes()
    return None


def _fetch_files(mirror: Mirror, path: Path) -> None:
    found = mirror.below(path)
    if not found and not path.exists():
        if mirror.folder.read(mirror.name(path)) is None:
            raise InputError(f"{mirror.folder.url}/{mirror.name(path)} does not exist")
        found = {mirror.name(path): -1}
    _fetch_objects(mirror, found)


def _fetch_objects(mirror: Mirror, found: dict[str, int]) -> None:
    """Download the objects that are not here with the same size."""

    def bring(name: str) -> None:
        path = mirror.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            mirror.folder.download(name, fresh)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    here = {name: (mirror.root / name).stat().st_size for name in found if (mirror.root / name).is_file()}
    in_parallel(bring, [name for name, size in found.items() if here.get(name) != size])
