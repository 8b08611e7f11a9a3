"""Locks of the kernel's on files: they go with the last process that holds them, however that ends."""

import fcntl
import time
from typing import IO


def lock(file: IO[str], *, seconds: float) -> None:
    """Hold a file's lock, from when whoever else has it lets go, for as long as the file is open.

    Raises:
      BlockingIOError: that took longer than so many seconds.
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
