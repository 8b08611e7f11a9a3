"""The console command `distilrec`. The stages' commands are made from `jobs.pipeline`."""

import logging
import sys
from datetime import date
from importlib.metadata import version
from typing import Any, TextIO

import click

from jobs.pipeline import STAGES
from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import in_utf8, say
from jobs.runtime.extras import check_explore_extra, check_search_extra, check_serve_extra
from jobs.runtime.options import ADDRESS, FORCE, REASON, configured
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Stage
from kdlib.errors import ConfigError, DistilrecError

GROUPS = {
    "Begin": ("init", "validate", "doctor"),
    "Run": ("nightly", "plan", "benchmark"),
    "What is in use": (
        "show",
        "explore",
        "search",
        "serve",
        "rollback",
        "freeze",
        "unfreeze",
        "deliver",
        "telemetry",
        "abtest",
    ),
    "The output folder": ("forget", "prune", "repair"),
    "On a Ray cluster": ("submit", "status"),
    "Stages, in order": tuple(stage.name for stage in STAGES),
}
OF_SEARCH = (
    "train-search-encoder",
    "encode-products",
    "encode-queries",
    "train-search",
    "build-search-index",
    "rank-search",
)
"""Stages that need the extra `search`."""
IN_USE_DAY = "the date that the run stands for (default: the run config's, or the one in use)"
LOCKED_DAY = "the date to lock against other runs (default: the run config's, or the one in use)"


class _Commands(click.Group):
    """Lists the commands in groups, in the order in which they are declared."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in GROUPS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(90)) for name in names])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("distilrec"), prog_name="distilrec")
def cli() -> None:
    """Large-model distillation for recommendation and search, as a nightly batch job.

    `distilrec COMMAND --help` lists a command's options.
    """


def _add_stage(stage: Stage) -> None:
    """Add the command of a stage."""

    def command(invocation: Invocation, **options: Any) -> int:
        if stage.name in OF_SEARCH:
            check_search_extra()
        return execute(
            stage.name.replace("-", "_"),
            invocation,
            lambda config: run_stage(config, stage, pipeline=STAGES, options=options),
            in_use=stage.last,
            quiet_engines=True,
        )

    command.__doc__ = f"{stage.summary[0].upper()}{stage.summary[1:]}."
    for name in stage.options:
        command = {"force": FORCE, "reason": REASON}[name](command)
    cli.command(stage.name)(configured(command, ds=IN_USE_DAY if stage.last else ""))


for _stage in STAGES:
    _add_stage(_stage)


@cli.command("init")
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


cli.command("validate")(configured(_validate))


def _doctor(invocation: Invocation) -> int:
    """Check what this machine has for a run, and what it lacks."""
    from jobs import doctor

    return doctor.run(invocation)


cli.command("doctor")(configured(_doctor, ds=None))


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


_nightly = click.option("--dry-run", is_flag=True, help="print the plan, run nothing")(FORCE(_nightly))
_nightly = click.option("--to", "last", metavar="YYYY-MM-DD", help="the last date of a backfill")(_nightly)
_nightly = click.option("--from", "first", metavar="YYYY-MM-DD", help="the first date of a backfill")(_nightly)
cli.command("nightly")(configured(_nightly))


def _plan(invocation: Invocation) -> int:
    """Print what a run would do, and why."""
    from jobs import plan

    return execute("plan", invocation, plan.run, reads_only=True)


cli.command("plan")(configured(_plan))


def _benchmark(invocation: Invocation, arms: str | None) -> int:
    """Train recipes of a student with several seeds and compare them."""
    from jobs.benchmark.command import benchmark

    return benchmark(invocation, tuple(arms.split(",")) if arms else None)


_benchmark = click.option("--arms", metavar="A,B", help="only these arms (variants)")(_benchmark)
cli.command("benchmark")(configured(_benchmark, config="cluster/runs/quality_beauty.yaml"))


@click.option("--user", metavar="ID", help="the user to show, by the shop's own id (default: some sample users)")
def _show(invocation: Invocation, user: str | None) -> int:
    """Print a user's history and recommendations."""
    from jobs import show

    return execute("show", invocation, lambda config: show.run(config, user=user), reads_only=True, in_use=True)


