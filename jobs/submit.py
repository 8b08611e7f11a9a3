"""Run a stage, or the whole night, as a job on a Ray cluster: submit, follow the log, pass the exit status on."""

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import kdlib
from jobs.runtime.console import interrupted_by_sigterm, say
from jobs.runtime.ray_jobs import SUBMISSION, add_address, connect, exit_status, follow, jobs_of, stop, submit
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, ConfigError, DistilrecError

STAGES = (
    "nightly",
    "simulate-events",
    "build-features",
    "build-queries",
    "train-text-encoder",
    "train-teacher",
    "cache-teacher",
    "build-codes",
    "distill",
    "evaluate",
    "check-gates",
    "recommend",
    "build-products",
    "train-search",
    "rank-search",
    "promote",
    "deliver",
    "report",
    "telemetry",
)


def run(arguments: argparse.Namespace, more: list[str]) -> int:
    """Submit, and follow unless told not to; returns the exit status. `more`: options of the stage's own."""
    config = load_config(arguments.config, overrides=tuple(arguments.set), ds=arguments.ds, expand=False)
    if not config.output_dir.startswith(("/", "$")):
        raise ConfigError(
            f"output_dir is {config.output_dir!r}, a folder of one machine: on a cluster it must be an absolute path on "
            "storage that all nodes share; set it in the run config or with --set output_dir=/shared/distilrec"
        )
    if any(word.partition("=")[0] in ("--from", "--to") for word in more):
        raise ConfigError("a submission is one day's, found --from or --to: submit each day with --ds, in order")
    client = connect(arguments.address)
    submission_id = _free_id(client, config, arguments.stage)
    with tempfile.TemporaryDirectory(prefix="distilrec-submit-") as folder:
        _pack(Path(folder), arguments.config, with_code=not arguments.image_code)
        submit(
            client,
            entrypoint=entrypoint(arguments.stage, ds=config.day, overrides=arguments.set, more=more),
            submission_id=submission_id,
            runtime_env={"working_dir": folder},
        )
    say(f"submitted {submission_id} to {arguments.address}")
    if arguments.no_wait:
        return 0
    stopped: list[int] = []
    try:
        with interrupted_by_sigterm(stopped):
            return exit_status(follow(client, submission_id))
    except KeyboardInterrupt:
        if stopped:
            # a scheduler that gives a task up must not leave its job running, which would turn the next attempt away
            say(f"stopped by SIGTERM; {submission_id} is told to stop too")
            stop(client, submission_id)
            return 143
        say(f"\nno longer following; {submission_id} goes on. To end it: ray job stop {submission_id}")
        return 130


def entrypoint(stage: str, *, ds: str, overrides: list[str], more: list[str]) -> str:
    """The job's command line on the cluster; `exec`, so that its exit status is the stage's own."""
    words = ["python", "-m", f"jobs.{stage.replace('-', '_')}", "--config", "run.yaml", "--ds", ds]
    for override in overrides:
        words += ["--set", override]
    return f"exec {shlex.join([*words, *more])}"


def _free_id(client: Any, config: RunConfig, stage: str) -> str:
    """The id for this attempt; BusyError while another one of the same config, stage and date waits or runs."""
    base = f"distilrec-{config.name}-{stage}-{config.day}"
    attempts = {0}
    for job in jobs_of(client):
        found = SUBMISSION.fullmatch(job.submission_id or "")
        if not found or (found["name"], found["stage"], found["ds"]) != (config.name, stage, config.day):
            continue
        if not job.status.is_terminal():
            raise BusyError(f"{job.submission_id} is {job.status.lower()}; wait for its end or stop it")
        attempts.add(int(found["attempt"] or 1))
    number = max(attempts) + 1
    return base if number == 1 else f"{base}-{number}"


def _pack(folder: Path, config: str, *, with_code: bool) -> None:
    """What the job's working folder will hold: the run config, and the code that this very process is of."""
    shutil.copyfile(config, folder / "run.yaml")
    if with_code:
        home = Path(kdlib.__file__).parent.parent
        for package in ("jobs", "kdlib"):
            shutil.copytree(home / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="distilrec submit",
        description=__doc__,
        epilog="Options of the stage itself (--force, --part, --status) are passed on. Ctrl-C leaves the job running; SIGTERM, "
        "as a scheduler sends it, stops it.",
    )
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    add_address(parser)
    parser.add_argument("--config", default="cluster/runs/laptop.yaml", help="run config (default: %(default)s)")
    parser.add_argument("--ds", help="the day the run stands for, YYYY-MM-DD (default: the run config's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated"
    )
    parser.add_argument("--no-wait", action="store_true", help="return once the job is submitted")
    parser.add_argument(
        "--image-code", action="store_true", help="run the cluster image's own distilrec instead of this one"
    )
    arguments, more = parser.parse_known_args(argv)
    try:
        return run(arguments, more)
    except DistilrecError as error:
        print(f"distilrec: error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
