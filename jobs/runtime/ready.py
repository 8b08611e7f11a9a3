"""Wait for the day's export: its marker says that the files are whole (`input.events.ready`)."""

import time
from pathlib import Path

from jobs.runtime.console import say
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, LateInputError
from kdlib.store.remote_files import remote_files

LOOK_SECONDS = 30
"""Time between two looks."""
SAY_SECONDS = 300
"""Time between two lines in the log."""


def wait_for_input(config: RunConfig) -> None:
    """Return once the marker of the run's day is there; at once where the run config names none.

    Raises:
      LateInputError: the marker did not come in time.
      InputError: no marker can be looked for at its URL.
    """
    events = config.input.events
    if events is None or events.ready is None:
        return
    marker, most = events.ready.of_day(events.path, config.day), events.ready.wait_minutes
    started, said = time.monotonic(), -float(SAY_SECONDS)
    while (fault := _missing(marker)) is not None:
        waited = time.monotonic() - started
        if waited >= 60 * most:
            raise LateInputError(
                f"the export of {config.day} is not whole: {marker} {fault} after {most:g} minutes (input.events.ready)."
                " Nothing is published. Check that the export has run, and run the same command again"
            )
        if waited - said >= SAY_SECONDS:
            said = waited
            say(f"build_features: waiting for {marker}, {waited / 60:.0f} of at most {most:g} minutes")
        time.sleep(min(LOOK_SECONDS, 60 * most - waited))
    if said >= 0:
        say(f"build_features: {marker} is there after {(time.monotonic() - started) / 60:.0f} minutes")


def _missing(marker: str) -> str | None:
    """Why a file does not count as there; None if it is there."""
    try:
        if "://" not in marker:
            return None if Path(marker).exists() else "is not there"
        return None if next(remote_files(marker), None) else "is not there"
    except OSError as error:  # a store that does not answer may answer at the next look
        return f"cannot be looked for ({error})"
    except InputError as error:
        raise InputError(f"cannot look for {marker}: {error} (input.events.ready)") from None
