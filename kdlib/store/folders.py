"""A folder on a disk or in an object store, with the few steps that a trustworthy table needs.

`kdlib.store.objects.folder_at` opens one. A small object is replaced on condition that nobody else has replaced it: of two writers that have read
the same object, one gets `ConflictError`. A reader finds the old object or the new one, each whole.
"""

import errno
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kdlib.store.files import make_folder, replace_file, sync
from kdlib.store.locks import created_once


class StoreError(OSError):
    """The store cannot be reached, or refuses."""


class ConflictError(StoreError):
    """Another writer has replaced the object."""


@dataclass(frozen=True)
class Found:
    """An object that was read."""

    data: bytes
    tag: str | None = None
    """The store's name for this content (`ETag`); None on a disk."""
    version: str | None = None
    """The store's number for this content, where it has one."""


class Folder(Protocol):
    """A folder on a disk or in an object store. Paths are relative to it, with slashes.

    All methods raise `OSError` where the store cannot be reached or refuses.
    """

    url: str

    def read(self, path: str) -> Found | None:
        """A small object; None if there is none."""
        ...

    def write(self, path: str, data: bytes, *, over: Found | None) -> Found:
        """Write a small object in one step, on condition that nobody else has written it.

        Args:
          path: where.
          data: the content. Two writers should never write the same.
          over: what the object holds, from `read`. None: there must be no object.

        Raises:
          ConflictError: the object holds something else.
        """
        ...

    def files(self, prefix: str = "") -> dict[str, int]:
        """All objects below a folder: path → bytes."""
        ...

    def upload(self, file: Path, path: str) -> None:
        """Copy a file to the folder. Readers find it when it is whole."""
        ...

    def download(self, path: str, file: Path) -> None:
        """Copy an object to a new file."""
        ...

    def remove(self, paths: Iterable[str]) -> None:
        """Remove objects. One that is gone already is no fault."""
        ...


class DiskFolder:
    """A folder on a disk."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """
        Args:
          path: of the folder; it need not exist.
          durable: what `write` has written survives a power cut.
        """
        self.path, self._durable = path.absolute(), durable
        self.url = self.path.as_uri()

    def read(self, path: str) -> Found | None:
        for attempt in range(3):
            try:
                return Found((self.path / path).read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:  # on NFS, another machine has just replaced the file
                if error.errno != errno.ESTALE or attempt == 2:
                    raise
        return None

    def write(self, path: str, data: bytes, *, over: Found | None) -> Found:
        target = self.path / path
        make_folder(target.parent)
        with created_once(target.with_name(f".{target.name}.lock")) as still_held:
            if self.read(path) != over or not still_held():
                raise ConflictError(f"{target} holds something else than before")
            replace_file(target, data, durable=self._durable)
        return Found(data)

    def files(self, prefix: str = "") -> dict[str, int]:
        found = ((path, path.relative_to(self.path).as_posix()) for path in (self.path / prefix).rglob("*"))
        hidden = {".lock", ".part"}
        return {name: path.stat().st_size for path, name in found if path.suffix not in hidden and path.is_file()}

    def upload(self, file: Path, path: str) -> None:
        target = self.path / path
        make_folder(target.parent)
        fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            shutil.copyfile(file, fresh)
            sync(fresh)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
        sync(target.parent)

    def download(self, path: str, file: Path) -> None:
        shutil.copyfile(self.path / path, file)

    def remove(self, paths: Iterable[str]) -> None:
        for target in [self.path / path for path in paths]:
            target.unlink(missing_ok=True)
            for folder in target.parents:
                if folder == self.path:
                    break
                with suppress(OSError):  # not empty, or gone
                    folder.rmdir()
