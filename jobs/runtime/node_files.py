"""Files of an output folder in an object store, on the nodes of a Ray cluster. The nodes share no folder then.

The driver offers what only its disk has. A process on a node brings what it reads, and gives what it has made. The driver
gathers that. All of it goes through the store and the node's working copy (`kdlib.store.mirror`), whose path is the same on
every machine. For an output folder on a disk, which all nodes share, nothing here does anything.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.runtime.ray_cluster import cluster_address
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.store.mirror import VERSIONS, attach, drop, mirror_of, send, version_of
from kdlib.store.partitions import CHECKPOINTS, STAGING
from kdlib.store.working_copy import fetch, others, refresh

FRESH_SECONDS = 600.0
"""How long a process trusts its node's working copy. While a run works, only that run changes what it reads."""
LEFT_OVER_SECONDS = 7 * 86_400.0
"""How old unfinished files of a node must be to be removed, if the store does not have them."""


@dataclass(frozen=True)
class NodeFiles:
    """What a process on a node needs to reach the output folder. It pickles."""

    root: Path
    store: str | None
    """The URL of the output folder. None: all processes see the driver's disk."""

    def offer(self, value: Any) -> None:
        """Copy the unfinished files and folders that a value names, as far as they are here, to the store."""
        for path in self._unfinished(value):
            if path.exists():
                send(path)

    def gather(self, value: Any) -> None:
        """Bring the unfinished files and folders that a value names, as far as they are in the store, to the driver's disk."""
        for path in self._unfinished(value):
            if path.exists():
                fetch(path)

    def bring(self, value: Any) -> None:
        """Bring all files and folders that a value names to this node. An unfinished folder that is nowhere is made.

        Raises:
          InputError: a version was removed.
          OSError: the store cannot be reached.
        """
        if self.store is None:
            return
        attach(self.root, self.store)
        refresh(self.root, older_than=FRESH_SECONDS)
        self._remove_left_overs()
        for home in {home for path in self._named_in(value) if (home := version_of(path))}:
            fetch(home)
        for path in self._unfinished(value):
            try:
                fetch(path)
            except InputError:
                path.mkdir(parents=True, exist_ok=True)
            if CHECKPOINTS in path.parts:
                _keep_what_is_in_the_store(path)

    def give(self, path: Path) -> None:
        """Move a file, or the files of a folder, from this node to the store."""
        if self.store is None:
            return
        send(path)
        for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
            file.unlink()

    def take(self, folder: Path) -> None:
        """Move what the nodes have given to a folder from the store to the driver's disk."""
        if self.store is not None:
            fetch(folder)
            drop(folder)

    def _remove_left_overs(self) -> None:
        """Remove from this node what ended runs have left unfinished. The driver removes that from the store alone."""
        folders = [self.root / name for name in (STAGING, CHECKPOINTS)]
        here = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
        for path in here - others(self.root, STAGING, CHECKPOINTS):
            with suppress(FileNotFoundError):  # another process of the node has removed it
                if time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _unfinished(self, value: Any) -> set[Path]:
        return {path for path in self._named_in(value) if version_of(path) is None}

    def _named_in(self, value: Any) -> Iterator[Path]:
        """The paths in a value that lie below the output folder: in strings, paths, dataclasses, mappings and sequences."""
        if isinstance(value, str | Path):
            if str(value).startswith(tuple(f"{self.root / name}/" for name in (VERSIONS, STAGING, CHECKPOINTS))):
                yield Path(value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            for one in dataclasses.fields(value):
                yield from self._named_in(getattr(value, one.name))
        elif isinstance(value, Mapping):
            yield from self._named_in(list(value.values()))
        elif isinstance(value, list | tuple):
            for one in value:
                yield from self._named_in(one)


def _keep_what_is_in_the_store(folder: Path) -> None:
    """Remove what an earlier run has left on this node. A worker that finds a finished model would leave the others alone."""
    mirror = mirror_of(folder)
    assert mirror is not None
    there = mirror.below(folder)
    for file in folder.rglob("*"):
        # another process of the node may be fetching a `.part`
        if file.is_file() and file.suffix != ".part" and mirror.name(file) not in there:
            file.unlink(missing_ok=True)


def node_files(config: RunConfig) -> NodeFiles:
    """For the processes of a run. Those of a local Ray see the driver's disk."""
    return NodeFiles(config.root, config.store if cluster_address(config) else None)
