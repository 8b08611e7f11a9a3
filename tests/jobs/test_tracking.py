"""What an MLflow server gets to know of runs published by hand, also while it is down."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from jobs import nightly
from jobs.runtime import extras, tracking
from jobs.runtime.mlflow_client import track
from jobs.runtime.stage import Stage
from kdlib.config.run import RunConfig
from kdlib.release import promotions
from tests.jobs.handmade import put_night, root_of, run
from tests.ports import free_port
from tests.report.nights import NIGHT

mlflow = pytest.importorskip("mlflow")
DAYS = [f"2024-11-{day}" for day in range(18, 23)]


class Server:
    """An MLflow server on SQLite, that a test kills and starts again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 120
        while True:
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.3)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests of this file."""
    started = Server(tmp_path_factory.mktemp("mlflow"))
    yield started
    started.kill()


@pytest.fixture
def tracked(config: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run config with the server as its tracker. The process that talks to it gets time on a busy machine."""
    more = {"retention": {"nights": 14}, "tracking": {"mlflow": {"uri": server.url}}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))
    monkeypatch.setattr(tracking, "SECONDS", 300)
    monkeypatch.setattr(tracking, "gather", lambda root, ds, **_: replace(NIGHT, ds=ds))
    return config


def alias(server: Server) -> str:
    """The date of the student that the alias leads to."""
    return mlflow.MlflowClient(server.url).get_model_version_by_alias("small", "in-use").tags["ds"]


def in_use(config: Path) -> str:
    """The date of the run in use."""
    now = promotions.current(root_of(config))
    assert now
    return now.ds


def runs(server: Server, ds: str) -> list[Any]:
    """The MLflow runs of a date."""
    client = mlflow.MlflowClient(server.url)
    experiment = client.get_experiment_by_name("small")
    return client.search_runs([experiment.experiment_id], f"tags.ds = '{ds}'") if experiment else []


def test_the_alias_follows_ten_switches(tracked, server, monkeypatch, capfd):
    """After each promotion and rollback the alias leads to the student in use.

    While the server is down, the switch is made all the same, with a warning. The next switch mends the alias.
    """
    in_own_process = tracking.ask
    monkeypatch.setattr(tracking, "ask", lambda config, asked: track(asked))  # saves imports
    for ds in DAYS:
        put_night(tracked, ds)
        assert run("check-gates", tracked, "--ds", ds) == 0
    wanted = list[str]()

    def switch(command: str, ds: str, *, now: str) -> None:
        assert run(command, tracked, "--to" if command == "rollback" else "--ds", ds) == 0, capfd.readouterr().err
        wanted.append(now)
        assert in_use(tracked) == now

    for command, ds in (("promote", DAYS[0]), ("promote", DAYS[1]), ("promote", DAYS[2]), ("rollback", DAYS[1])):
        switch(command, ds, now=ds)
        assert alias(server) == ds
    monkeypatch.setattr(tracking, "ask", in_own_process)
    server.kill()
    capfd.readouterr()
    switch("promote", DAYS[3], now=DAYS[3])
    warning = capfd.readouterr().out
    assert "tracking  warning: MLflow has not recorded the switch: " in warning
    assert f"Check that {server.url} answers" in warning
    server.start()
    assert alias(server) == DAYS[1]
    switch("promote", DAYS[4], now=DAYS[4])
    assert alias(server) == DAYS[4]
    monkeypatch.setattr(tracking, "ask", lambda config, asked: track(asked))
    for command, ds in (("rollback", DAYS[3]), ("rollback", DAYS[0]), ("rollback", DAYS[4]), ("rollback", DAYS[2])):
        switch(command, ds, now=ds)
        assert alias(server) == ds
    assert len(wanted) == 10
    switch("promote", DAYS[0], now=DAYS[2])  # a backfill stays out of use
    assert alias(server) == DAYS[2]
    versions = mlflow.MlflowClient(server.url).search_model_versions("name = 'small'")
    assert sorted(one.tags["ds"] for one in versions) == DAYS
    for one in versions:
        assert one.source == f"runs:/{one.run_id}/student"
        assert f"{root_of(tracked)}/_versions/{one.tags['student']}/data" in one.description
    assert "warning" not in capfd.readouterr().out


