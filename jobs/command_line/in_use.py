"""Commands about what is in use."""

from typing import Any

import click

from jobs.runtime.command import Invocation, execute
from jobs.runtime.extras import check_explore_extra, check_search_extra, check_serve_extra
from jobs.runtime.options import IN_USE_DAY, LOCKED_DAY, REASON, configured
from kdlib.errors import ConfigError


@click.option("--user", metavar="ID", help="the user to show, by the shop's own id (default: some sample users)")
def _show(invocation: Invocation, user: str | None) -> int:
    """Print a user's history and recommendations."""
    from jobs import show

    return execute("show", invocation, lambda config: show.run(config, user=user), reads_only=True, in_use=True)


@click.option("--no-browser", is_flag=True, help="open no browser")
@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on")
@click.option("--port", type=int, default=8080, show_default=True, help="the port to listen on; 0: any that is free")
def _explore(invocation: Invocation, host: str, port: int, no_browser: bool) -> int:
    """Show users, items, quality and search in a browser."""
    check_explore_extra()
    from jobs import explore

    def run(config: Any) -> None:
        explore.run(config, host=host, port=port, browser=not no_browser, of_day=invocation.ds is not None)

    return execute("explore", invocation, run, reads_only=True, in_use=True)


@click.option("--category", help="only products of this category")
@click.option("--user", metavar="ID", help="rank for this user's history, by the shop's own id")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="how many products")
@click.argument("query", nargs=-1, required=True)
def _search(invocation: Invocation, query: tuple[str, ...], k: int, category: str | None, user: str | None) -> int:
    """Print what the search in use finds for each QUERY."""
    check_search_extra()
    from jobs import search

    def run(config: Any) -> None:
        search.run(config, query, k=k, category=category, user=user, of_day=invocation.ds is not None)

    return execute("search", invocation, run, reads_only=True, in_use=True)


@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen on")
@click.option("--port", type=click.IntRange(1, 65_535), default=8000, show_default=True, help="the port to listen on")
def _serve(invocation: Invocation, host: str, port: int) -> int:
    """Answer requests for lists and searches from the run in use, over HTTP."""
    check_serve_extra()
    from jobs import serve

    return execute(
        "serve",
        invocation,
        lambda config: serve.run(config, host=host, port=port),
        load=lambda: serve.load(invocation),
        reads_only=True,
    )


@click.option("--to", required=True, metavar="YYYY-MM-DD", help="the date of the promoted run to go back to")
@REASON
def _rollback(invocation: Invocation, to: str, reason: str) -> int:
    """Put an earlier run in use again, tables and models together."""
    from jobs import rollback

    if invocation.ds is not None:
        raise ConfigError(f"--ds {invocation.ds}: rollback takes its date with --to")
    return execute("rollback", invocation.on(to), lambda config: rollback.run(config, to, reason))


@click.option("--reason", required=True, metavar="TEXT", help="why; each run that stays out of use prints it")
def _freeze(invocation: Invocation, reason: str) -> int:
    """Keep the run in use: later runs are made, but not promoted."""
    from jobs import freeze

    return execute("freeze", invocation, lambda config: freeze.freeze(config, reason), all_dates=True)


def _unfreeze(invocation: Invocation) -> int:
    """End a freeze: later runs are promoted again."""
    from jobs import freeze

    return execute("unfreeze", invocation, freeze.unfreeze, all_dates=True)


def _deliver(invocation: Invocation) -> int:
    """Bring the run in use to where others read it."""
    from jobs import deliver

    return execute("deliver", invocation, deliver.run, in_use=True, quiet_engines=True)


@click.option("--control", metavar="NAME", help="the variant to compare with (default: control, or the largest)")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="the log's column for user, variant, propensity, target (propensity of a policy to judge), or before (what is"
    " known of a user from before the test: shortens the intervals); may be repeated",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    default=["outcome"],
    show_default=True,
    metavar="COLUMN",
    help="what to compare: revenue (by user), clicks/exposures (a ratio); may be repeated",
)
@click.argument("exposures")
def _abtest(invocation: Invocation, exposures: str, metrics: tuple[str, ...], **more: Any) -> int:
    """Print what an A/B test has shown, from a log of EXPOSURES.

    EXPOSURES is a file, a folder, a glob or a URL: Parquet, CSV or JSON lines with one row for each exposure, or for each
    user.
    """
    from jobs import abtest

    return execute(
        "abtest",
        invocation,
        lambda config: abtest.run(config, exposures, metrics=metrics, **more),
        load=lambda: abtest.load(invocation),
        reads_only=True,
    )


@click.option("--status", type=int, help="the run's exit status (default: the last one written)")
def _telemetry(invocation: Invocation, status: int | None) -> int:
    """Write what is published for monitoring (Prometheus text file)."""
    from jobs import telemetry

    return execute("telemetry", invocation, lambda config: telemetry.run(config, status=status), quiet_engines=True)


COMMANDS = (
    click.command("show")(configured(_show, ds=IN_USE_DAY)),
    click.command("explore")(configured(_explore, ds="the run's date (default: the one in use)")),
    click.command("search")(configured(_search, ds="the run's date (default: the one in use)")),
    click.command("serve")(configured(_serve, ds=None)),
    click.command("rollback")(configured(_rollback, ds=None)),
    click.command("freeze")(configured(_freeze, ds=None)),
    click.command("unfreeze")(configured(_unfreeze, ds=None)),
    click.command("deliver")(configured(_deliver, ds=f"{LOCKED_DAY}; the run in use is delivered")),
    click.command("abtest")(configured(_abtest, ds=None)),
    click.command("telemetry")(configured(_telemetry)),
)
