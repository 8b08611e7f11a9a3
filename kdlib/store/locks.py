"""Locks on files: those of the kernel, and those that need no more than a file that is created once.

The kernel releases a lock when the last process that holds it ends. Some mounts grant its locks to everybody
(`protects`), and others know them on one machine only. `kdlib.store.leases` works without them.
"""

import fcntl
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

STALE_SECONDS = 10.0
"""After this time without a change, the file of `created_once` counts as left behind by a killed process."""
_TAKE = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(75)
"""
"""Program of a second process. It ends with 75 if the lock keeps it out, and with 0 if it gets the lock too."""


def lock(file: IO[str], *, seconds: float, shared: bool = False) -> None:
    """Wait for the kernel's lock of an open file and take it. The lock is held until the file is closed.

    Args:
      file: the open lock file.
      seconds: how long to wait for another holder.
      shared: with others that take it shared.

    Raises:
      BlockingIOError: another process still holds the lock after that time.
      OSError: the file system has no locks.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def protects(path: Path) -> bool:
    """Whether the kernel's lock of a file that this process holds keeps a second process out."""
    second = subprocess.run([sys.executable, "-c", _TAKE, str(path)], capture_output=True, text=True)
    if second.returncode not in (0, 75):
        raise OSError(f"a second process could not try the lock: {second.stderr.strip()[-300:]}")
    return second.returncode == 75


@contextmanager
def created_once(path: Path, *, seconds: float = 60.0) -> Iterator[Callable[[], bool]]:
    """Hold a file that only one process can create, for a step that takes milliseconds.

    Yields whether this process still holds it: another one takes over after `STALE_SECONDS`. Ask right before the step.

    Args:
      path: the file.
      seconds: how long to wait for others.

    Raises:
      TimeoutError: others have held it for that time.
      OSError: the file cannot be written.
    """
    name, seen, since, until = uuid.uuid4().hex.encode(), b"", time.monotonic(), time.monotonic() + seconds
    while not _created(path, name):
        now = _content(path)
        if now != seen:
            seen, since = now, time.monotonic()
        elif now and time.monotonic() - since > STALE_SECONDS:
            _remove_stale(path, seen)
        if time.monotonic() > until:
            raise TimeoutError(f"{path} has been held by others for {seconds:.0f} s")
        time.sleep(0.01)
    try:
        yield lambda: _content(path) == name
    finally:
        if _content(path) == name:
            path.unlink(missing_ok=True)


def _created(path: Path, name: bytes) -> bool:
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    try:
        os.write(opened, name)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(opened)
    return True


def _content(path: Path) -> bytes:
    """What the file holds; empty if there is none."""
    with suppress(FileNotFoundError):
        return path.read_bytes() or b"nothing"
    return b""


def _remove_stale(path: Path, seen: bytes) -> None:
    """Take the file away, if it still is the one that was judged. Else another process has just created it: put it back."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if _content(aside) != seen:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)
