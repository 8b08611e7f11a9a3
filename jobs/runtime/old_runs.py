"""Remove old runs after a promotion, except what runs that are at work need."""

from jobs.runtime.console import say, warn
from jobs.runtime.inputs import starts_of
from jobs.runtime.lock import held_dates
from kdlib.config.run import RunConfig
from kdlib.errors import BusyError
from kdlib.release import retention


def remove_old_runs(config: RunConfig) -> None:
    """Remove old runs. A failure is a warning, because the new run is in use already."""
    try:
        busy = held_dates(config)
        removed = retention.remove_old_nights(
            config.root,
            keep=config.retention.nights,
            before=config.day,
            busy=busy,
            starts=starts_of(config, busy),
            warn=_warn,
        )
    except (BusyError, OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        _warn(f"old runs are not removed: {error}. The next promotion tries again")
        return
    if removed:
        say(f"promote: removed {len(removed)} old runs, {min(removed)} to {max(removed)}")


def _warn(text: str) -> None:
    warn(f"promote: warning: {text}")
