"""Put an earlier run in use again, tables and models together: `distilrec rollback --to 2026-11-21`."""

from contextlib import nullcontext
from datetime import date

from jobs.pipeline import STAGES, stage_named
from jobs.runtime import telemetry, tracking
from jobs.runtime.console import one_line, say, warn
from jobs.runtime.delivery import check, deliver_and_tell
from jobs.runtime.lock import run_lock
from jobs.runtime.runner import run_stage
from kdlib.config.run import RunConfig
from kdlib.release import promotions
from kdlib.store import partitions


def run(config: RunConfig, to: str, reason: str) -> None:
    """Switch `promoted` back, deliver, and write the reports of the affected runs again.

    Raises:
      ConfigError: nothing can be delivered to the place in `delivery`.
      InputError: the earlier run was never promoted, or its files are gone.
      DeliveryError: the earlier run is in use here, but others cannot read it yet.
    """
    check(config)
    before = promotions.current(config.root)
    promotions.rollback(config.root, to, reason=reason)
    was = f", {before.ds} no more" if before and before.ds != to else ""
    say(f"rollback: {to} is in use{was}: {config.root / promotions.LINK / 'recommendations'}")
    try:
        if config.delivery:
            deliver_and_tell(config)
        else:
            telemetry.tell(config)
    finally:
        tracking.follow(config)
        _remake_pages(config, to)


def _remake_pages(config: RunConfig, to: str) -> None:
    """Write the reports of the runs that went in or out of use. A failure is a warning."""
    for ds in sorted({switch.ds for switch in promotions.history(config.root) if switch.ds >= to}):
        night = config.model_copy(update={"ds": date.fromisoformat(ds)})
        try:
            if partitions.read_manifest(config.root, "reports", ds):
                with nullcontext() if ds == to else run_lock(night, "report"):
                    run_stage(night, stage_named("report"), pipeline=STAGES)
        except Exception as error:
            warn(f"report    warning: the report of {ds} is not updated ({type(error).__name__}: {one_line(error)})")
