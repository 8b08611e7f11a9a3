"""Faults of a row of nights: the drawing of them, and what each does to the input, the output or the processes of a run."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from kdlib.store import partitions
from tests.whole_nights import kill_all

BEFORE = (
    "bad export",
    "late export",
    "export twice",
    "export replaced while Spark reads",
    "yesterday again",
    "rollback",
    "forget",
)
"""What happens to the input or to the output before the night, or while its features are made."""
DURING = {
    "run killed": {-signal.SIGKILL},
    "run stopped": {143},
    "training worker killed": {0},
    "inference actor killed": {0},
    "Java killed": {1, 2},
    "raylet killed": {1, 75},
}
"""What happens to the processes of the run → exit statuses that the run may then have."""
PROCESSES = {
    "training worker killed": "RayTrainWorker",
    "inference actor killed": "ShardRecommender",
    "Java killed": "deploy.SparkSubmit",
    "raylet killed": "raylet/raylet",
}
"""Fault → a part of the command line of the process that is killed."""
CHANCE = 0.3
"""Chance of each of the two kinds in a night; so about half of the nights have a fault."""
QUIET_NIGHTS = 3
"""The first nights have no fault: gates and rollbacks need earlier nights."""


@dataclass(frozen=True)
class Drawn:
    """The faults of one night."""

    before: str | None = None
    during: str | None = None
    moment: float = 0.0
    """When the fault `during` happens, as a share of a usual run or of a part of it."""

    @property
    def names(self) -> list[str]:
        """The faults, none to two."""
        return [name for name in (self.before, self.during) if name]


def draw(seed: int, num_nights: int) -> list[Drawn]:
    """The faults of each night. A shorter row has the same faults as the beginning of a longer one.

    Each kind comes once before any comes again.
    """
    generator = np.random.default_rng(seed)
    before, during = _in_turns(BEFORE, generator), _in_turns(tuple(DURING), generator)
    found = []
    for number in range(num_nights):
        has_before, has_during = generator.random(2) < CHANCE
        moment = generator.uniform(0.05, 0.95)
        if number < QUIET_NIGHTS:
            found.append(Drawn())
        else:
            found.append(Drawn(next(before) if has_before else None, next(during) if has_during else None, moment))
    return found


def _in_turns(names: tuple[str, ...], generator: np.random.Generator) -> Iterator[str]:
    while True:
        yield from generator.permutation(names).tolist()


def lose_users(table: pa.Table) -> pa.Table:
    """Remove the user from six rows in ten."""
    lost = np.random.default_rng(1).random(len(table)) < 0.6
    users = pa.array(table["user_id"].to_pylist(), pa.string(), mask=lost)
    return table.set_column(table.schema.get_field_index("user_id"), "user_id", users)


def reverse(table: pa.Table) -> pa.Table:
    """The same rows in other files."""
    return table.take(pa.array(range(len(table) - 1, -1, -1)))


class Strike:
    """Let a fault hit the processes of a run, from a thread.

    Args:
      drawn: the fault `during`, and its moment.
      root: the output folder.
      process: the run.
      usual_seconds: how long a run takes without faults.
    """

    def __init__(self, drawn: Drawn, root: Path, process: psutil.Process, usual_seconds: float) -> None:
        self.drawn, self.seconds = drawn, None
        self._root, self._process, self._usual = root, process, usual_seconds
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    seconds: float | None
    """Seconds from the start of the run to the fault; None: the run ended before."""

    def end(self) -> None:
        """Wait for the thread, after the run has ended."""
        self._thread.join()

    def _run(self) -> None:
        name, moment = self.drawn.during, self.drawn.moment
        assert name is not None
        target = self._process
        if name in PROCESSES:
            found = self._wait_for(lambda: _child(self._process, PROCESSES[name]))
            if found is None:
                return
            target = found
        longest = self._usual if name in ("run killed", "run stopped", "raylet killed") else 4.0
        time.sleep(moment * longest)
        if not _runs(self._process):
            return
        seconds = round(time.monotonic() - self._started, 1)
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if name == "run killed":
                kill_all(self._root, self._process.pid)
            else:
                target.send_signal(signal.SIGTERM if name == "run stopped" else signal.SIGKILL)
            self.seconds = seconds

    def _wait_for(self, look: Callable[[], psutil.Process | None]) -> psutil.Process | None:
        while _runs(self._process):
            if found := look():
                return found
            time.sleep(0.05)
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _child(process: psutil.Process, name: str) -> psutil.Process | None:
    try:
        children = process.children(recursive=True)
    except psutil.Error:
        return None
    for one in children:
        try:
            if name in " ".join(one.cmdline()):
                return one
        except psutil.Error:
            continue
    return None


def when_spark_writes(root: Path, process: psutil.Process, then: Callable[[], object]) -> threading.Thread:
    """Call `then` from a thread once Spark begins to write, if it does so before the process ends."""

    def watch() -> None:
        while _runs(process):
            with suppress(OSError):  # a folder is removed meanwhile
                if any((root / partitions.STAGING).rglob("_temporary")):
                    then()
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def left_processes(root: Path) -> list[str]:
    """Command lines of processes that name the output folder: none after a run has ended."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = " ".join(one.info["cmdline"] or [])
        if str(root) in line and one.pid != os.getpid():
            found.append(line[:200])
    return found
