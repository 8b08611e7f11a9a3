"""The training loop, with a task and an engine that only count."""

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kdlib.training.trainer import Best, Validation, Weights, check_finite, epochs_within, train


class _Engine:
    """Stands for DeepSpeed's around one number."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.checkpoint_engine = model, SimpleNamespace()

    def zero_optimization_stage(self) -> int:
        return 0

    def save_checkpoint(self, folder: str, *, tag: str, client_state: dict[str, Any]) -> None:
        torch.save((self.model.state_dict(), client_state), Path(folder, tag))

    def load_checkpoint(self, folder: str, *, tag: str) -> tuple[str, dict[str, Any]]:
        weights, client_state = torch.load(Path(folder, tag))
        self.model.load_state_dict(weights)
        return folder, client_state

    def destroy(self) -> None:
        self.model = nn.Identity()


class _Task:
    """Trains a weight that counts the epochs; `scores` has the validation score of each epoch, from epoch 0 on."""

    seed = 7

    def __init__(
        self,
        scores: list[float | None],
        *,
        name: str = "x",
        patience: int | None = None,
        validates_start: bool = False,
        killed_in: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self.name, self.patience, self.validates_start, self._killed_in = name, patience, validates_start, killed_in
        self.epochs, self._scores = len(scores) - 1, scores
        self.seconds, self.planned_epochs = seconds, 0
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.models: dict[str, nn.Module] = {"model": self.model}
        self.engine: Any = _Engine(self.model)
        self.calls: list[tuple[int, int, float]] = []
        self.exported: tuple[float, list[dict[str, Any]]] | None = None

    def train_epoch(self, epoch: int, first_step: int) -> dict[str, float]:
        if epoch == self._killed_in:
            raise KeyboardInterrupt
        self.calls.append((epoch, first_step, torch.rand(()).item()))
        with torch.no_grad():
            self.model.weight += 1
        return {"loss": 1.0 / (epoch + 1), "steps": 10}

    def validate(self, model: str, weights: Weights) -> Validation:
        return Validation(self._scores[int(weights["weight"])], {f"{model}_epoch": weights["weight"].item()})

    def describe(self, line: dict[str, Any]) -> str:
        return f"epoch {line['epoch']}"

    def gauges(self, line: dict[str, Any]) -> dict[str, float]:
        return {"epoch": line["epoch"]}

    def export(self, weights: dict[str, Weights], log: list[dict[str, Any]]) -> None:
        self.exported = weights["model"]["weight"].item(), log


class _Stored:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def as_directory(self) -> Iterator[str]:
        yield str(self._folder)


class _Worker:
    """Stands for Ray Train: keeps the last checkpoint in a folder."""

    world, device, shard = 1, torch.device("cpu"), None

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self._folder, self.rank = folder, rank
        self.announced: list[tuple[str, str, dict[str, float]]] = []
        self.reported: list[dict[str, float]] = []

    def latest_checkpoint(self) -> _Stored | None:
        return _Stored(self._folder) if self._folder.exists() else None

    def announce(self, model: str, text: str, gauges: dict[str, float]) -> None:
        self.announced.append((model, text, gauges))

    def report(self, figures: dict[str, float], folder: str) -> None:
        self.reported.append(figures)
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(folder, self._folder)


def test_the_best_epochs_weights_are_exported(tmp_path: Path) -> None:
    """All epochs are trained, announced and reported; the export gets the first best epoch's weights and all lines."""
    task, worker = _Task([None, 0.1, 0.3, 0.3, 0.2]), _Worker(tmp_path / "checkpoint")
    train(task, worker)
    assert [(epoch, first_step) for epoch, first_step, _ in task.calls] == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert worker.announced == [("x", f"epoch {n}", {"epoch": n}) for n in (1, 2, 3, 4)]
    assert [figures["model_epoch"] for figures in worker.reported] == [1, 2, 3, 4]
    assert task.exported is not None
    weight, log = task.exported
    assert weight == 2
    assert [(line["epoch"], line["steps"], line["model_epoch"]) for line in log] == [(n, 10, n) for n in (1, 2, 3, 4)]


def test_training_stops_when_patience_is_over(tmp_path: Path) -> None:
    """After two epochs without a better score no further epoch is trained."""
    task = _Task([None, 0.3, 0.1, 0.2, 0.9], patience=2)
    train(task, _Worker(tmp_path / "checkpoint"))
    assert len(task.calls) == 3
    assert task.exported is not None
    assert task.exported[0] == 1


def test_without_a_score_the_last_epoch_is_kept(tmp_path: Path) -> None:
    """With nothing to validate on, training neither stops early nor keeps an earlier epoch."""
    task = _Task([None, None, None, None], patience=1)
    train(task, _Worker(tmp_path / "checkpoint"))
    assert task.exported is not None
    assert task.exported[0] == 3