def test_a_night_outlives_the_server_and_is_recorded_later(tracked, last_steps, server, monkeypatch, capfd):
    """A server that is killed in mid-run costs two warnings. The same command again continues the same MLflow run."""
    ds, run_stage = "2024-12-01", nightly.run_stage
    put_night(tracked, ds)

    def killing(config: RunConfig, stage: Stage, **more: Any) -> object:
        if stage.name == "check-gates":
            [begun] = runs(server, ds)
            assert begun.info.status == "RUNNING"
            server.kill()
        return run_stage(config, stage, **more)

    monkeypatch.setattr(nightly, "run_stage", killing)
    assert last_steps(ds) == 0, capfd.readouterr().err
    assert in_use(tracked) == ds
    printed = capfd.readouterr().out
    for what in ("the switch", ds):
        assert printed.count(f"tracking  warning: MLflow has not recorded {what}: ") == 1
    server.start()
    [left] = runs(server, ds)
    assert left.info.status == "RUNNING"
    monkeypatch.setattr(nightly, "run_stage", run_stage)
    assert last_steps(ds) == 0
    [ended] = runs(server, ds)
    assert (ended.info.run_id, ended.info.status) == (left.info.run_id, "FINISHED")
    assert ended.data.tags["outcome"] == "done"
    assert ended.data.tags["models/student"].startswith(f"{root_of(tracked)}/_versions/models/student/ds={ds}.")
    assert ended.data.metrics["student/ndcg_at_10"] == 0.25
    assert ended.data.params["recommend.k"] == "10"
    assert alias(server) == ds
    assert "warning" not in capfd.readouterr().out


def test_stages_that_run_one_by_one_are_recorded(tracked, server, monkeypatch):
    """A scheduler tells the exit status with `telemetry --status`. That needs no text file for Prometheus."""
    monkeypatch.setattr(tracking, "ask", lambda config, asked: track(asked))
    put_night(tracked, "2024-12-04")
    assert run("telemetry", tracked, "--ds", "2024-12-04", "--status", "143") == 0
    [ended] = runs(server, "2024-12-04")
    assert (ended.info.status, ended.data.tags["outcome"]) == ("KILLED", "stopped")
    assert ended.data.metrics["gate/history_length"] == 12.5


def test_a_damaged_table_does_not_hide_how_a_night_ended(tracked, last_steps, server, monkeypatch):
    """The outcome is recorded without figures, and a tag says what could not be read."""

    def damaged(*_: object, **__: object) -> object:
        raise OSError("metrics are cut off")

    monkeypatch.setattr(tracking, "ask", lambda config, asked: track(asked))
    monkeypatch.setattr(tracking, "gather", damaged)
    put_night(tracked, "2024-12-03")
    assert last_steps("2024-12-03") == 0
    [ended] = runs(server, "2024-12-03")
    assert (ended.info.status, ended.data.tags["not_read"]) == ("FINISHED", "metrics are cut off")


def test_a_gate_that_stops_a_night_is_recorded(tracked, last_steps, server, monkeypatch):
    """The MLflow run has failed, with the exit status and the gate as the reason. The alias stays."""
    monkeypatch.setattr(tracking, "ask", lambda config, asked: track(asked))
    put_night(tracked, "2024-12-02", day_events=0)
    assert last_steps("2024-12-02") == 3
    [ended] = runs(server, "2024-12-02")
    assert ended.info.status == "FAILED"
    found = {name: ended.data.tags[name] for name in ("outcome", "exit_status")}
    assert found == {"outcome": "stopped by a gate", "exit_status": "3"}
    assert "events_of_the_day 0, must be at least 1" in ended.data.tags["reason"]


def test_a_tracker_that_does_not_answer_in_time_is_left(tracked, monkeypatch, capfd):
    """The promotion succeeds, and the warning names the limit. A key in the tracker's address is not printed."""
    monkeypatch.setattr(tracking, "SECONDS", 0.1)
    document = yaml.safe_load(tracked.read_text()) | {"tracking": {"mlflow": {}}}
    tracked.write_text(yaml.safe_dump(document))
    monkeypatch.setenv(tracking.URI, "http://me:secret@127.0.0.1:1")
    put_night(tracked, DAYS[0])
    assert run("check-gates", tracked, "--ds", DAYS[0]) == run("promote", tracked, "--ds", DAYS[0]) == 0
    printed = capfd.readouterr().out
    assert "no answer within 0.1 s" in printed
    assert "Check that http://…@127.0.0.1:1 answers" in printed
    assert "secret" not in printed


@pytest.mark.parametrize(
    ("hidden", "section", "wanted"),
    [
        ("alembic", {"mlflow": {"uri": "http://mlflow:5000"}}, "tracking.mlflow needs alembic, not installed here"),
        ("openlineage", {"openlineage": {"url": "http://marquez"}}, "install the extra `openlineage`"),
        (None, {"mlflow": {}}, "set tracking.mlflow.uri, such as http://mlflow:5000, or MLFLOW_TRACKING_URI"),
    ],
)
def test_a_run_without_what_tracking_needs_does_not_begin(config, monkeypatch, capfd, hidden, section, wanted):
    """Status 2, before any stage. The message says what to install or to set."""
    monkeypatch.delenv(tracking.URI, raising=False)
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == hidden else name)
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"tracking": section}))
    assert run("nightly", config, "--ds", DAYS[0]) == 2
    assert wanted in capfd.readouterr().err
    assert not (root_of(config) / "_versions").exists()
