"""Commands that run the stages, or say what a run would do."""

from datetime import date

import click

from jobs.runtime.command import Invocation, execute
from jobs.runtime.options import FORCE, configured
from kdlib.errors import ConfigError


@click.option("--from", "first", metavar="YYYY-MM-DD", help="the first date of a backfill")
@click.option("--to", "last", metavar="YYYY-MM-DD", help="the last date of a backfill")
@click.option("--dry-run", is_flag=True, help="print the plan, run nothing")
@FORCE
def _nightly(invocation: Invocation, first: str | None, last: str | None, dry_run: bool, force: str) -> int:
    """The whole run: events in, published recommendations out."""
    from jobs import nightly

    if first is None and last is None:
        return _plan(invocation) if dry_run else nightly.night(invocation, force=force)
    try:
        days = date.fromisoformat(first or ""), date.fromisoformat(last or "")
    except ValueError:
        days = date.max, date.min
    if days[0] > days[1] or invocation.ds or dry_run:
        raise ConfigError(
            "a backfill needs --from and --to, YYYY-MM-DD, in this order, without --ds and --dry-run; found --from"
            f" {first} --to {last}"
        )
    return nightly.backfill(invocation, *days, force=force)


def _plan(invocation: Invocation) -> int:
    """Print what a run would do, and why."""
    from jobs import plan

    return execute("plan", invocation, plan.run, reads_only=True)


@click.option("--arms", metavar="A,B", help="only these arms (variants)")
def _benchmark(invocation: Invocation, arms: str | None) -> int:
    """Train recipes of a student with several seeds and compare them."""
    from jobs.benchmark.command import benchmark

    return benchmark(invocation, tuple(arms.split(",")) if arms else None)


COMMANDS = (
    click.command("nightly")(configured(_nightly)),
    click.command("plan")(configured(_plan)),
    click.command("benchmark")(configured(_benchmark, config="cluster/runs/quality_beauty.yaml")),
)
