"""A Ray Train run: its checkpoints, what a failed run says, what a finished run removes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import epoch_lines, ray_train
from jobs.runtime.output import open_output
from jobs.runtime.ray_train import remove_checkpoints, run_workers
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.store.mirror import mirror_of

HOME = Path(__file__).parents[3]


def _config(folder: Path, **changes: Any) -> RunConfig:
    simulated = {"simulate": {"num_events": 10_000}}
    return RunConfig.model_validate(
        {"name": "n", "ds": "2026-11-22", "output_dir": str(folder), "input": simulated, **changes}
    )


def _without_actors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a training are those of the list."""
    ended: list[str] = []
    monkeypatch.setattr(epoch_lines, "_started", lambda: None)
    monkeypatch.setattr(epoch_lines.Lines, "all", lambda _: ended)
    return ended


def test_checkpoints_that_cannot_be_read_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If no epoch ends after a resume, the checkpoints are moved aside and training starts from scratch. A failure after an
    epoch ends the training."""
    attempts = []

    class Trainer:
        def __init__(self, *_: object, **settings: Any) -> None:
            self.folder = Path(settings["run_config"].storage_path, settings["run_config"].name)

        def fit(self) -> None:
            attempts.append(self.folder.exists())
            if self.folder.exists():
                raise RuntimeError("cut off")

    monkeypatch.setattr("jobs.runtime.ray_local.LocalTrainer", Trainer)
    monkeypatch.setattr("jobs.runtime.ray_train.check_workers_room", lambda *_, **__: None)
    ended = _without_actors(monkeypatch)
    config = _config(tmp_path)
    broken = tmp_path / "_checkpoints" / "n.distill.ds=2026-11-22.a"
    broken.mkdir(parents=True)
    arguments = {"name": broken.name, "stage": "distill", "epochs": 1}
    run_workers(config, lambda _: None, {}, None, **arguments)
    assert attempts == [True, False]
    assert "cannot go on from the checkpoints of an earlier run (training failed" in capsys.readouterr().out
    assert broken.with_name(f"{broken.name}.given_up").is_dir()

    def diverge(self: Trainer) -> None:
        attempts.append("again")
        ended.append("an epoch")
        raise FloatingPointError("diverged")

    broken.mkdir()
    monkeypatch.setattr(Trainer, "fit", diverge)
    with pytest.raises(TrainingError, match="diverged"):
        run_workers(config, lambda _: None, {}, None, **arguments)
    assert attempts[2:] == ["again"]


def test_checkpoints_in_a_store_that_cannot_be_read_are_removed(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store renames no folder. Training starts from scratch, and the line says so."""
    monkeypatch.setenv("DISTILREC_CACHE", str(tmp_path))
    config = _config(tmp_path, output_dir=f"{s3}/unreadable")
    open_output(config)
    mirror, name = mirror_of(config.root), "n.distill.ds=2026-11-22.a"
    assert mirror is not None
    broken = f"_checkpoints/{name}/checkpoint_manager_snapshot.json"
    mirror.folder.write(broken, b"{", over=None)

    class Trainer:
        def __init__(self, *_: object, **settings: Any) -> None:
            self.place = settings["run_config"].storage_path

        def fit(self) -> None:
            assert self.place == "shop/unreadable/_checkpoints"
            if mirror.folder.read(broken):
                raise RuntimeError("cut off")

    monkeypatch.setattr("jobs.runtime.ray_local.LocalTrainer", Trainer)
    monkeypatch.setattr(ray_train, "check_workers_room", lambda *_, **__: None)
    _without_actors(monkeypatch)
    run_workers(config, lambda _: None, {}, None, name=name, stage="distill", epochs=1)
    assert "They are removed, and training starts from scratch" in capsys.readouterr().out


