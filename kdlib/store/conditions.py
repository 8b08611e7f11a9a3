"""Whether an object store heeds the conditions of a write. Leases and switches rely on them.

Some stores, and some gateways in front of a store, take a conditional write and ignore its condition. Two runs would then both
hold a lease.
"""

import re
import uuid
from contextlib import suppress

from kdlib.errors import ConfigError
from kdlib.store.folders import ConflictError, Folder, Found, StoreError

PROBES = "_locks"
"""Folder of the probe, which is removed again."""
ADVICE = (
    "Two runs could then write at the same time. Amazon S3, Google Cloud Storage, Azure and MinIO heed conditions; a newer"
    " version of this store may, too. Otherwise put output_dir on a disk or a shared file system"
)
_checked: set[str] = set()
"""The folders that this process has checked."""


def check_conditions(folder: Folder) -> None:
    """Write a probe object twice under each condition: the second write must fail. A folder is checked once in a process.

    Raises:
      ConfigError: the store ignores a condition, or knows none.
      OSError: the store cannot be reached, or refuses.
    """
    if folder.url in _checked:
        return
    path = f"{PROBES}/probe.{uuid.uuid4().hex}"
    try:
        first = folder.write(path, b"1", over=None)
        _must_fail(folder, path, b"2", over=None, condition="that an object is new")
        folder.write(path, b"3", over=first)
        _must_fail(folder, path, b"4", over=first, condition="that an object is still the one that was read")
    except StoreError as error:
        if re.search("NotImplemented|501 Not Implemented", str(error)):
            raise ConfigError(f"the store of {folder.url} knows no conditional writes: {error}. {ADVICE}") from None
        raise
    finally:
        with suppress(OSError):
            folder.remove([path])
    _checked.add(folder.url)


def _must_fail(folder: Folder, path: str, data: bytes, *, over: Found | None, condition: str) -> None:
    try:
        folder.write(path, data, over=over)
    except ConflictError:
        return
    raise ConfigError(f"the store of {folder.url} ignores the condition {condition}. {ADVICE}")
