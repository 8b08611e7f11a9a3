"""Leases: the right to write, held by one process at a time, on a disk or in an object store.

    _locks/ds=2026-11-22.json    who holds it, under a token that nobody else has, and a beat that grows while the holder lives

The holder writes the beat anew every few seconds. Another process takes the lease over if it has not changed for
`TERM_SECONDS`, by the clock of that process: no two clocks are compared. A holder that was paused finds another token when it
wakes up: `check_held` raises, and it is called right before each switch.

A kernel lock on a disk is a shortcut, and no more: it can show at once that a holder on the same machine is dead.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from kdlib.errors import BusyError
from kdlib.store.folders import ConflictError, DiskFolder, Folder, Found
from kdlib.store.locks import lock

LOCKS = "_locks"
"""Folder of the leases in an output folder."""
TERM_SECONDS = 60.0
BEATS_PER_TERM = 12
LOOK_SECONDS = 0.5
"""How long to wait for a kernel lock: another process takes it for a moment to see whether it can be had."""
JOIN_SECONDS = 5.0
"""How long to wait for a beat that is being written. A later one finds another token, and changes nothing."""


@dataclass(frozen=True)
class State:
    """The content of a lease."""

    token: str = ""
    """Name of this holding; empty: nobody holds the lease."""
    beat: int = 0
    holder: dict[str, Any] = field(default_factory=dict)
    """`stage`, `pid`, `host`, `machine` and `since`."""
    written: str = ""
    """A name of this very content: two processes never write the same."""

    def __str__(self) -> str:
        try:
            return "{stage}, process {pid} on {host}, since {since}".format(**self.holder)
        except KeyError:
            return "an unknown process"


class Lease:
    """A lease that this process holds, alone or with the process that started it."""

    def __init__(
        self, folder: Folder, path: str, token: str, *, descriptor: int | None, lost: Callable[[], object] | None
    ) -> None:
        self.folder, self.path, self.token, self.descriptor = folder, path, token, descriptor
        self._lost, self._stop, self._renewed = lost, threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"lease {path}")

    def check(self) -> None:
        """Raise BusyError if the lease is no longer this process's. OSError: that cannot be told."""
        if time.monotonic() - self._renewed > TERM_SECONDS / 2:  # a pause, or a store that did not answer
            self._beat()
        now = state_of(self.folder.read(self.path))
        if now.token != self.token:
            raise BusyError(
                f"this run was paused for more than {TERM_SECONDS:.0f} s, or could not reach {self.folder.url}, and its lease"
                f" {self.path} has gone to {now}. Nothing of this run is published from here on. Run it again if it is missing"
            )

    def __enter__(self) -> "Lease":
        _held.append(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _held.remove(self)
        self._stop.set()
        self._thread.join(JOIN_SECONDS)

    def release(self) -> None:
        """Let the next one in without a wait. Nothing happens if another one has it already."""
        self._change(lambda state: State())

    def _renew(self) -> None:
        while not self._stop.wait(TERM_SECONDS / BEATS_PER_TERM):
            with suppress(Exception):  # the store may answer the next time
                if not self._beat():
                    if self._lost:
                        self._lost()
                    return

    def _beat(self) -> bool:
        """Renew the lease; whether it is still ours."""
        ours = self._change(lambda state: State(state.token, state.beat + 1, state.holder))
        self._renewed = time.monotonic() if ours else self._renewed
        return ours

    def _change(self, change: Callable[[State], State]) -> bool:
        """Write the lease anew while the token is ours. Parent and child process may do so at the same moment."""
        for _ in range(5):
            found = self.folder.read(self.path)
            state = state_of(found)
            if found is None or state.token != self.token:
                return False
            with suppress(ConflictError):
                self.folder.write(self.path, _bytes(change(state)), over=found)
                break
        return True


_held: list[Lease] = []
"""The leases of this process."""


def check_held() -> None:
    """Raise BusyError if this process has lost one of its leases. Call it right before a switch."""
    for lease in _held:
        lease.check()


def of_date(ds: str) -> str:
    """The path of the lease of a date, in an output folder."""
    return f"{LOCKS}/ds={ds}.json"


@contextmanager
def held(
    folder: Folder,
    path: str,
    stage: str,
    *,
    seconds: float = 0.0,
    told: Callable[[str], object] | None = None,
    lost: Callable[[], object] | None = None,
) -> Iterator[Lease]:
    """Take a lease, hold it in the block and release it.

    Args:
      folder: where the lease lies.
      path: of the lease in it.
      stage: what the holder does, for others to read.
      seconds: how long to wait for a holder that is alive.
      told: called with a text before a wait to see whether the holder is alive.
      lost: called on a thread of its own when another process has taken over.

    Raises:
      BusyError: another process holds the lease. The text is only about that process.
      OSError: the store cannot be reached or written.
    """
    with _kernel_lock(folder, path) as kernel:
        token = _taken(folder, path, stage, kernel, seconds, told)
        lease = Lease(folder, path, token, descriptor=kernel.descriptor, lost=lost)
        try:
            with lease:
                yield lease
        finally:
            with suppress(OSError):  # then others wait for `TERM_SECONDS`
                lease.release()


def joined(folder: Folder, path: str, token: str, *, lost: Callable[[], object] | None = None) -> Lease:
    """The lease that the parent of this process holds. Both keep it alive."""
    return Lease(folder, path, token, descriptor=None, lost=lost)


def alive(folder: Folder, paths: Iterable[str]) -> set[str]:
    """Which of some leases are held by a process that is alive. The others are free afterwards.

    It takes as long as the slowest beat, at most `TERM_SECONDS`.
    """
    found, ours = set[str](), {(lease.folder.url, lease.path) for lease in _held}
    waiting = {path: folder.read(path) for path in paths}
    began = time.monotonic()
    while waiting:
        for path, first in list(waiting.items()):
            now = folder.read(path)
            state = state_of(now)
            if (folder.url, path) in ours or (state.token and now != first):
                found.add(path)
            elif state.token:
                with _kernel_lock(folder, path, shared=True) as kernel:
                    dead = kernel.shows_end_of(state)
                ended = dead or time.monotonic() - began >= TERM_SECONDS
                if not ended or now is None:
                    continue
                try:
                    folder.write(path, _bytes(State()), over=now)
                except ConflictError:  # it has just beaten, or another one has taken over
                    found.add(path)
                except OSError:  # a full disk, say; a dead process does not wake up, even if its lease names it
                    if not dead:
                        raise
            del waiting[path]
        if waiting:
            time.sleep(min(0.2, TERM_SECONDS / 20))
    return found


def state_of(found: Found | None) -> State:
    """The content of a lease. A damaged one counts as held by an unknown process, so that its change is waited for."""
    if found is None:
        return State()
    with suppress(ValueError, TypeError):
        state = State(**json.loads(found.data))
        if isinstance(state.token, str) and isinstance(state.beat, int) and isinstance(state.holder, dict):
            return state
    return State(token="damaged")


class _Kernel:
    """A kernel lock beside a lease, as far as there is one."""

    def __init__(self, file: IO[str] | None, *, shared: bool) -> None:
        self._file, self._shared, self._holds = file, shared, False

    def attempt(self, *, seconds: float = 0.0) -> None:
        """Try to take the lock, if there is one."""
        if self._file is not None and not self._holds:
            with suppress(OSError):  # another process holds it, or the file system has no locks
                lock(self._file, seconds=seconds, shared=self._shared)
                self._holds = True

    def shows_end_of(self, state: State) -> bool:
        """Whether the holder had the lock on this machine, and has ended: then it can be had."""
        self.attempt()
        if self._file is None or not self._holds or state.holder.get("machine") != self.machine:
            return False
        with open(self._file.name, "a+") as second:  # a file system that grants the lock twice shows nothing
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False
        return False

    @property
    def machine(self) -> str | None:
        """Where the lock that this process holds is known: this machine since its last start, and the mount."""
        if not self._file or not self._holds:
            return None
        boot = socket.gethostname()
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.fstat(self._file.fileno()).st_dev}"

    @property
    def descriptor(self) -> int | None:
        """For a child process, which holds the lock too if it inherits this."""
        return self._file.fileno() if self._file and self._holds else None


