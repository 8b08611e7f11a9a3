"""Files at a URL, to read: `s3://`, `gs://` and `abfss://` by `kdlib.store.objects`, other URLs by Arrow.

A pattern is one of Spark: `*`, `?`, `[ab]` and `{a,b}`, and none of them stands for a `/`. A path that names a folder means
all files below it. Each request to an object store has a deadline, and a signal ends it.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from kdlib.errors import InputError
from kdlib.store.folders import StoreError
from kdlib.store.objects import CHUNK_BYTES, REQUEST_SECONDS, RETRY_SECONDS, ObjectFolder
from kdlib.store.waiting import wait_for

OBJECT_STORES = ("s3", "s3a", "gs", "abfss")
"""Schemes of object stores. `s3a` is Spark's name for `s3`."""
HIDDEN = ("_", ".")
"""Spark ignores files and folders whose names begin with these, except folders `_name=value`."""
PAGE = 1_000
"""Files of one answer."""
MAGIC = "*?[{"
SECONDS = RETRY_SECONDS + REQUEST_SECONDS
"""The deadline of a request."""
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_")


@dataclass(frozen=True)
class RemoteFile:
    """A file that a URL names."""

    url: str
    size: int
    """Bytes."""
    mark: int | str
    """Another content has another mark: the store's tag, or the time of the last change in nanoseconds."""


def is_object(path: str) -> bool:
    """Whether a path is the URL of a place in an object store."""
    return path.partition("://")[0] in OBJECT_STORES and "://" in path


def remote_files(path: str) -> Iterator[RemoteFile]:
    """The files that a URL names, hidden ones included. Their URLs begin like the path. Pages are fetched as needed.

    Raises:
      OSError: the place cannot be reached or refuses. A place that does not exist may have no files instead.
      InputError: the URL is of no known store.
    """
    for top, patterns in _tops(path).items():
        start = len(top) + 1
        for file in _files_at(top):
            if any(_matches(file.url[start:], pattern) for pattern in patterns):
                yield file


def fixed_part(path: str) -> str:
    """The folder above the first name with a pattern, without a `/` at its end; of a path without a pattern, the path."""
    first = min((path.find(sign) for sign in MAGIC if sign in path), default=-1)
    return path.rstrip("/") if first < 0 else path[:first].rpartition("/")[0]


def alternatives(path: str) -> list[str]:
    """The paths that `{a,b}` stands for."""
    braces = re.search(r"\{([^{}]*)\}", path)
    if braces is None:
        return [path]
    before, after = path[: braces.start()], path[braces.end() :]
    return [one for option in braces[1].split(",") for one in alternatives(before + option + after)]


def is_hidden(name: str) -> bool:
    """Whether Spark ignores a file, by its name below the folder that Spark reads."""
    *folders, file = name.split("/")
    return file.startswith(HIDDEN) or any(one.startswith(HIDDEN) and not re.match("_.*=", one) for one in folders)


def open_remote(url: str, size: int | None = None) -> pa.NativeFile:
    """A file, to read at any place. Nothing but what is read is fetched.

    Args:
      url: the file, without a pattern.
      size: its bytes, where they are known.

    Raises:
      OSError: there is no such file, or it cannot be read.
    """
    if not is_object(url):
        system, name = pafs.FileSystem.from_uri(url)
        return system.open_input_file(name)
    return pa.PythonFile(_Reader(*in_bucket(url), size), mode="r")


def why(error: OSError, url: str) -> str:
    """Why a store refuses, for an error's text: what happened, and what to check."""
    text, bucket = str(error), url.partition("://")[2].partition("/")[0]
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return f"there is no bucket {bucket} at the store. Check the URL, and AWS_ENDPOINT_URL if the store is not Amazon's"
    if re.search(r"\b40[13]\b|AccessDenied|credential", text):
        return (
            "the store refuses access. Check the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE;"
            f" GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_KEY) and their rights to read there. It says: {text[:300]}"
        )
    return f"{text}. Check the path and this machine's access to it"


def in_bucket(url: str) -> tuple[ObjectFolder, str]:
    """The bucket of an object's URL, and the object's name in it."""
    scheme, _, rest = url.partition("://")
    bucket, _, name = rest.partition("/")
    settings = tuple(sorted((key, value) for key, value in os.environ.items() if key.startswith(_SETTINGS)))
    return _bucket(f"{scheme.removesuffix('a')}://{bucket}", settings), name


