"""Locks on files: those of the kernel, and those that need no more than a file that is created once.

The kernel releases a lock when the last process that holds it ends. Some mounts grant its locks to everybody
(`protects`), and others know them on one machine only. So no table depends on them: see `kdlib.store.leases`.
"""

import fcntl
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
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


def lock(file: IO[str], *, seconds: float) -> None:
    """Wait for the kernel's lock of an open file and take it. The lock is held until the file is closed.

    Args:
      file: the open lock file.
      seconds: how long to wait for another holder.

    Raises:
      BlockingIOError: another process still holds the lock after that time.
      OSError: the file system has no locks.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
def created_once(path: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Hold a file that only one process can create, for a step that takes milliseconds. It works on every file system.

    Raises:
      TimeoutError: others have held it for that time.
    """
    seen, since, until = b"", time.monotonic(), time.monotonic() + seconds
    name = uuid.uuid4().hex.encode()
    while True:
        with suppress(FileExistsError):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            break
        now = b""
        with suppress(FileNotFoundError):
            now = path.read_bytes() or b"empty"
        if now != seen:
            seen, since = now, time.monotonic()
        elif now and time.monotonic() - since > STALE_SECONDS:
            path.unlink(missing_ok=True)
        if time.monotonic() > until:
            raise TimeoutError(f"{path} is held by others since {seconds:.0f} s")
        time.sleep(0.01)
    try:
        os.write(opened, name)
        os.close(opened)
        yield
    finally:
        with suppress(FileNotFoundError):
            if path.read_bytes() == name:  # else this process was paused, and another one has taken over
                path.unlink()
