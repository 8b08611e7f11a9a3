"""What is watched while nights run: memory of a run's processes, bytes on disk, and a reader of the table in use."""

import os
import threading
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.release import promotions
from kdlib.store import partitions

LOOK_SECONDS, READ_SECONDS = 1.0, 0.2
"""Time between two looks at the memory, and between two reads of the table in use."""
GIGABYTE = 10**9


class Use:
    """What a process and its descendants use during a block: `gigabytes` and `cpu_seconds`.

    The memory is the greatest sum of the proportional set sizes (PSS): memory that processes share counts once. CPU time
    does not depend on what else runs on the machine. The last second of each process is not seen.
    """

    def __init__(self, process: psutil.Process) -> None:
        self.gigabytes = 0.0
        self._process, self._ended = process, threading.Event()
        self._seconds: dict[tuple[int, float], float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all processes that were seen."""
        return round(sum(self._seconds.values()), 1)

    def __enter__(self) -> "Use":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.gigabytes = max(self.gigabytes, round(self._look() / GIGABYTE, 3))

    def _look(self) -> int:
        """Note the CPU seconds of each process; returns the bytes of all."""
        try:
            processes = [self._process, *self._process.children(recursive=True)]
        except psutil.Error:
            return 0
        found = 0
        for one in processes:
            with suppress(psutil.Error):
                found += one.memory_full_info().pss
                used = one.cpu_times()
                self._seconds[one.pid, one.create_time()] = used.user + used.system
        return found


def megabytes_on_disk(folder: Path) -> float:
    """Megabytes (10⁶ bytes) that a folder takes on the disk. A file with several names counts once."""
    found = dict[tuple[int, int], int]()
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in names)):
            try:
                about = path.lstat()
            except OSError:  # removed meanwhile
                continue
            found[about.st_dev, about.st_ino] = 512 * about.st_blocks
    return round(sum(found.values()) / 10**6, 2)


class Reader:
    """A process that reads the table in use again and again, and counts the reads that do not find a whole one.

    Args:
      root: the output folder.
      k: items of a list.
      log: a file that gets a line for each version that the reader finds, and for each fault.
      counts: reads and wrong reads of before.
    """

    def __init__(self, root: Path, *, k: int, log: Path, counts: tuple[int, int] = (0, 0)) -> None:
        processes = get_context("spawn")
        self.log = log
        self._reads, self._wrong = (processes.Value("q", count) for count in counts)
        self._erasing, self._ended = processes.Event(), processes.Event()
        shared = (self._reads, self._wrong, self._erasing, self._ended)
        self._process = processes.Process(target=_read_on, args=(root, k, log, *shared), daemon=True)
        self._process.start()

    @property
    def reads(self) -> int:
        """Reads so far."""
        return self._reads.value

    @property
    def wrong(self) -> int:
        """Reads that found no whole table."""
        return self._wrong.value

    def erasing(self, on: bool) -> None:
        """Say that users are being erased. Meanwhile the number of rows is not compared, because `forget` changes a table file by file."""
        (self._erasing.set if on else self._erasing.clear)()

    def versions(self) -> set[str]:
        """`ds=DATE.VERSION` of all tables that were read."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return {line.removeprefix("version ") for line in lines if line.startswith("version ")}

    def end(self) -> None:
        """End the process. It must have lived until now."""
        assert self._process.is_alive(), f"the reader died: see {self.log}"
        self._ended.set()
        self._process.join()


def _read_on(root: Path, k: int, log: Path, reads, wrong, erasing, ended) -> None:
    link, seen, parent = root / promotions.LINK / "recommendations", "", os.getppid()
    while os.getppid() == parent and not ended.wait(READ_SECONDS):
        if not link.exists() and not seen:  # before the first promotion
            continue
        fault = ""
        try:
            before = erasing.is_set()
            folder = link.resolve(strict=True)
            name = folder.parent.name
            fault = fault_of(folder, root, k, compare_rows=not before)
            if fault and erasing.is_set():
                fault = ""
        except BaseException as error:
            name, fault = seen, repr(error)
        reads.value += 1
        wrong.value += bool(fault)
        if fault or name != seen:
            with log.open("a") as file:
                file.write(f"version {name}\n" if not fault else f"wrong {name} at {time.time():.1f}: {fault}\n")
            seen = name


def fault_of(folder: Path, root: Path, k: int, *, compare_rows: bool) -> str:
    """What is not whole in a table; empty if nothing."""
    ds, _, version = folder.parent.name.removeprefix("ds=").partition(".")
    parts = [pq.ParquetFile(file).read(["user_id", "item_ids"]) for file in sorted(folder.iterdir())]
    table = pa.concat_tables(parts)
    rows = partitions.version_manifest(root, "recommendations", ds, version).rows
    if compare_rows and len(table) != rows:
        return f"{len(table)} rows, the manifest has {rows}"
    if len(set(table["user_id"].to_pylist())) != len(table):
        return "a user stands twice"
    lengths = set(table["item_ids"].combine_chunks().value_lengths().to_pylist())
    return "" if lengths == {k} else f"lists of {sorted(lengths)} items"
