"""The files that a path names. The listing is bounded, so that a huge folder costs no more than a large one."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from glob import has_magic, iglob
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from kdlib.config.base import NO_CREDENTIALS, holds_credentials, without_credentials
from kdlib.errors import InputError

MOST_FILES = 10_000
"""A listing ends after this many files."""
HIDDEN = ("_", ".")
"""Spark ignores files and folders whose names begin with these."""
COMPRESSION = {".gz": "gzip", ".bz2": "bz2"}
"""Ending of a file's name → how it is compressed."""


@dataclass(frozen=True)
class File:
    """One file of the shop."""

    path: str
    """Absolute, or a URL."""
    size: int
    """Bytes on disk."""

    @property
    def compression(self) -> str | None:
        """`gzip`, `bz2`, or None for a file that is not compressed."""
        return COMPRESSION.get(Path(self.path).suffix.lower())

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """What a path names."""

    path: str
    """The path as given, absolute where it is local."""
    files: tuple[File, ...]
    """Sorted by path."""
    complete: bool
    """False: the path names more than `MOST_FILES` files."""
    format: str | None = None
    """`delta` or `iceberg` where the path is the folder of such a table."""


def listing(path: str) -> Listing:
    """The files of a path: a file, a folder, a glob or a URL.

    Raises:
      InputError: the path names no file, or it cannot be listed, or it is a URL with credentials.
    """
    if holds_credentials(path):
        raise InputError(f"{without_credentials(path)} holds credentials: {NO_CREDENTIALS}")
    full = path if "://" in path else os.path.abspath(os.path.expanduser(path))
    found = _remote(full) if "://" in full else _local(full)
    try:
        files = list(islice(found, MOST_FILES + 1))
    except OSError as error:
        raise InputError(f"cannot list {path}: {error}. Check the path and this machine's access to it") from None
    if not files:
        raise InputError(f"no file matches {path}. Check the path; names that begin with . or _ do not count")
    files = sorted(files, key=lambda file: file.path)
    return Listing(full, tuple(files[:MOST_FILES]), len(files) <= MOST_FILES, _table_format(full))


def open_stream(file: File) -> pa.NativeFile:
    """The file's bytes from its start, decompressed.

    Raises:
      InputError: the file cannot be opened.
    """
    try:
        system, name = pafs.FileSystem.from_uri(file.path)
        return system.open_input_stream(name, compression=file.compression)
    except OSError as error:
        raise _unreadable(file, error) from None


def open_file(file: File) -> pa.NativeFile:
    """The file for reading at any place, as stored.

    Raises:
      InputError: the file cannot be opened.
    """
    try:
        system, name = pafs.FileSystem.from_uri(file.path)
        return system.open_input_file(name)
    except OSError as error:
        raise _unreadable(file, error) from None


def spread(files: tuple[File, ...], most: int) -> list[File]:
    """At most this many of the files, evenly spaced, with the first and the last one."""
    if len(files) <= most:
        return list(files)
    return [files[round(place * (len(files) - 1) / (most - 1))] for place in range(most)]


def _unreadable(file: File, error: OSError) -> InputError:
    return InputError(f"cannot read {file.path}: {error}. Check the file and this machine's access to it")


def _local(path: str) -> Iterator[File]:
    tops = iglob(path) if has_magic(path) else [path]
    for top in tops:
        if os.path.isdir(top):
            yield from _below(top)
        elif os.path.isfile(top) and not os.path.basename(top).startswith(HIDDEN):
            yield File(top, os.path.getsize(top))


def _below(folder: str) -> Iterator[File]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
        for name in sorted(names):
            full = os.path.join(place, name)
            if not name.startswith(HIDDEN) and os.path.isfile(full):
                yield File(full, os.path.getsize(full))


def _remote(url: str) -> Iterator[File]:
    if has_magic(url):
        raise InputError(f"init cannot follow the pattern in the URL {url}. Give the folder or one file")
    try:
        system, base = pafs.FileSystem.from_uri(url)
        start = url.removesuffix(base) if url.endswith(base) else url.partition("/")[0] + "//"
        todo = deque([base])
        while todo:
            top = system.get_file_info(todo[0])
            for info in [top] if top.is_file else system.get_file_info(pafs.FileSelector(todo[0])):
                if info.base_name.startswith(HIDDEN):
                    continue
                if info.is_file:
                    yield File(start + info.path, info.size)
                else:
                    todo.append(info.path)
            todo.popleft()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot list {url}: {error}. Check the path and this machine's access to it") from None


def _table_format(path: str) -> str | None:
    if "://" in path:
        return None
    if os.path.isdir(os.path.join(path, "_delta_log")):
        return "delta"
    metadata = os.path.join(path, "metadata")
    return "iceberg" if os.path.isdir(metadata) and next(iglob(f"{metadata}/*.metadata.json"), None) else None