def test_the_start_counts_where_the_task_asks_for_it(tmp_path: Path) -> None:
    """The untrained weights are validated as epoch 0, and exported if no epoch is better."""
    task, worker = _Task([0.5, 0.2, 0.4], validates_start=True), _Worker(tmp_path / "checkpoint")
    train(task, worker)
    assert [text for _, text, _ in worker.announced] == ["epoch 0", "epoch 1", "epoch 2"]
    assert len(worker.reported) == 2
    assert task.exported is not None
    assert task.exported[0] == 0


@pytest.mark.parametrize("validates_start", [False, True])
@pytest.mark.parametrize("killed_in", [1, 2, 3])
def test_a_killed_training_resumes(tmp_path: Path, killed_in: int, validates_start: bool) -> None:
    """The second process trains the missing epochs alone, with the same random numbers, and exports the same model."""
    scores: list[float | None] = [0.05, 0.1, 0.4, 0.3, 0.2]
    whole = _Task(scores, patience=2, validates_start=validates_start)
    train(whole, _Worker(tmp_path / "whole"))
    killed = _Task(scores, patience=2, validates_start=validates_start, killed_in=killed_in)
    worker = _Worker(tmp_path / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        train(killed, worker)
    resumed = _Task(scores, patience=2, validates_start=validates_start)
    train(resumed, worker)
    assert killed.calls + resumed.calls == whole.calls
    assert resumed.exported is not None
    assert whole.exported is not None
    assert resumed.exported[0] == whole.exported[0]
    timeless = {"train_seconds": 0.0, "seconds": 0.0}
    own, theirs = ([line | timeless for line in task.exported[1]] for task in (resumed, whole))  # type: ignore[index]
    assert own == theirs
    texts = [f"epoch {n}" for n in range(0 if validates_start else 1, 5)]
    assert [text for _, text, _ in worker.announced] == texts


def test_epochs_follow_the_seconds() -> None:
    """The plan is the epochs that fit at the mean time so far: at least those done, at most the maximum."""
    log = [{"seconds": 10.0}, {"seconds": 14.0}]
    assert epochs_within([], most=9, seconds=1.0) == 9
    for seconds, planned in ((None, 9), (1.0, 2), (24.0, 2), (35.9, 2), (36.0, 3), (60.0, 5), (1e6, 9)):
        assert epochs_within(log, most=9, seconds=seconds) == planned


def test_training_ends_within_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of five epochs of 10 s fit into 35 s, and after a slow first epoch the plan rises again."""
    slow_start = iter([0, 30, 30, 30, 34, 34, 34, 38, 38, 38, 42, 42, 42, 46, 46])
    for clock, seconds, trained in ((itertools.count(step=5), 35.0, 3), (slow_start, 70.0, 5)):
        monkeypatch.setattr("kdlib.training.trainer.time.monotonic", clock.__next__)
        task = _Task([None, 0.1, 0.2, 0.3, 0.4, 0.5], seconds=seconds)
        train(task, _Worker(tmp_path / str(trained)))
        assert len(task.calls) == trained


def test_a_checkpoint_of_another_run_is_ignored(tmp_path: Path) -> None:
    """The next model of the same workers starts at its own first epoch."""
    worker = _Worker(tmp_path / "checkpoint")
    train(_Task([None, 0.1, 0.2], name="first"), worker)
    second = _Task([None, 0.1, 0.2], name="second")
    train(second, worker)
    assert [epoch for epoch, *_ in second.calls] == [0, 1]


def test_workers_differ_in_their_random_numbers_and_only_the_first_exports(tmp_path: Path) -> None:
    """Each rank and epoch has a seed of its own; ranks other than 0 report, but neither announce nor export."""
    first, other = _Task([None, 0.1, 0.2]), _Task([None, 0.1, 0.2])
    train(first, _Worker(tmp_path / "first"))
    worker = _Worker(tmp_path / "other", rank=1)
    train(other, worker)
    drawn = [number for task in (first, other) for *_, number in task.calls]
    assert len(set(drawn)) == 4
    assert len(worker.reported) == 2
    assert worker.announced == []
    assert other.exported is None


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    """The message names the model, the epoch as people count, and the setting to lower."""
    check_finite(1.0, name="student", epoch=0, settings="learning_rate")
    with pytest.raises(FloatingPointError, match=r"student: .*not finite in epoch 3\. Lower learning_rate"):
        check_finite(float("nan"), name="student", epoch=2, settings="learning_rate")


def test_equal_scores_keep_the_earlier_weights() -> None:
    """Only a better score replaces the weights; `stale` counts the epochs since."""
    best = Best()
    for epoch, score in enumerate([0.0, 0.0, 0.5, 0.5]):
        best.update(score, {"epoch": torch.tensor(epoch)})
    assert (int(best.weights["epoch"]), best.stale) == (2, 1)
