"""Copies of the files of object stores on this machine's disk."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from kdlib.errors import ConfigError
from kdlib.store.remote_files import RemoteFile, in_bucket

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
    in_parallel([lambda file=file, place=place: _copy(file, place) for file, place in places.items()])


def in_parallel(calls: Sequence[Callable[[], object]], *, threads: int = THREADS) -> None:
    """Make calls that wait for a store, some at a time.

    The first error, or a signal, ends the wait. Calls that have begun may then go on until the process ends.
    """
    todo: SimpleQueue[Callable[[], object]] = SimpleQueue()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    for call in calls:
        todo.put(call)

    def work() -> None:
        with suppress(Empty):
            while True:
                call = todo.get_nowait()
                try:
                    call()
                    ended.put(None)
                except BaseException as error:
                    ended.put(error)

    for _ in range(min(threads, len(calls))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in calls:
            if (error := ended.get()) is not None:
                raise error
    finally:
        with suppress(Empty):
            while True:
                todo.get_nowait()


def _copy(file: RemoteFile, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    bucket, name = in_bucket(file.url)
    bucket.download(name, place)
