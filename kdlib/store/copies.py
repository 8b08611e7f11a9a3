"""Copies of the files of object stores on this machine's disk."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from kdlib.errors import ConfigError
from kdlib.store.remote_files import RemoteFile, in_bucket
from kdlib.store.waiting import in_parallel

THREADS = 8
"""Files that are copied at a time."""


def copy_files(places: Mapping[RemoteFile, Path]) -> None:
    """Copy files of object stores to new files.

    Args:
      places: file → where its copy shall be. Folders are made.

    Raises:
      ConfigError: the disk has no room for them.
      OSError: a file cannot be read, or was replaced meanwhile.
    """
    if not places:
        return
    folder = next(iter(places.values())).parent
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(file.size for file in places), shutil.disk_usage(folder).free
    if needed >= free:
        raise ConfigError(
            f"copies of {len(places):,} files need {needed / 1e6:,.0f} MB, and {folder} has {free / 1e6:,.0f} MB free."
            " Make room there, or put output_dir on a larger disk"
        )
    in_parallel(lambda pair: _copy(*pair), places.items(), at_a_time=THREADS)


def _copy(file: RemoteFile, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    bucket, name = in_bucket(file.url)
    bucket.download(name, place)
