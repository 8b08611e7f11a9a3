"""Commands about the whole output folder."""

from typing import TextIO

import click

from jobs.runtime.command import Invocation, execute
from jobs.runtime.options import LOCKED_DAY, configured


@click.option("--user", metavar="ID", help="the user, by the shop's own id")
@click.option(
    "--users-file",
    type=click.File(encoding="utf-8-sig"),
    metavar="FILE",
    help="many users: one id a line; - reads standard input",
)
def _forget(invocation: Invocation, user: str | None, users_file: TextIO | None) -> int:
    """Remove users from every output."""
    from jobs import forget

    users = forget.users_of(user, users_file)
    return execute(
        "forget",
        invocation,
        lambda config: forget.run(config, users),
        load=lambda: forget.load(invocation),
        in_use=True,
    )


@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="how many promoted runs stay; before the first promotion, how many dates (default: retention.nights)",
)
@click.option("--dry-run", is_flag=True, help="print what would go, remove nothing")
def _prune(invocation: Invocation, keep: int | None, dry_run: bool) -> int:
    """Remove old runs now, also on a full disk.

    The run in use stays, and so does what runs that are at work start from. With --keep 1 there is nothing to roll back
    to.
    """
    from jobs import prune

    return execute("prune", invocation, lambda config: prune.run(config, keep=keep, dry_run=dry_run), all_dates=True)


@click.option("--yes", is_flag=True, help="mend what can be mended")
def _repair(invocation: Invocation, yes: bool) -> int:
    """Find what is damaged in the output folder, and mend it with --yes.

    Without --yes nothing is changed. The exit status is 0 if no fault is found, or left after --yes; else 1.
    """
    from jobs import repair

    return repair.repair(invocation, yes=yes)


COMMANDS = (
    click.command("forget")(configured(_forget, ds=f"{LOCKED_DAY}; all dates are searched")),
    click.command("prune")(configured(_prune, ds=None)),
    click.command("repair")(configured(_repair, ds=None)),
)
