"""What the shop's MLflow learns about each run and about the student in use. A failure is a warning, and the run goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from jobs.runtime.console import engine_output_to, log_file, one_line, warn
from jobs.runtime.extras import check_tracking_extras
from jobs.runtime.names import models_of
from kdlib.config.run import RunConfig
from kdlib.config.settings import flat
from kdlib.errors import ConfigError
from kdlib.release import promotions
from kdlib.release.promotions import Promotion
from kdlib.report.gather import find_partitions, gather
from kdlib.report.tracked import figures, name_of
from kdlib.store import partitions
from kdlib.store.fingerprint import fingerprint_of
from kdlib.store.partitions import Manifest

SECONDS = 60
"""How long MLflow may take each time, with the start of its process."""
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's own settings. What the environment sets wins."""
URI = "MLFLOW_TRACKING_URI"
OUTCOMES = {0: "done", 3: "stopped by a gate", 74: "in use, not delivered", 130: "interrupted", 143: "stopped"}
"""Exit status → how the run ended; others have failed."""
STATUSES = {0: "FINISHED", 130: "KILLED", 143: "KILLED"}


class _UntrackedError(Exception):
    """MLflow has not recorded what it should."""


def check(config: RunConfig) -> None:
    """Raise ConfigError where a package is missing, or nothing names the tracker. Call it before long work."""
    check_tracking_extras(config.tracking)
    if config.tracking.mlflow and not _uri(config):
        raise ConfigError(
            f"tracking.mlflow names no tracker: set tracking.mlflow.uri, such as http://mlflow:5000, or {URI} in the"
            " environment"
        )


def begin(config: RunConfig) -> None:
    """Record that the run of the config's date has begun. A later attempt at the date continues the same MLflow run."""
    if config.tracking.mlflow:
        begun = {"outcome": "running", "exit_status": "", "reason": ""}
        _tell(config, lambda: _run(config, "RUNNING", begun), what=config.day)


def end(config: RunConfig, status: int, reason: str = "", *, reload: Callable[[], RunConfig] | None = None) -> None:
    """Record how a run has ended and all that is published of it; the alias then follows the run in use.

    Args:
      config: the run config.
      status: the exit status of the run.
      reason: why it has not ended well; may be empty.
      reload: reads the run config again, if it is from before the features: only then does the default recipe know the
        size of the data.
    """

    def run() -> dict[str, Any]:
        now = reload() if reload else config
        outcome = {"outcome": OUTCOMES.get(status, "failed"), "exit_status": str(status), "reason": reason}
        try:
            made = _made(now)
        except Exception as error:  # a file may be damaged; the outcome is recorded nevertheless
            made = {"tags": {"not_read": one_line(error)}}
        return _run(now, STATUSES.get(status, "FAILED"), made.pop("tags") | outcome) | made

    if config.tracking.mlflow:
        _tell(config, run, what=config.day)


def follow(config: RunConfig) -> None:
    """Let the alias of the registered model follow the run in use. A call that failed is mended by the next one."""
    if config.tracking.mlflow:
        _tell(config, lambda: None, what="the switch")


def _tell(config: RunConfig, run: Callable[[], dict[str, Any] | None], *, what: str) -> None:
    """Tell MLflow about a run, if `run` gives one, and about the student in use. A failure is a warning."""
    settings = config.tracking.mlflow
    assert settings
    tracker = {"uri": _uri(config), "experiment": settings.experiment or config.name}
    try:
        check(config)
        told = run()
        while True:
            now = promotions.current(config.root)
            ask(config, tracker | {"run": told, "in_use": _in_use(config, now)})
            if promotions.current(config.root) == now:  # else another process has switched runs meanwhile
                break
    except Exception as error:
        again = "" if what != config.day else f", and `distilrec nightly --ds {what}` records the run"
        warn(
            f"tracking  warning: MLflow has not recorded {what}: {one_line(error)}. Nothing else depends on it. Check that"
            f" {tracker['uri']} answers. The next run, promotion or rollback mends the alias `in-use`{again}"
        )


