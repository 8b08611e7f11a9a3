"""Commands that run on a Ray cluster."""

import click

from jobs.pipeline import STAGES
from jobs.runtime.command import Invocation
from jobs.runtime.options import ADDRESS, configured


@click.argument(
    "command",
    type=click.Choice(["nightly", *(stage.name for stage in STAGES), "deliver", "telemetry"]),
    metavar="COMMAND",
)
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.option("--no-wait", is_flag=True, help="return once the job is submitted")
@click.option("--image-code", is_flag=True, help="run the cluster image's own distilrec instead of this one")
@ADDRESS
def _submit(
    invocation: Invocation, command: str, more: tuple[str, ...], address: str | None, no_wait: bool, image_code: bool
) -> int:
    """Run a COMMAND on a Ray cluster, follow it, pass its exit status on.

    Options of the command itself (--force) are passed on. Ctrl-C leaves the job running; SIGTERM, as a scheduler sends
    it, stops it.
    """
    from jobs import submit

    return submit.run(invocation, command, address=address, more=list(more), wait=not no_wait, own_code=not image_code)


@ADDRESS
@click.option("--ds", metavar="YYYY-MM-DD", help="only jobs for this date")
def _status(address: str | None, ds: str | None) -> int:
    """List the jobs that were submitted to a Ray cluster."""
    from jobs import status

    status.run(address, ds)
    return 0


COMMANDS = (
    click.command("submit", context_settings={"ignore_unknown_options": True})(configured(_submit)),
    click.command("status")(_status),
)
