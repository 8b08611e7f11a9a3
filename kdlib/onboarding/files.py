"""The files that a path names. The listing is bounded, so that a huge folder costs no more than a large one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from glob import has_magic, iglob
from itertools import islice
from pathlib import Path

import pyarrow as pa

from kdlib.config.credentials import NO_CREDENTIALS, holds_credentials, without_credentials
from kdlib.errors import InputError
from kdlib.store.remote_files import HIDDEN, fixed_part, is_hidden, is_object, open_remote, remote_files, why

MOST_FILES = 10_000
"""A listing ends after this many files."""
BUFFER_BYTES = 1 << 20
"""How much of a compressed file, or of a column of a Parquet file, is fetched at once."""
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
    def is_remote(self) -> bool:
        """Whether the path is a URL."""
        return "://" in self.path

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
    full = full_path(path)
    found = _remote(full) if "://" in full else _local(full)
    try:
        files = list(islice(found, MOST_FILES + 1))
        format_ = _table_format(full)
    except OSError as error:
        raise InputError(f"cannot list {path}: {why(error, path)}") from None
    if not files:
        raise InputError(f"no file matches {path}. Check the path; names that begin with . or _ do not count")
    files = sorted(files, key=lambda file: file.path)
    return Listing(full, tuple(files[:MOST_FILES]), len(files) <= MOST_FILES, format_)


def full_path(path: str) -> str:
    """The path as a URL, or absolute on this machine's disk."""
    path = path.removeprefix("file://")
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def open_stream(file: File) -> pa.NativeFile:
    """The file's bytes from its start, decompressed.

    Raises:
      InputError: the file cannot be opened.
    """
    stored = open_file(file)
    if not file.compression:
        return stored
    return pa.CompressedInputStream(pa.BufferedInputStream(stored, BUFFER_BYTES), file.compression)


def open_file(file: File) -> pa.NativeFile:
    """The file for reading at any place, as stored. Of a file at a URL, only what is read is fetched.

    Raises:
      InputError: the file cannot be opened.
    """
    try:
        return open_remote(file.path, file.size) if file.is_remote else pa.OSFile(file.path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file.path}: {error}. Check the file and this machine's access to it") from None


def spread(files: tuple[File, ...], most: int) -> list[File]:
    """At most this many of the files, evenly spaced, with the first and the last one."""
    if len(files) <= most:
        return list(files)
    return [files[round(place * (len(files) - 1) / (most - 1))] for place in range(most)]


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
    top = len(fixed_part(url)) + 1
    for file in remote_files(url):
        if not is_hidden(file.url[top:]):
            yield File(file.url, file.size)


def _table_format(path: str) -> str | None:
    if "://" in path:
        if not is_object(path) or has_magic(path):
            return None
        if next(remote_files(f"{path.rstrip('/')}/_delta_log"), None):
            return "delta"
        return "iceberg" if next(remote_files(f"{path.rstrip('/')}/metadata/*.metadata.json"), None) else None
    if os.path.isdir(os.path.join(path, "_delta_log")):
        return "delta"
    metadata = os.path.join(path, "metadata")
    return "iceberg" if os.path.isdir(metadata) and next(iglob(f"{metadata}/*.metadata.json"), None) else None