def ask(config: RunConfig, asked: dict[str, Any]) -> None:
    """Run the process that talks to MLflow, for at most `SECONDS`. What it prints goes to a log file of the run."""
    with engine_output_to(log_file(config, "tracking")):
        try:
            done = subprocess.run(
                [sys.executable, "-m", "jobs.runtime.mlflow_client"],
                input=json.dumps(asked),
                stdout=subprocess.PIPE,
                text=True,
                timeout=SECONDS,
                env=LIMITS | os.environ,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _UntrackedError(f"no answer within {SECONDS} s") from None
    if done.returncode:
        raise _UntrackedError(done.stdout or f"its process ended with exit status {done.returncode}")


def _uri(config: RunConfig) -> str | None:
    settings = config.tracking.mlflow
    return (settings and settings.uri) or os.environ.get(URI)


def _run(config: RunConfig, status: str, tags: dict[str, str]) -> dict[str, Any]:
    """What `mlflow_client` takes as a run, without figures."""
    about = {
        "run_config": config.name,
        "ds": config.day,
        "output_dir": config.place(),
        "distilrec": version("distilrec"),
    }
    return {
        **_night(config, config.day),
        "status": status,
        "tags": about | tags,
        "settings": {name_of(name.removeprefix(".")): value for name, value in flat(config, "").items()},
        "figures": [],
        "time": 0,
    }


def _night(config: RunConfig, ds: str) -> dict[str, str]:
    """Identity and name of the MLflow run of a date."""
    return {"night": fingerprint_of(config.name, config.place(), ds), "name": f"{config.name} {ds}"}


def _in_use(config: RunConfig, now: Promotion | None) -> dict[str, Any] | None:
    """What `mlflow_client` takes as the student in use; None where no student is."""
    if now is None or "recommendations" not in now.versions:
        return None
    lists = promotions.manifest_of(config.root, now, "recommendations")
    student = promotions.manifest_of(config.root, now, promotions.student_of(lists))
    folder = _place(config, student, "data")
    settings, uri = config.tracking.mlflow, _uri(config) or ""
    assert settings
    return {
        **_night(config, now.ds),
        "model": settings.model or config.name,
        "student": f"{student.table}/ds={now.ds}.{student.version}",
        "source": folder if config.store or not uri.startswith("http") else None,  # a server refuses a path of a disk
        "description": f"The student of {now.ds}, {folder}",
        "tags": {
            "ds": now.ds,
            "distilrec": version("distilrec"),
            "model_version": lists.details.get("model_version", ""),
        },
    }


def _made(config: RunConfig) -> dict[str, Any]:
    """Tags, figures and their time, of all that is published for the config's date."""
    root, ds = config.root, config.day
    found = find_partitions(root, ds)
    night = gather(root, ds, name=config.name, k=config.evaluation.judged_k, models=models_of(config), found=found)
    own = [manifest for (_, day), manifest in found.items() if day == ds]
    tags = {one.table: _place(config, one, "manifest.json") for one in own}
    tags |= {f"gate.{gate.name}": gate.status for gate in night.gates}
    if report := partitions.read_manifest(root, "reports", ds):
        tags["report"] = _place(config, report, "data/index.html")
    rows = [(name_of(f"rows/{one.table}"), one.rows, 0) for one in own if one.rows is not None]
    time = max((one.published_unix_seconds for one in own), default=0.0)
    return {"tags": tags, "figures": [*figures(night), *rows], "time": round(1000 * time)}


def _place(config: RunConfig, manifest: Manifest, file: str) -> str:
    """Path or URL of a file of a version."""
    folder = partitions.version_folder(config.root, manifest.table, manifest.ds, manifest.version).parent
    return f"{config.place()}/{folder.relative_to(config.root).as_posix()}/{file}"