cli.command("show")(configured(_show, ds=IN_USE_DAY))


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


cli.command("explore")(configured(_explore, ds="the run's date (default: the one in use)"))


@click.option("--category", help="only products of this category")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="how many products")
@click.argument("query", nargs=-1, required=True)
def _search(invocation: Invocation, query: tuple[str, ...], k: int, category: str | None) -> int:
    """Print what the search in use finds for each QUERY."""
    check_search_extra()
    from jobs import search

    def run(config: Any) -> None:
        search.run(config, query, k=k, category=category, of_day=invocation.ds is not None)

    return execute("search", invocation, run, reads_only=True, in_use=True)


cli.command("search")(configured(_search, ds="the run's date (default: the one in use)"))


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


cli.command("serve")(configured(_serve, ds=None))


@click.option("--to", required=True, metavar="YYYY-MM-DD", help="the date of the promoted run to go back to")
@REASON
def _rollback(invocation: Invocation, to: str, reason: str) -> int:
    """Put an earlier run in use again, tables and models together."""
    from jobs import rollback

    if invocation.ds is not None:
        raise ConfigError(f"--ds {invocation.ds}: rollback takes its date with --to")
    return execute("rollback", invocation.on(to), lambda config: rollback.run(config, to, reason))


cli.command("rollback")(configured(_rollback, ds=None))


@click.option("--reason", required=True, metavar="TEXT", help="why; each run that stays out of use prints it")
def _freeze(invocation: Invocation, reason: str) -> int:
    """Keep the run in use: later runs are made, but not promoted."""
    from jobs import freeze

    return execute("freeze", invocation, lambda config: freeze.freeze(config, reason), all_dates=True)


def _unfreeze(invocation: Invocation) -> int:
    """End a freeze: later runs are promoted again."""
    from jobs import freeze

    return execute("unfreeze", invocation, freeze.unfreeze, all_dates=True)


cli.command("freeze")(configured(_freeze, ds=None))
cli.command("unfreeze")(configured(_unfreeze, ds=None))


def _deliver(invocation: Invocation) -> int:
    """Bring the run in use to where others read it."""
    from jobs import deliver

    return execute("deliver", invocation, deliver.run, in_use=True, quiet_engines=True)


cli.command("deliver")(configured(_deliver, ds=f"{LOCKED_DAY}; the run in use is delivered"))


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


cli.command("abtest")(configured(_abtest, ds=None))


@click.option("--status", type=int, help="the run's exit status (default: the last one written)")
def _telemetry(invocation: Invocation, status: int | None) -> int:
    """Write what is published for monitoring (Prometheus text file)."""
    from jobs import telemetry

    return execute("telemetry", invocation, lambda config: telemetry.run(config, status=status), quiet_engines=True)


cli.command("telemetry")(configured(_telemetry))


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


cli.command("forget")(configured(_forget, ds=f"{LOCKED_DAY}; all dates are searched"))


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


cli.command("prune")(configured(_prune, ds=None))


@click.option("--yes", is_flag=True, help="mend what can be mended")
def _repair(invocation: Invocation, yes: bool) -> int:
    """Find what is damaged in the output folder, and mend it with --yes.

    Without --yes nothing is changed. The exit status is 0 if no fault is found, or left after --yes; else 1.
    """
    from jobs import repair

    return repair.repair(invocation, yes=yes)


cli.command("repair")(configured(_repair, ds=None))


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


cli.command("submit", context_settings={"ignore_unknown_options": True})(configured(_submit))


@cli.command("status")
@ADDRESS
@click.option("--ds", metavar="YYYY-MM-DD", help="only jobs for this date")
def _status(address: str | None, ds: str | None) -> int:
    """List the jobs that were submitted to a Ray cluster."""
    from jobs import status

    status.run(address, ds)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    in_utf8(argv)
    try:
        return cli.main(args=argv, prog_name="distilrec", standalone_mode=False) or 0
    except DistilrecError as error:
        say(f"distilrec: error: {error}", level=logging.ERROR)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return ConfigError.exit_status
    except click.Abort:
        return 130


if __name__ == "__main__":
    sys.exit(main())
