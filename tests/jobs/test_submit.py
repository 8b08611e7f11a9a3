"""Submitting to a Ray cluster, with the cluster's answers made up: ids, refusals, exit statuses, what is sent."""

import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml

import jobs.submit
from jobs.__main__ import cli, main
from jobs.pipeline import STAGES
from jobs.runtime import ray_jobs
from jobs.runtime.command import Invocation
from jobs.runtime.ray_cluster import cluster_address, start_ray
from kdlib.config.run import RunConfig
from kdlib.errors import BusyError, DistilrecError, UnreachableError
from tests.own_modules import NEXT, write_modules

DS = "2026-11-22"


class Status(str):
    """A job's state as Ray gives it: a text that knows whether it is the last one."""

    def is_terminal(self) -> bool:
        return self in ("SUCCEEDED", "FAILED", "STOPPED")


def _job(submission_id: str, status: str, code: int | None = None, message: str = "") -> SimpleNamespace:
    return SimpleNamespace(submission_id=submission_id, status=Status(status), driver_exit_code=code, message=message)


class Client:
    """A job server that holds some jobs, takes a new one, and lets it end as told."""

    def __init__(self, jobs: list[SimpleNamespace], *, code: int = 0, refusals: tuple[str, ...] = ()) -> None:
        self.jobs, self.code, self.refusals = jobs, code, list(refusals)
        self.submitted: dict[str, Any] = {}
        self.files: dict[str, str] = {}

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **job: Any) -> None:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        self.submitted = job
        folder = Path(job["runtime_env"]["working_dir"])
        self.files = {
            str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.suffix in (".py", ".yaml")
        }

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        return _job(submission_id, "FAILED" if self.code else "SUCCEEDED", self.code)

    def get_job_logs(self, submission_id: str) -> str:
        return "the night's lines\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run config of a cluster. Its output folder is named by a variable that is not set here."""
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({"name": "shop", "output_dir": "${NO_SUCH_LAKE}/out", "input": {"simulate": {}}}))
    return path


def _submit(monkeypatch: pytest.MonkeyPatch, client: Client, config: Path, *more: str) -> int:
    monkeypatch.setattr(jobs.submit, "connect", lambda address: client)
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0.0)
    return main(["submit", "--address", "http://head:8265", "nightly", "--config", str(config), "--ds", DS, *more])


def test_every_stage_of_a_night_can_be_submitted() -> None:
    """All commands can be submitted but those that look, print and compare, and those that a person decides on."""
    [choice] = [one.type for one in cli.commands["submit"].params if one.name == "command"]
    assert isinstance(choice, click.Choice)
    assert {stage.name for stage in STAGES} < set(choice.choices) <= set(cli.commands)
    assert set(cli.commands) - set(choice.choices) == {
        "abtest",
        "benchmark",
        "init",
        "validate",
        "doctor",
        "explore",
        "forget",
        "freeze",
        "plan",
        "prune",
        "repair",
        "rollback",
        "search",
        "serve",
        "show",
        "status",
        "submit",
        "unfreeze",
    }


def test_a_shipped_run_config_can_be_submitted_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a shipped run config is enough in any folder."""
    monkeypatch.chdir(tmp_path)
    jobs.submit._pack(tmp_path, "laptop.yaml", [], with_code=False)
    assert "name: laptop" in (tmp_path / "run.yaml").read_text()


def test_what_is_sent_is_this_code_the_config_and_the_command_line(
    monkeypatch: pytest.MonkeyPatch, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job's folder holds the packages and the unchanged config.

    The overrides survive the shell, and the log is printed.
    """
    client = Client([])
    assert _submit(monkeypatch, client, config, "--set", "features.max_items='a b'") == 2  # checked before it is sent
    assert not client.submitted
    assert _submit(monkeypatch, client, config, "--set", "spark.conf={a: 'b $c'}") == 0
    assert client.submitted["submission_id"] == f"distilrec-shop-nightly-{DS}"
    words = shlex.split(client.submitted["entrypoint"])
    assert words == [
        "exec",
        "python",
        "-m",
        "jobs",
        "nightly",
        "--config",
        "run.yaml",
        "--ds",
        DS,
        "--set",
        "spark.conf={a: 'b $c'}",
    ]
    assert client.files["run.yaml"] == config.read_text()
    assert {"jobs/__main__.py", "jobs/runtime/runner.py", "kdlib/config/run.py", "kdlib/features/clean.py"} <= set(
        client.files
    )
    assert "the night's lines" in capsys.readouterr().out
    assert _submit(monkeypatch, client, config, "--image-code") == 0
    assert set(client.files) == {"run.yaml"}


