"""Leases: the right to write, held by one process at a time, on a disk or in an object store.

    _locks/ds=2026-11-22.json    who holds it, under a token that nobody else has, and a beat that grows while the holder lives

The holder writes the beat anew every few seconds. Another process takes the lease over if it has not changed for
`TERM_SECONDS`, by the clock of that process: no two clocks are compared. A holder that was paused, and wakes up later, finds
another token: `check_held` raises before it switches a table.

A kernel lock on a disk is a shortcut: it tells at once that a holder on the same machine is dead.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from kdlib.errors import BusyError
from kdlib.store.folders import ConflictError, DiskFolder, Folder, Found
from kdlib.store.locks import protects

TERM_SECONDS = 60.0
BEATS_PER_TERM = 4
LOOK_SECONDS = 1.0
"""How long to wait for a kernel lock in any case: `holder_of` of another process takes it for a moment."""


@dataclass(frozen=True)
class State:
    """The content of a lease."""

    token: str = ""
    """Name of this holding; empty: nobody holds the lease."""
    beat: int = 0
    holder: dict[str, Any] = field(default_factory=dict)
    """`stage`, `pid`, `host`, `boot` and `since`."""
    written: str = ""
    """A name of this very content: two processes never write the same."""

    def __str__(self) -> str:
        try:
            return "{stage}, process {pid} on {host}, since {since}".format(**self.holder)
        except KeyError:
            return "an unknown process"


class Lease:
    """A lease that this process holds, alone or with the process that started it."""

    def __init__(self, folder: Folder, path: str, token: str, descriptor: int | None) -> None:
        self.folder, self.path, self.token, self.descriptor = folder, path, token, descriptor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"lease {path}")

    def check(self) -> None:
        """Raise BusyError if another process has taken over."""
        now = state_of(self.folder.read(self.path))
        if now.token != self.token:
            raise BusyError(
                f"this run was paused for more than {TERM_SECONDS:.0f} s, or could not reach {self.folder.url}, and another"
                f" one has taken over ({now}). Nothing of this run is published from here on. Run it again if it is missing"
            )

    def __enter__(self) -> "Lease":
        _held.append(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _held.remove(self)
        self._stop.set()
        self._thread.join()

    def release(self) -> None:
        """Let the next one in without a wait. Nothing happens if another one has it already."""
        self._change(lambda state: State())

    def _renew(self) -> None:
        while not self._stop.wait(TERM_SECONDS / BEATS_PER_TERM):
            with suppress(OSError):  # the store may answer the next time
                self._change(lambda state: State(state.token, state.beat + 1, state.holder))

    def _change(self, change: Callable[[State], State]) -> None:
        """Write the lease anew while the token is ours. Parent and child process may do so at the same moment."""
        for _ in range(5):
            found = self.folder.read(self.path)
            state = state_of(found)
            if found is None or state.token != self.token:
                return
            with suppress(ConflictError):
                self.folder.write(self.path, _bytes(change(state)), over=found)
                return


_held: list[Lease] = []
"""The leases of this process."""


def check_held() -> None:
    """Raise BusyError if this process has lost one of its leases. Call it right before a switch."""
    for lease in _held:
        lease.check()


@contextmanager
def held(
    folder: Folder, path: str, stage: str, *, seconds: float = 0.0, told: Callable[[str], object] | None = None
) -> Iterator[Lease]:
    """Take a lease, hold it in the block and release it.

    Args:
      folder: where the lease lies.
      path: of the lease in it.
      stage: what the holder does, for others to read.
      seconds: how long to wait for a holder that is alive.
      told: called with a text before a wait to see whether the holder is alive.

    Raises:
      BusyError: another process holds the lease. The text is only about that process.
      OSError: the store cannot be reached or written.
    """
    with ExitStack() as stack:
        kernel = stack.enter_context(_kernel_lock(folder, path))
        lease = _taken(folder, path, stage, kernel, seconds, told)
        with lease:
            yield lease
        with suppress(OSError):  # then others wait for `TERM_SECONDS`
            lease.release()


def joined(folder: Folder, path: str, token: str) -> Lease:
    """The lease that the parent of this process holds. Both keep it alive."""
    return Lease(folder, path, token, None)


def holder_of(folder: Folder, path: str) -> State | None:
    """Who holds a lease; None: nobody, as far as can be told from here."""
    with _kernel_lock(folder, path, shared=True) as kernel:
        state = state_of(folder.read(path))
        return state if state.token and not kernel.shows_end_of(state) else None


def state_of(found: Found | None) -> State:
    """The content of a lease. A damaged one counts as held by an unknown process, so that its change is waited for."""
    if found is None:
        return State()
    try:
        return State(**json.loads(found.data))
    except (ValueError, TypeError):
        return State(token="damaged")


class _Kernel:
    """A kernel lock beside a lease, as far as there is one."""

    def __init__(self, file: IO[str] | None, *, shared: bool) -> None:
        self._file, self._how = file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        self.holds = self.blocked = False

    def attempt(self) -> None:
        """Try to take the lock."""
        if self._file is None or self.holds:
            return
        try:
            fcntl.flock(self._file, self._how)
            self.holds, self.blocked = True, False
        except BlockingIOError:
            self.blocked = True
        except OSError:  # no locks here
            self._file = None

    def shows_end_of(self, state: State) -> bool:
        """Whether the holder was a process of this machine, and has ended."""
        if not self.holds or state.holder.get("boot") != _boot():
            return False
        assert self._file is not None
        return protects(Path(self._file.name))

    @property
    def descriptor(self) -> int | None:
        """For a child process, which holds the lock too if it inherits this."""
        return self._file.fileno() if self._file and self.holds else None


@contextmanager
def _kernel_lock(folder: Folder, path: str, *, shared: bool = False) -> Iterator[_Kernel]:
    with ExitStack() as stack:
        file = None
        if isinstance(folder, DiskFolder):
            beside = (folder.path / path).with_suffix(".lock")
            if not shared:
                beside.parent.mkdir(parents=True, exist_ok=True)
            if not shared or beside.exists():
                file = stack.enter_context(beside.open("a"))
        kernel = _Kernel(file, shared=shared)
        kernel.attempt()
        yield kernel


def _taken(
    folder: Folder, path: str, stage: str, kernel: _Kernel, seconds: float, told: Callable[[str], object] | None
) -> Lease:
    """The lease, once this process is written into it."""
    began, changed, changes, seen = time.monotonic(), 0.0, -1, None
    while True:
        kernel.attempt()
        found, now = folder.read(path), time.monotonic()
        state = state_of(found)
        if changes < 0 or found != seen:
            seen, changed, changes = found, now, changes + 1
        ended = not state.token or now - changed >= TERM_SECONDS or kernel.shows_end_of(state)
        if ended and not kernel.blocked:
            token = uuid.uuid4().hex
            with suppress(ConflictError):
                folder.write(path, _bytes(State(token, 0, _holder(stage))), over=found)
                return Lease(folder, path, token, kernel.descriptor)
            continue
        if (kernel.blocked or changes) and now - began >= max(seconds, LOOK_SECONDS):
            raise BusyError(str(state) if state.token else "just started")
        if not kernel.blocked and told:
            told(f"waiting up to {TERM_SECONDS:.0f} s to see whether the other run is alive: {state}")
            told = None
        time.sleep(min(0.2, TERM_SECONDS / 20))


def _holder(stage: str) -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"stage": stage, "pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "since": since}


def _boot() -> str:
    """A name of this machine since its last start."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _bytes(state: State) -> bytes:
    return json.dumps(asdict(replace(state, written=uuid.uuid4().hex))).encode()
