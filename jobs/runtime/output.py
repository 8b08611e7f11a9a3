"""The output folder of a run config. One in an object store has a working copy on this machine (`kdlib.store.mirror`)."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kdlib.config.run import RunConfig
from kdlib.errors import UnreachableError
from kdlib.store.folders import StoreError
from kdlib.store.mirror import attach, send
from kdlib.store.working_copy import refresh

FRESH_SECONDS = 30.0
"""How old a working copy may be for a command that only reads."""


def open_output(config: RunConfig) -> None:
    """Bring the working copy up to date, if there is one.

    Raises:
      UnreachableError: the store cannot be reached, or refuses.
    """
    if config.store:
        attach(config.root, config.store)
        with store_errors(config):
            refresh(config.root, older_than=FRESH_SECONDS)


def send_logs(config: RunConfig) -> None:
    """Copy the logs of the run's date to the store. Without them the run is whole all the same."""
    if config.store and config.ds:
        with suppress(OSError):
            send(config.root / "logs" / f"ds={config.day}")


@contextmanager
def store_errors(config: RunConfig) -> Iterator[None]:
    """Within the block, an error of the store says where and what to do."""
    try:
        yield
    except StoreError as error:
        raise UnreachableError(
            f"the store of output_dir, {config.output_dir}, cannot be reached, or refuses: {error}. Nothing is half-published."
            " Run the same command again; `distilrec doctor` says what is missing"
        ) from None
