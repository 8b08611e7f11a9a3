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
        there = mirror.folder.tags()
        small = {name: tag for name, tag in there.items() if is_small(name)}
        with suppress(OSError, ValueError):
            seen = json.loads((root / SEEN).read_text())
            small = small | {
                name: None for name, tag in small.items() if seen.get(name) == tag and _is_here(root, name)
            }
        changed = [name for name, tag in small.items() if tag is not None]
        found = dict(zip(changed, in_parallel(mirror.folder.read, changed), strict=True))
        homes = {home for name in there if (home := version_of(root / name))}
        for home in homes:
            if not home.exists():
                (home / "data").mkdir(parents=True)
                (home / REMOTE).touch()
        for name in sorted(changed, key=lambda name: (pointer_of(name) is not None, name == "promoted.json")):
            if (object_ := found[name]) is not None:  # else it was removed just now
                _place(root, name, object_.data)
        _remove_gone(root, set(small), homes)
        tags = {name: there[name] for name in small}
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


def others(root: Path, *places: str) -> set[Path]:
    """The files and folders that other machines have written to some folders of the store, named as here."""
    mirror = mirror_of(root)
    if mirror is None:
        return set()
    depth = {place: place.count("/") + 2 for place in places}
    found = ((place, name) for place in places for name in mirror.folder.files(place))
    return {root.joinpath(*name.split("/")[: depth[place]]) for place, name in found}


def fetch_everything(root: Path) -> None:
    """Bring every file of an output folder to this machine, unfinished ones and logs too."""
    if mirror := mirror_of(root):
        found = mirror.folder.files()
        for home in sorted({one for name in found if (one := version_of(root / name))}):
            with suppress(InputError):  # it has lost its data
                fetch(home)
        left = [name for name in found if not is_small(name) and not name.startswith((VERSIONS, leases.LOCKS))]
        _fetch_objects(mirror, {name: found[name] for name in left})


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
        _link(root / link, root / json.loads(data)["target"])
        return
    if path.name == MANIFEST and path.exists() and path.read_bytes() != data:  # another machine has changed its files
        (path.parent / REMOTE).touch()
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
    for place, folders, _ in os.walk(root / VERSIONS):
        for name in [name for name in folders if name.startswith("ds=")]:
            folders.remove(name)
            home = Path(place, name)
            if home not in homes and not (home / SENDING).exists():
                shutil.rmtree(home, ignore_errors=True)


def _is_here(root: Path, name: str) -> bool:
    link = pointer_of(name)
    return os.path.lexists(root / (link or name))


def _fetch_version(mirror: Mirror, home: Path) -> None:
    """Bring the data of a version to this machine, in one rename."""
    (mirror.root / STAGING).mkdir(parents=True, exist_ok=True)
    with (mirror.root / ".store_fetch.lock").open("a") as file:  # workers of a node ask for the same at the same time
        fcntl.flock(file, fcntl.LOCK_EX)
        if home.exists() and not (home / REMOTE).exists():
            return
        data, fresh = home / "data", mirror.root / STAGING / f"fetched.{uuid.uuid4().hex[:8]}"
        found, start = mirror.below(data), f"{mirror.name(data)}/"
        if not found:
            raise InputError(f"{mirror.folder.url}/{start} has no files: the version was removed")
        try:
            pairs = [(name, fresh / name.removeprefix(start)) for name in found]
            for parent in {path.parent for _, path in pairs}:
                parent.mkdir(parents=True, exist_ok=True)
            in_parallel(lambda pair: mirror.folder.download(*pair), pairs)
            home.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(data, ignore_errors=True)
            fresh.rename(data)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        (home / REMOTE).unlink(missing_ok=True)


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