@pytest.mark.parametrize("more", [(), ("--image-code",)])
def test_the_modules_of_own_teachers_are_sent_along(
    monkeypatch: pytest.MonkeyPatch, config: Path, more: tuple[str, ...]
) -> None:
    """The job's folder holds the package of a teacher's function, with and without the image's code."""
    modules = {"my_shop/__init__.py": "", "my_shop/scores.py": NEXT, "other.py": ""}
    write_modules(config.parent, monkeypatch, modules)
    own = {"teachers": [{"name": "mine", "function": "my_shop.scores:score"}], "distillation": {"targets": "sampled"}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | own))
    client = Client([])
    assert _submit(monkeypatch, client, config, *more) == 0
    assert client.files["my_shop/scores.py"] == NEXT
    sent = {path for path in client.files if not path.startswith(("jobs/", "kdlib/"))}
    assert sent == {"run.yaml", "my_shop/__init__.py", "my_shop/scores.py"}
    assert ("jobs/__main__.py" in client.files) == (not more)


@pytest.mark.parametrize(("code", "status"), [(0, 0), (2, 2), (3, 3), (75, 75), (1, 1), (-9, 137)])
def test_the_exit_status_is_the_stage_s_own(
    code: int, status: int, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    """A failed gate stays 3, a held date 75. A signal becomes the shell's status for it."""
    assert _submit(monkeypatch, Client([], code=code), config) == status


def test_a_job_that_never_ran_is_a_failure_with_ray_s_message(capsys: pytest.CaptureFixture[str]) -> None:
    """A job without an exit code ends the submission with 1 and Ray's message."""
    assert ray_jobs.exit_status(_job("distilrec-x", "STOPPED", None, "stopped by hand")) == 1
    assert "distilrec-x stopped: stopped by hand" in capsys.readouterr().err


def test_one_attempt_at_a_time(
    monkeypatch: pytest.MonkeyPatch, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A waiting or running attempt refuses the next one (75).

    After a finished attempt the next one gets the next number.
    """
    base = f"distilrec-shop-nightly-{DS}"
    others = [
        _job(f"distilrec-shop-distill-{DS}", "RUNNING"),
        _job("raysubmit_1", "RUNNING"),
        _job(f"{base}3", "RUNNING"),
    ]
    client = Client([*others, _job(base, "FAILED"), _job(f"{base}-10", "STOPPED"), _job(f"{base}-9", "SUCCEEDED")])
    assert _submit(monkeypatch, client, config) == 0
    assert client.submitted["submission_id"] == f"{base}-11"
    for status in ("PENDING", "RUNNING"):
        busy = Client([_job(base, "FAILED"), _job(f"{base}-2", status)])
        assert _submit(monkeypatch, busy, config) == 75
        assert f"{base}-2 is {status.lower()}" in capsys.readouterr().err
        assert not busy.submitted


@pytest.mark.parametrize(
    ("ends", "told"), [(True, "stopped by SIGTERM"), (False, "may go on: it still runs after 0 s")]
)
def test_sigterm_stops_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path, ends: bool, told: str
) -> None:
    """A scheduler's timeout stops the job.

    Otherwise the job would hold its date and the next attempt would be refused.
    """
    monkeypatch.setattr(ray_jobs, "STOP_SECONDS", 0.0)
    client, stopped = Client([]), []
    monkeypatch.setattr(client, "stop_job", stopped.append, raising=False)
    monkeypatch.setattr(client, "get_job_logs", lambda _: os.kill(os.getpid(), signal.SIGTERM) or "")
    answer = lambda name: _job(name, "STOPPED" if stopped and ends else "RUNNING")  # noqa: E731
    monkeypatch.setattr(client, "get_job_info", answer)
    before = signal.getsignal(signal.SIGTERM)
    assert _submit(monkeypatch, client, config) == 143
    assert stopped == [client.submitted["submission_id"]]
    assert told in "".join(capsys.readouterr())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cluster_that_has_just_started_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    """A head that cannot take jobs yet is asked again, which is said once.

    A taken id is a busy date; other errors are passed on.
    """
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0.0)
    late = "Request failed with status code 500: No available agent to submit job, please try again later."
    assert _submit(monkeypatch, Client([], refusals=(late, late)), config) == 0
    assert capsys.readouterr().out.count("no node of the cluster can take") == 1
    with pytest.raises(BusyError, match="someone else has just submitted x"):
        ray_jobs.submit(Client([], refusals=("Job with submission_id x already exists.",)), submission_id="x")
    with pytest.raises(DistilrecError, match="does not take x: no room"):
        ray_jobs.submit(Client([], refusals=("no room",)), submission_id="x")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--address", "", "nightly"], "give --address http://HEAD:8265 or set RAY_API_SERVER_ADDRESS"),
        (
            ["--address", "head:6379", "nightly"],
            "takes the URL of a Ray job server, http://HEAD:8265, found 'head:6379'",
        ),
        (
            ["--address", "http://h:82650", "nightly"],
            "takes the URL of a Ray job server, http://HEAD:8265, found 'http://h:82650'",
        ),
        (
            ["--address", "http://h:1", "nightly", "--set", "output_dir=out"],
            "output_dir is 'out', .*storage that all nodes share",
        ),
        (["--address", "http://h:1", "nightly", "--config", "no/such.yaml"], "cannot read the run config no/such.yaml"),
        (["--address", "http://h:1", "nightly", "--set", "rey.address=auto"], "unknown key rey"),
        (["--address", "http://h:1", "nightly", "--from=2026-11-01"], "submit takes one day, found --from"),
    ],
)
def test_what_the_submitter_can_mend_is_told_in_one_line(
    more: list[str], message: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2 and what to do, without a traceback."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    arguments = more if "--config" in more else [*more, "--config", str(config)]
    assert main(["submit", *arguments, "--ds", DS]) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert "Traceback" not in printed


@pytest.fixture
def closed() -> Iterator[str]:
    """An address that refuses connections: its port is bound, but nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_cluster_that_does_not_answer_may_do_later(
    closed: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 75 if the job server or the cluster that a stage joins does not answer, at the start or later. The output
    folder may be on shared storage or in a store."""
    for more in ([], ["--set", "output_dir=s3://shop/x"]):
        words = ["submit", "--address", f"http://{closed}", "nightly", "--config", str(config), "--ds", DS, *more]
        assert main(words) == 75
        printed = capsys.readouterr().err
        assert re.search(r"no Ray job server answers at http://127.0.0.1:.*refused", printed), printed
        assert "Traceback" not in printed
    document = {"name": "x", "output_dir": "/x", "input": {"simulate": {}}, "ray": {"address": closed}}
    with (
        pytest.raises(UnreachableError, match=r"cannot join the Ray cluster at 127\.0\.0\.1"),
        start_ray(RunConfig.model_validate(document)),
    ):
        pass
    for name in ("POLL_SECONDS", "START_SECONDS", "LOST_SECONDS"):
        monkeypatch.setattr(ray_jobs, name, 0.0)
    with pytest.raises(UnreachableError, match="does not take x: No available agent"):
        ray_jobs.submit(Client([], refusals=("No available agent",) * 9), submission_id="x")
    lost = Client([])
    monkeypatch.setattr(lost, "get_job_info", lambda _: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(UnreachableError, match="has not answered for 0 s"):
        ray_jobs.follow(lost, "x")


def test_a_cluster_of_another_version_is_the_user_s_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of Ray is status 2, because waiting does not help. No connection is status 75."""
    import ray

    document = {"name": "x", "output_dir": "/x", "input": {"simulate": {}}, "ray": {"address": "auto"}}
    for raised, status in ((RuntimeError("Version mismatch"), 2), (ConnectionError("Failed to connect"), 75)):
        monkeypatch.setattr(ray, "init", lambda raised=raised, **_: (_ for _ in ()).throw(raised))
        with pytest.raises(DistilrecError) as caught, start_ray(RunConfig.model_validate(document)):
            pass
        assert caught.value.exit_status == status


def test_status_lists_this_software_s_jobs_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a job, oldest first: state, start, minutes, first line of the message. `--ds` selects a date."""
    import jobs.status

    def listed(submission_id: str, start: int, end: int | None, status: str, message: str) -> SimpleNamespace:
        return SimpleNamespace(
            submission_id=submission_id,
            start_time=start,
            end_time=end,
            message=message,
            status=SimpleNamespace(value=status),
        )

    start = 1_795_305_600_000  # 2026-11-22 00:00 UTC in milliseconds
    found = [
        listed(
            f"distilrec-shop-nightly-{DS}-2", start + 3_600_000, start + 3_600_000 + 90_000, "SUCCEEDED", "finished"
        ),
        listed(f"distilrec-shop-nightly-{DS}", start, start + 1_800_000, "FAILED", "failed with exit code 3\nlog\nlog"),
        listed("raysubmit_7", start, None, "RUNNING", ""),
        listed("distilrec-shop-nightly-2026-11-21", start, None, "RUNNING", ""),
    ]
    monkeypatch.setattr(jobs.status, "connect", lambda address: SimpleNamespace(list_jobs=lambda: found))
    jobs.status.run("http://h:1", DS)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["job", f"distilrec-shop-nightly-{DS}", f"distilrec-shop-nightly-{DS}-2"]
    assert lines[1][1:] == ["FAILED", "2026-11-22", "00:00", "30.0", "failed", "with", "exit", "code", "3"]
    assert lines[2][1:] == ["SUCCEEDED", "2026-11-22", "01:00", "1.5", "finished"]
    assert main(["status", "--address", "http://h:1", "--ds", "2020-01-01"]) == 0
    assert "no distilrec job for 2020-01-01 at http://h:1" in capsys.readouterr().out


def test_a_job_server_that_cannot_list_jobs_does_not_answer() -> None:
    """While the head starts, the job server knows only its version: status 75, and one line."""

    def fail() -> None:
        raise RuntimeError("Request failed with status code 500: GCS is not reachable\n  at …")

    with pytest.raises(
        UnreachableError, match=r"does not list its jobs \(.*not reachable\)\. Check that the cluster's head is up$"
    ):
        ray_jobs.jobs_of(SimpleNamespace(list_jobs=fail))


def test_a_ray_job_joins_the_cluster_that_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `ray.address` a Ray job joins its own cluster.

    Elsewhere a local cluster starts, and RAY_ADDRESS is ignored.
    """
    document = {"name": "shop", "output_dir": "/out", "input": {"simulate": {}}}
    config = RunConfig.model_validate(document)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert cluster_address(config) is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cluster_address(config) == "auto"
    assert (
        cluster_address(RunConfig.model_validate(document | {"ray": {"address": "10.0.0.1:6379"}})) == "10.0.0.1:6379"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["nightly", "--force", "half a day", "--address", "http://head:8265"],
        ["nightly", "--address", "http://head:8265", "--force", "half a day"],
        ["--address", "http://head:8265", "nightly", "--force", "half a day", "--no-wait"],
    ],
)
def test_a_command_s_own_options_reach_it(monkeypatch: pytest.MonkeyPatch, config: Path, words: list[str]) -> None:
    """Options that `submit` does not have stand, quoted, at the end of the job's command line, wherever they were given."""
    client, connected = Client([]), []
    monkeypatch.setattr(jobs.submit, "connect", lambda address: connected.append(address) or client)
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0.0)
    assert main(["submit", *words, "--config", str(config), "--ds", DS]) == 0
    assert connected == ["http://head:8265"]
    assert client.submitted["entrypoint"].endswith(f"jobs nightly --config run.yaml --ds {DS} --force 'half a day'")


def test_the_job_understands_what_submit_passes_on(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """The words of the job's command line give the nightly run the reason, the date and the override."""
    client, begun = Client([]), []
    assert _submit(monkeypatch, client, config, "--set", "seed=7", "--force=half a day") == 0
    words = shlex.split(client.submitted["entrypoint"])
    assert words[:4] == ["exec", "python", "-m", "jobs"]
    monkeypatch.setattr("jobs.nightly.night", lambda invocation, *, force: begun.append((invocation, force)) or 0)
    assert main(words[4:]) == 0
    assert begun == [(Invocation("run.yaml", DS, ("seed=7",)), "half a day")]


def test_the_status_of_a_failed_run_reaches_telemetry(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """`submit … telemetry --status 3`, as Airflow calls it."""
    client = Client([])
    monkeypatch.setattr(jobs.submit, "connect", lambda address: client)
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0.0)
    words = ["--address", "http://h:1", "telemetry", "--status", "3", "--config", str(config), "--ds", DS]
    assert main(["submit", *words]) == 0
    assert client.submitted["entrypoint"].endswith(f"jobs telemetry --config run.yaml --ds {DS} --status 3")
