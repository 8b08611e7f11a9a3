"""An output folder in an object store, and the working copy of it on this machine.

    store                                             working copy
    recommendations/ds=2026-11-22.json                recommendations/ds=2026-11-22        a link
    promoted.json                                     promoted                             a link
    _promotions/00003.ds=2026-11-22/promotion.json    the same, with links to the tables
    _versions/<table>/ds=<date>.<version>/            manifest.json; the first reader fetches `data`
    _locks, logs, _staging, _checkpoints              what this machine has made or fetched

The store decides. A change is made in the store first, then in the working copy. So the working copy is never ahead, and
`kdlib.store.working_copy` makes it equal to the store after a crash, or when another machine has written. Nothing is lost if it is
removed between two commands.

On a disk, the output folder is its own working copy, and every function here but `write_file` does nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kdlib.errors import BusyError, InputError
from kdlib.store.files import make_folder, replace_file
from kdlib.store.folders import DiskFolder, Folder
from kdlib.store.leases import check_held
from kdlib.store.locks import lock
from kdlib.store.objects import ObjectFolder
from kdlib.store.waiting import in_parallel

MARK = ".store.json"
"""File of a working copy: the URL of the output folder."""
SEEN = ".store_seen.json"
"""File of a working copy: small object → its tag when it was read."""
REMOTE = ".remote"
"""File of a version whose data are in the store only."""
SENDING = ".sending"
"""File of a version that is not whole in the store yet."""
VERSIONS, STAGING, RECORDS, MANIFEST = "_versions", "_staging", "_promotions", "manifest.json"
LOCAL = (MARK, SEEN, "_input_hashes.json")
"""Files that are of this machine only."""
AT_A_TIME = 100
"""How many objects are removed between two looks at the lease."""
WAIT_SECONDS = 600.0
"""How long a command waits for another one on this machine that changes the working copy."""


@dataclass(frozen=True)
class Mirror:
    """A working copy, with the store that decides."""

    root: Path
    folder: ObjectFolder

    def name(self, path: Path) -> str:
        """The name of a file or folder in the store. A link has the name of its pointer."""
        name = path.relative_to(self.root).as_posix()
        return f"{name}.json" if is_link(name) else name

    def put(self, path: Path, data: bytes) -> None:
        """Write a small object, unless another process has written it meanwhile, or holds the lease of this one.

        Raises:
          BusyError: another run has taken over from this one.
          ConflictError: another process has written it.
          OSError: the store cannot be reached or written.
        """
        name = self.name(path)
        found = self.folder.read(name)
        check_held()
        if found is None or found.data != data:
            self.folder.write(name, data, over=found)

    def below(self, path: Path) -> dict[str, int]:
        """The objects of a folder → bytes."""
        return self.folder.files(self.name(path))


def attach(root: Path, url: str) -> None:
    """Make a folder the working copy of an output folder in a store. No connection is opened.

    Raises:
      InputError: it is that of another one.
    """
    found = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((root / MARK).read_text())["url"]
    if found is None:
        make_folder(root)
        replace_file(root / MARK, json.dumps({"url": url}).encode())
    elif found != url:
        raise InputError(
            f"{root} is the working copy of {found}, expected {url}: remove it, or set DISTILREC_CACHE to another folder"
        )


def mirror_of(path: Path) -> Mirror | None:
    """The working copy that a path lies in; None for a path on a disk."""
    for root in (path, *path.parents):
        try:
            return Mirror(root, _folder_at(json.loads((root / MARK).read_text())["url"]))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{root / MARK} is damaged: remove {root}. Nothing is lost, because the store has all of it"
            ) from None
    return None


@lru_cache(maxsize=8)
def _folder_at(url: str) -> ObjectFolder:
    return ObjectFolder(url)


def folder_of(root: Path) -> Folder:
    """Where the leases of an output folder lie. On a disk, they need not survive a power cut."""
    mirror = mirror_of(root)
    return mirror.folder if mirror else DiskFolder(root, durable=False)


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """No other process on this machine changes the working copy in the block.

    Raises:
      BusyError: another one has done so for `WAIT_SECONDS`.
    """
    mirror = mirror_of(root.resolve())
    if mirror is None or mirror.root in _alone:
        yield
        return
    with (mirror.root / ".store.lock").open("a") as file:
        try:
            lock(file, seconds=WAIT_SECONDS)
        except BlockingIOError:
            raise BusyError(
                f"another command has been changing {mirror.root} for {WAIT_SECONDS:.0f} s. Try again later"
            ) from None
        _alone.add(mirror.root)
        try:
            yield
        finally:
            _alone.remove(mirror.root)


_alone: set[Path] = set()
"""The working copies that only this process changes now."""


def put(path: Path, data: bytes) -> None:
    """Write a small object. The caller writes the file.

    Raises: as `Mirror.put`.
    """
    if mirror := mirror_of(path):
        mirror.put(path, data)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file of an output folder, durably. A reader finds the old content or the new one.

    Raises: as `Mirror.put`.
    """
    with alone(path.parent):
        put(path, data)
        make_folder(path.parent)
        replace_file(path, data)