@lru_cache(maxsize=8)
def _bucket(url: str, settings: tuple[tuple[str, str], ...]) -> ObjectFolder:
    """One client for a bucket. Other settings in the environment make another client."""
    return ObjectFolder(url)


class _Reader(io.RawIOBase):
    """An object in a store. Each `read` fetches what it is asked for."""

    def __init__(self, bucket: ObjectFolder, name: str, size: int | None) -> None:
        self._bucket, self._name, self._at = bucket, name, 0
        self._size = self._ask(lambda: bucket.store.head(name))["size"] if size is None else size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = min(max(0, begin + offset), self._size)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        parts = []
        while self._at < end:
            until = min(self._at + CHUNK_BYTES, end)
            parts.append(self._ask(lambda a=self._at, b=until: self._range(a, b)))
            self._at = until
        return b"".join(parts)

    def _range(self, start: int, end: int) -> bytes:
        return bytes(self._bucket.store.get_range(self._name, start=start, end=end))

    def _ask(self, request: Callable[[], Any]) -> Any:
        return wait_for(request, seconds=SECONDS, where=f"{self._bucket.url}/{self._name}")


def _tops(path: str) -> dict[str, list[str]]:
    """Folder without a pattern → the patterns of what to list below it; "" is the folder or the file itself."""
    found: dict[str, list[str]] = {}
    for one in alternatives(path):
        one = one.rstrip("/")
        top = fixed_part(one)
        found.setdefault(top, []).append(one[len(top) + 1 :])
    return found


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a file, or a folder above it."""
    if not pattern:
        return True
    names, wanted = name.split("/"), pattern.replace("[^", "[!").split("/")
    return len(names) >= len(wanted) and all(map(fnmatchcase, names, wanted))


def _files_at(top: str) -> Iterator[RemoteFile]:
    """A file, or the files of a folder and all folders below it."""
    if not is_object(top):
        yield from _arrow_files(top)
        return
    bucket, name = in_bucket(top)
    start = top[: len(top) - len(name)].rstrip("/") + "/"
    if name and (found := _head(bucket, name)):
        yield RemoteFile(top, found["size"], _mark(found))
    for one, after in pairwise(chain(_listed(bucket, name), [None])):
        path = one["path"]
        # the consoles of stores make an object of no bytes, `a/`, for a folder; it comes as `a`, before what is below it
        is_folder = not one["size"] and (path == name or (after and after["path"].startswith(f"{path}/")))
        if not is_folder:
            yield RemoteFile(start + path, one["size"], _mark(one))


def _head(bucket: ObjectFolder, name: str) -> Any:
    """What the store knows of an object; None where there is none."""

    def head() -> Any:
        from obstore.exceptions import NotFoundError

        try:
            return bucket.store.head(name)
        except (NotFoundError, FileNotFoundError):
            return None

    return wait_for(head, seconds=SECONDS, where=f"{bucket.url}/{name}")


def _listed(bucket: ObjectFolder, name: str) -> Iterator[Any]:
    """The objects below a name, page by page."""
    where = f"{bucket.url}/{name}"
    pages = wait_for(lambda: bucket.store.list(name or None, chunk_size=PAGE), seconds=SECONDS, where=where)
    while page := wait_for(lambda: next(pages, None), seconds=SECONDS, where=where):
        yield from page


def _mark(found: Any) -> int | str:
    return found["e_tag"] or int(found["last_modified"].timestamp()) * 10**9


def _arrow_files(top: str) -> Iterator[RemoteFile]:
    """Files in a file system that Arrow knows, such as HDFS, which names files as this machine does.

    Raises:
      InputError: Arrow knows no such file system.
    """
    try:
        system, base = pafs.FileSystem.from_uri(top)
        info = system.get_file_info(base)
        infos = [info] if info.is_file else system.get_file_info(pafs.FileSelector(base, recursive=True))
    except ValueError as error:
        raise InputError(
            f"{top} is of no known store: {error}. Give s3://…, gs://…, abfss://…, hdfs://… or a path"
        ) from None
    except pa.ArrowException as error:
        raise StoreError(str(error)) from None
    for one in infos:
        if one.is_file:
            name = PurePosixPath(one.path).relative_to(base) if one.path != base else ""
            yield RemoteFile(f"{top}/{name}" if name else top, one.size, one.mtime_ns or 0)
