"""One run at a time for a date and an output folder.

The kernel holds the lock on a file, and frees it when the last process that holds it ends. So no lock is ever stale.
A stage that runs in a process of its own inherits the lock, and keeps it if its parent is killed.
"""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, ConfigError
from kdlib.store.locks import lock

INHERITED = "DISTILREC_LOCK"
"""Environment variable: the lock file that this process holds through its parent."""
LOOK_SECONDS = 1.0
"""How long to wait for a lock, because `held_dates` of another run takes it for a moment."""
_held: dict[str, int] = {}
"""Lock file → file descriptor, of the locks that this process holds."""


@contextmanager
def run_lock(config: RunConfig, stage: str) -> Iterator[None]:
    """Hold the lock of the run's date.

    Raises:
      BusyError: another run holds the lock; the text names that run.
      ConfigError: the output folder cannot be written to.
    """
    path = (config.root / "_locks" / f"ds={config.day}.lock").absolute()
    if os.environ.get(INHERITED) == str(path):
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    except OSError as error:
        raise ConfigError(
            f"cannot write below output_dir, {config.root}: {error.strerror} ({error.filename})."
            " Set output_dir to a folder that you may write to"
        ) from None
    with opened as file:
        try:
            lock(file, seconds=LOOK_SECONDS)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"another run writes {config.day} in {config.root}: {_text(file.read())}. Wait for its end or stop it"
            ) from None
        except OSError as error:  # a file system without locks
            print(f"distilrec: warning: no lock on {path} ({error}). Start no second run of this date", file=sys.stderr)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"stage": stage, "pid": os.getpid(), "host": socket.gethostname(), "since": now}
        file.truncate(0)
        try:
            os.write(file.fileno(), json.dumps(holder).encode())
        except OSError as error:
            raise ConfigError(f"cannot write below output_dir, {config.root}: {error.strerror} ({path})") from None
        _held[str(path)] = file.fileno()
        try:
            yield
        finally:
            del _held[str(path)]


def held_dates(config: RunConfig) -> set[str]:
    """The dates that any run works on, this run too."""
    found = set()
    for path in (config.root / "_locks").glob("ds=*.lock"):
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.add(path.name.removeprefix("ds=").removesuffix(".lock"))
            except OSError:  # a file system without locks
                pass
    return found


def inherited_lock() -> dict[str, Any]:
    """Arguments for `subprocess` that hand this process's lock to a child."""
    if not _held:
        return {}
    path, descriptor = next(iter(_held.items()))
    return {"pass_fds": (descriptor,), "env": os.environ | {INHERITED: path}}


def _text(holder: str) -> str:
    try:
        found = json.loads(holder)
        return f"{found['stage']}, process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):  # the other run has just begun and has not written its name yet
        return "just started"