def point(link: Path, target: Path) -> None:
    """Replace the pointer of a link. The caller switches the link afterwards.

    Raises: as `Mirror.put`.
    """
    if mirror := mirror_of(link):
        mirror.put(link, json.dumps({"target": target.relative_to(mirror.root).as_posix()}).encode())


def send(path: Path, *, content: Path | None = None) -> None:
    """Copy a file, or all files of a folder, to the store. `content`: the file whose bytes the object gets.

    Raises:
      BusyError: another run has taken over from this one.
      OSError: the store cannot be reached or written.
    """
    if mirror := mirror_of(path):

        def upload(file: Path) -> None:
            check_held()  # else a paused run could bring back what was removed
            mirror.folder.upload(content or file, mirror.name(file))

        in_parallel(upload, [path] if content or path.is_file() else [one for one in path.rglob("*") if one.is_file()])


def send_version(home: Path) -> None:
    """Copy a new version to the store: its data, then its manifest. `begin_version` has marked it.

    Raises: as `Mirror.put`.
    """
    if mirror := mirror_of(home):
        send(home / "data")
        mirror.put(home / MANIFEST, (home / MANIFEST).read_bytes())
        (home / SENDING).unlink()


def begin_version(folder: Path) -> None:
    """Mark a new version that is not in the store yet."""
    if mirror_of(folder):
        (folder / SENDING).touch()


def drop(path: Path) -> None:
    """Remove from the store what is at a path: a link's pointer, a file, or a folder. The caller removes it here.

    Raises:
      BusyError: another run has taken over from this one.
      OSError: the store cannot be reached or written.
    """
    if mirror := mirror_of(path):
        # the manifest first: a version without it counts as unfinished
        found = sorted([*mirror.below(path), mirror.name(path)], key=lambda name: not name.endswith(f"/{MANIFEST}"))
        for first, last in [(0, 1), *((start, start + AT_A_TIME) for start in range(1, len(found), AT_A_TIME))]:
            check_held()
            in_parallel(lambda name: mirror.folder.remove([name]), found[first:last])


def is_small(name: str) -> bool:
    """Whether an object is always in the working copy."""
    parts = name.split("/")
    if parts[0] == VERSIONS:
        return parts[-1] == MANIFEST and parts[-2].startswith("ds=")
    return parts[0] == RECORDS or pointer_of(name) is not None or (len(parts) == 1 and name.startswith("_"))


def is_link(name: str) -> bool:
    """Whether a path in an output folder is that of a link: `promoted`, or a partition."""
    table, slash, last = name.rpartition("/")
    return name == "promoted" or bool(
        slash
        and last.startswith("ds=")
        and not table.startswith("_")
        and table != "logs"
        and not table.endswith("_failed")
    )


def pointer_of(name: str) -> str | None:
    """The link whose pointer an object is; None for other objects."""
    link = name.removesuffix(".json")
    return link if link != name and is_link(link) else None


def version_of(path: Path) -> Path | None:
    """The folder of the version that a path lies in; None for other paths."""
    homes = [one for one in (path, *path.parents) if one.name.startswith("ds=")]
    return next((one for one in homes if VERSIONS in one.parts), None)