RESUMES = """
import json, os, sys, tempfile
from pathlib import Path
from jobs.runtime import epoch_lines
from jobs.runtime.output import open_output
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.ray_train import remove_checkpoints, run_workers
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.store.mirror import mirror_of

def train(spec):
    from ray.train import Checkpoint, get_checkpoint, get_context, report
    before, rank, epoch = get_checkpoint(), get_context().get_world_rank(), 0
    if before:
        with before.as_directory() as folder:
            epoch = json.loads(Path(folder, f"{rank}.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{rank}.json").write_text(json.dumps(epoch + 1))
        report({}, checkpoint=Checkpoint.from_directory(folder))
    if rank == 0:
        spec["lines"].add(f"epoch {epoch + 1}")
    if epoch == 0:
        raise FloatingPointError("diverged")

epoch_lines.say = print
config = RunConfig.model_validate({
    "name": "x", "ds": "2026-11-22", "output_dir": sys.argv[1], "input": {"simulate": {}},
    "ray": {"num_cpus": 3, "object_store_megabytes": 80}, "training": {"workers": 2, "max_failures": 0},
})
name = "x.t.ds=2026-11-22.a"
with start_ray(config):
    import ray
    for machine in "ab":
        os.environ["DISTILREC_CACHE"] = f"{sys.argv[2]}/{machine}"
        open_output(config)
        try:
            run_workers(config, train, {}, ray.data.range(2), name=name, stage="t", epochs=1)
        except TrainingError as error:
            print(error)
store = mirror_of(config.root).folder
print(sum(path.endswith("/0.json") for path in store.files("_checkpoints")), "kept")
remove_checkpoints(config, name)
print(len(store.files("_checkpoints")), "left")
"""


@pytest.mark.e2e
def test_a_local_training_goes_on_from_the_store_on_another_machine(s3: str, tmp_path: Path) -> None:
    """With an output folder in a store, an empty machine finds the checkpoint of the machine that failed. A finished training
    removes it from the store."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    printed = subprocess.run(
        [sys.executable, "-c", RESUMES, f"{s3}/resumes", str(tmp_path)],
        cwd=HOME,
        env=environment | {"PYTHONPATH": str(HOME)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    lines = [line for line in printed.splitlines() if "pid=" not in line]
    cause = "training failed 1 times; the last cause: FloatingPointError: diverged"
    assert lines == ["  epoch 1", cause, "  epoch 2", "1 kept", "0 left"]


@pytest.fixture
def cause_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception, int], str]:
    """What a training says that fails with this exception, with so many retries."""

    def cause(error: Exception, max_failures: int) -> str:
        class Trainer:
            def __init__(self, *_: object, **__: object) -> None: ...

            def fit(self) -> None:
                raise error

        monkeypatch.setattr("jobs.runtime.ray_local.LocalTrainer", Trainer)
        monkeypatch.setattr(ray_train, "check_workers_room", lambda *_, **__: None)
        _without_actors(monkeypatch)
        config = _config(tmp_path, training={"max_failures": max_failures})
        with pytest.raises(TrainingError) as caught:
            run_workers(config, lambda _: None, {}, None, name="n", stage="distill", epochs=1)
        return str(caught.value)

    return cause


def test_the_cause_of_a_failed_training_is_the_workers_own_exception(
    cause_of: Callable[[Exception, int], str],
) -> None:
    """The message has the exception that a worker raised, not Ray's long text."""
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import WorkerGroupError

    own = FloatingPointError("student: the loss is not finite\nmore")
    error = WorkerGroupError("[Rank 0 Error Snippet]:\nlong", {0: UserExceptionWithTraceback(own, "traceback")})
    expected = "training failed 3 times; the last cause: FloatingPointError: student: the loss is not finite"
    assert cause_of(error, 2) == expected
    assert cause_of(RuntimeError(""), 0) == "training failed 1 times; the last cause: RuntimeError: no message"


def test_a_finished_run_removes_what_killed_runs_of_its_stage_and_date_left(tmp_path: Path) -> None:
    """Files of other settings go too. Files of another stage or date stay."""
    home = tmp_path / "_checkpoints"
    for name in (
        "distill.ds=2026-11-22.b",
        "distill.ds=2026-11-22.a.models",
        "distill.ds=2026-11-21.a",
        "benchmark.ds=2026-11-22.a",
    ):
        (home / f"n.{name}").mkdir(parents=True)
    (home / "n.distill.ds=2026-11-22.a.jsonl").touch()
    remove_checkpoints(_config(tmp_path), "n.distill.ds=2026-11-22.a")
    assert sorted(path.name for path in home.iterdir()) == ["n.benchmark.ds=2026-11-22.a", "n.distill.ds=2026-11-21.a"]


def test_workers_that_cannot_start_give_their_reason(cause_of: Callable[[Exception, int], str]) -> None:
    """Without workers the message names the reason why they did not start."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    told = cause_of(ControllerError(WorkerGroupStartupTimeoutError(10)), 2)
    assert told.startswith("the training workers could not be started: WorkerGroupStartupTimeoutError: ")
    assert "10" in told
    start = WorkerGroupStartupFailedError("a worker failed to initialize due to error:\nTraceback\nOSError: no space\n")
    assert cause_of(ControllerError(start), 2).endswith("failed to initialize due to error: OSError: no space")
    assert cause_of(ControllerError(OSError("disk full")), 2) == "training failed: OSError: disk full"
