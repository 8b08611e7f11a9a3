"""File locks of the operating system. The kernel releases a lock when the last process that holds it ends."""

import fcntl
import time
from typing import IO


def lock(file: IO[str], *, seconds: float) -> None:
    """Wait for the lock of an open file and take it. The lock is held until the file is closed.

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
