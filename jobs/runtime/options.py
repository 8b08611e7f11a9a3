"""Options that several console commands have."""

import os
from collections.abc import Callable
from typing import Any

import click

from jobs.runtime.command import Invocation
from jobs.runtime.console import JSON_LOGS, USUAL_CONFIG, VERBOSE


def configured(function: Callable[..., Any], *, config: str = USUAL_CONFIG, ds: str | None = "") -> Callable[..., Any]:
    """The options of every command that reads a run config; the function gets them as `invocation`.

    Args:
      function: of the command.
      config: the default run config.
      ds: the help text of `--ds`. None: the help does not show `--ds`.
    """

    def with_invocation(
        config: str, ds: str | None, overrides: tuple[str, ...], verbose: bool, json_logs: bool, **more: Any
    ) -> int:
        os.environ |= {name: "1" for name, given in ((VERBOSE, verbose), (JSON_LOGS, json_logs)) if given}
        return function(Invocation(config, ds, overrides), **more)

    with_invocation.__doc__ = function.__doc__
    with_invocation.__name__ = function.__name__
    with_invocation.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    options = [
        click.option("--config", default=config, show_default=True, metavar="FILE", help="run config"),
        click.option(
            "--ds",
            metavar="YYYY-MM-DD",
            help=ds or "the date that the run stands for (default: the run config's)",
            hidden=ds is None,
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="override one setting; may be repeated",
        ),
        click.option("-v", "--verbose", is_flag=True, help="print what the engines print, too"),
        click.option("--json-logs", is_flag=True, help="print lines as JSON, with a run id"),
    ]
    for option in reversed(options):
        with_invocation = option(with_invocation)
    return with_invocation


FORCE = click.option("--force", metavar="REASON", default="", help="publish in spite of failed gates; kept on record")
REASON = click.option("--reason", metavar="TEXT", default="", help="kept on record")
ADDRESS = click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    metavar="URL",
    help="the cluster's job server, http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS)",
)
IN_USE_DAY = "the date that the run stands for (default: the run config's, or the one in use)"
LOCKED_DAY = "the date to lock against other runs (default: the run config's, or the one in use)"
