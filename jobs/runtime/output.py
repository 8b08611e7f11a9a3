"""The output folder of a run config. One in an object store has a working copy on this machine (`kdlib.store.mirror`)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, ConfigError, DistilrecError, UnreachableError
from kdlib.store.folders import ConflictError, StoreError
from kdlib.store.mirror import attach, send
from kdlib.store.working_copy import refresh

_BEGAN = time.time()
FRESH_SECONDS = 30.0
"""How old a working copy may be for a command that only reads."""


def open_output(config: RunConfig) -> None:
    """Bring the working copy up to date, if there is one.

    Raises:
      UnreachableError: the store cannot be reached, or refuses.
      ConfigError: the working copy cannot be written.
    """
    if not config.store:
        return
    try:
        with store_errors(config):
            attach(config.root, config.store)
            refresh(config.root, older_than=FRESH_SECONDS)
    except OSError as error:
        raise ConfigError(
            f"cannot write the working copy of output_dir, {config.root}: {error.strerror or error}. Set DISTILREC_CACHE to"
            " a folder that you may write to"
        ) from None


def send_logs(config: RunConfig) -> None:
    """Copy the logs that this process has written to the store. Without them the run is whole all the same."""
    if config.store and config.ds:
        folder = config.root / "logs" / f"ds={config.day}"
        with suppress(OSError, DistilrecError):
            for path in [one for one in folder.rglob("*") if one.is_file() and one.stat().st_mtime >= _BEGAN]:
                send(path)


@contextmanager
def store_errors(config: RunConfig) -> Iterator[None]:
    """Within the block, an error of the store says where and what to do."""
    try:
        yield
    except ConflictError as error:
        raise BusyError(
            f"another run has changed {config.output_dir} meanwhile: {error}. Nothing is half-published. Run the same command again"
        ) from None
    except StoreError as error:
        raise UnreachableError(
            f"the store of output_dir, {config.output_dir}, cannot be reached, or refuses: {error}. Nothing is half-published."
            " Run the same command again; `distilrec doctor` says what is missing"
        ) from None