@contextmanager
def _kernel_lock(folder: Folder, path: str, *, shared: bool = False) -> Iterator[_Kernel]:
    if not isinstance(folder, DiskFolder):
        yield _Kernel(None, shared=shared)
        return
    beside = (folder.path / path).with_suffix(".lock")
    beside.parent.mkdir(parents=True, exist_ok=True)
    with beside.open("a+") as file:  # NFS grants a shared lock to a reader only
        yield _Kernel(file, shared=shared)


def _taken(
    folder: Folder, path: str, stage: str, kernel: _Kernel, seconds: float, told: Callable[[str], object] | None
) -> str:
    """Write this process into the lease, once it is free; returns the token."""
    first = seen = folder.read(path)
    began = changed = time.monotonic()
    while True:
        now = time.monotonic()
        state = state_of(seen)
        if not state.token or now - changed >= TERM_SECONDS or kernel.shows_end_of(state):
            kernel.attempt(seconds=LOOK_SECONDS)  # before the lease is written: until then nobody judges this process
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder = {"stage": stage, "pid": os.getpid(), "host": socket.gethostname(), "machine": kernel.machine}
            token = uuid.uuid4().hex
            with suppress(ConflictError):
                folder.write(path, _bytes(State(token, 0, holder | {"since": since})), over=seen)
                return token
        elif seen != first and now - began >= seconds:
            raise BusyError(str(state))
        elif told:
            told(f"waiting up to {TERM_SECONDS:.0f} s to see whether the other run is alive: {state}")
            told = None
        time.sleep(min(0.2, TERM_SECONDS / 20))
        if (found := folder.read(path)) != seen:
            seen, changed = found, time.monotonic()


def _bytes(state: State) -> bytes:
    return json.dumps(asdict(replace(state, written=uuid.uuid4().hex))).encode()
