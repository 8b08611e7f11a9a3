"""One run at a time for a date and an output folder: a lease (`kdlib.store.leases`).

A stage that runs in a process of its own holds the lease of its parent, and keeps it alive if the parent is killed.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from typing import Any

from jobs.runtime.console import warn
from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, ConfigError, UnreachableError
from kdlib.store import leases
from kdlib.store.folders import StoreError
from kdlib.store.leases import Lease
from kdlib.store.mirror import folder_of
from kdlib.store.working_copy import held

INHERITED = "DISTILREC_LEASE"
"""Environment variable: path and token of the lease that this process holds through its parent."""
_held: list[Lease] = []
"""The leases of this process on dates."""


@contextmanager
def run_lock(config: RunConfig, stage: str) -> Iterator[None]:
    """Hold the lease of the run's date.

    Raises:
      BusyError: another run holds it, and the text names that run. Or another run has taken over from this one.
      ConfigError: the output folder cannot be written to.
    """
    with ExitStack() as stack:
        lease = stack.enter_context(_of_parent(config) or _own(config, stage))
        _held.append(lease)
        try:
            yield
        finally:
            _held.remove(lease)


def _of_parent(config: RunConfig) -> Lease | None:
    """The lease of the date, if the process that started this one holds it."""
    folder, path = folder_of(config.root), leases.of_date(config.day)
    inherited = json.loads(os.environ.get(INHERITED, "{}"))
    if inherited.get("path") != f"{folder.url}/{path}":
        return None
    return leases.joined(folder, path, inherited["token"], lost=_stop)


@contextmanager
def _own(config: RunConfig, stage: str) -> Iterator[Lease]:
    with ExitStack() as stack:
        try:
            path = leases.of_date(config.day)
            how = held(config.root, path, stage, told=lambda text: warn(f"distilrec: {text}"), lost=_stop)
            lease = stack.enter_context(how)
        except BusyError as error:
            raise BusyError(
                f"another run writes {config.day} in {config.place()}: {error}. Wait for its end or stop it"
            ) from None
        except StoreError as error:
            raise UnreachableError(f"cannot write to output_dir, {config.output_dir}: {error}") from None
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise ConfigError(
                f"cannot write below output_dir, {config.root}: {error.strerror or error}{where}."
                " Set output_dir to a folder that you may write to"
            ) from None
        yield lease


def _stop() -> None:
    """End this process: another run has its date, and all that it still makes would be for nothing."""
    warn("distilrec: this run was paused for too long, and another one has taken over its date. It stops")
    os.kill(os.getpid(), signal.SIGTERM)


def held_dates(config: RunConfig) -> set[str]:
    """The dates that any run works on, this run too. It takes a few seconds if there is another one."""
    folder = folder_of(config.root)
    found = leases.alive(folder, (path for path in folder.files(leases.LOCKS) if fnmatch(path, leases.of_date("*"))))
    return {path.removeprefix(f"{leases.LOCKS}/ds=").removesuffix(".json") for path in found}


def inherited_lock() -> dict[str, Any]:
    """Arguments for `subprocess` that hand this process's lease to a child."""
    if not _held:
        return {}
    lease = _held[0]
    told = json.dumps({"path": f"{lease.folder.url}/{lease.path}", "token": lease.token})
    descriptors = () if lease.descriptor is None else (lease.descriptor,)
    return {"pass_fds": descriptors, "env": os.environ | {INHERITED: told}}
