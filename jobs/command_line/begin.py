"""Commands to begin with: a run config for one's own files, and checks before a run."""

import click

from jobs.runtime.command import Invocation, execute
from jobs.runtime.options import configured


@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--out", metavar="FILE", help="the run config to write (default: NAME.yaml)")
@click.option("--name", metavar="NAME", help="name of the run config (default: from the events' path)")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="the events' column for user, session, item or time, where the guess is wrong; may be repeated",
)
@click.option("--force", is_flag=True, help="replace an existing run config")
def _init(files: tuple[str, ...], out: str | None, name: str | None, columns: tuple[str, ...], force: bool) -> int:
    """Look at raw files and write a run config for them.

    FILE is a file, a folder, a glob or a URL: events, and the catalogue if there is one.
    """
    from jobs import init

    init.run(files, out=out, name=name, columns=columns, force=force)
    return 0


@click.option(
    "--rows", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="about how many rows to read"
)
def _validate(invocation: Invocation, rows: int) -> int:
    """Judge a sample of the input as a run would, and write nothing."""
    from jobs import validate

    return execute("validate", invocation, lambda config: validate.run(config, rows=rows), reads_only=True)


def _doctor(invocation: Invocation) -> int:
    """Check what this machine has for a run, and what it lacks."""
    from jobs import doctor

    return doctor.run(invocation)


COMMANDS = (
    click.command("init")(_init),
    click.command("validate")(configured(_validate)),
    click.command("doctor")(configured(_doctor, ds=None)),
)
