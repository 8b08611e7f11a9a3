"""Run a command as a job on a Ray cluster: submit it, follow its log, pass its exit status on."""

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdlib
from jobs.runtime.command import Invocation, interrupted_by_sigterm
from jobs.runtime.console import say
from jobs.runtime.own_teachers import local_code
from jobs.runtime.ray_jobs import SUBMISSION, connect, exit_status, follow, jobs_of, stop, submit
from kdlib.config.load import config_file, load_config
from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, ConfigError


def run(
    invocation: Invocation, command: str, *, address: str | None, more: list[str], wait: bool, own_code: bool
) -> int:
    """Submit a command to a Ray cluster, and follow it; returns its exit status.

    Args:
      invocation: run config, date and overrides.
      command: `nightly`, or a stage.
      address: of the cluster's job server.
      more: further options of the command.
      wait: follow the job to its end.
      own_code: the job runs the code of this process. False: it runs the code in the cluster's image.
    """
    config = load_config(invocation.config, overrides=invocation.overrides, ds=invocation.ds, expand=False)
    if config.store is None and not config.output_dir.startswith(("/", "$")):
        raise ConfigError(
            f"output_dir is {config.output_dir!r}, a folder of one machine. On a cluster it must be an absolute path on"
            " storage that all nodes share, or a folder of an object store: set it in the run config or with --set"
            " output_dir=/shared/distilrec"
        )
    if any(word.partition("=")[0] in ("--from", "--to") for word in more):
        raise ConfigError("submit takes one day, found --from or --to. Submit each day with --ds, in order")
    client = connect(address)
    submission_id = _free_id(client, config, command)
    with tempfile.TemporaryDirectory(prefix="distilrec-submit-") as folder:
        _pack(Path(folder), invocation.config, local_code(config), with_code=own_code)
        submit(
            client,
            entrypoint=entrypoint(command, ds=config.day, overrides=invocation.overrides, more=more),
            submission_id=submission_id,
            runtime_env={"working_dir": folder},
        )
    say(f"submitted {submission_id} to {address}")
    if not wait:
        return 0
    stopped: list[int] = []
    try:
        with interrupted_by_sigterm(stopped):
            return exit_status(follow(client, submission_id))
    except KeyboardInterrupt:
        if stopped:
            # a scheduler that gives up a task must not leave its job running: the job would hold the date's lock
            say(f"stopped by SIGTERM; {submission_id} is told to stop too")
            stop(client, submission_id)
            return 143
        say(f"\nno longer following; {submission_id} goes on. To end it: ray job stop {submission_id}")
        return 130


def entrypoint(command: str, *, ds: str, overrides: Sequence[str], more: Sequence[str]) -> str:
    """The job's command line on the cluster. With `exec` the job's exit status is the command's."""
    words = ["python", "-m", "jobs", command, *Invocation("run.yaml", ds, tuple(overrides)).words()]
    return f"exec {shlex.join([*words, *more])}"


def _free_id(client: Any, config: RunConfig, stage: str) -> str:
    """The id for this attempt; BusyError while a job of the same config, stage and date waits or runs."""
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


def _pack(folder: Path, config: str, teachers: Sequence[Path], *, with_code: bool) -> None:
    """Fill the job's working folder: the run config, the code of own teachers and, if asked, this process's code."""
    shutil.copyfile(config_file(config), folder / "run.yaml")
    home = Path(kdlib.__file__).parent.parent
    for code in (*teachers, *((home / package for package in ("jobs", "kdlib")) if with_code else ())):
        if code.is_dir():
            shutil.copytree(code, folder / code.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(code, folder / code.name)
