"""The training loop of every task: epochs, validation, best weights, checkpoints, resume.

A `Task` says what is trained and how an epoch goes. A `Worker` connects the loop to what runs it (Ray Train, a test).
"""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdlib.training.engine import full_weights, load_state

Weights = dict[str, Tensor]


class Checkpoint(Protocol):
    """A stored checkpoint."""

    def as_directory(self) -> AbstractContextManager[str]:
        """A local folder with the checkpoint's files."""
        ...


class Worker(Protocol):
    """This process among the workers that train together."""

    rank: int
    world: int
    device: torch.device
    shard: Any
    """This worker's training data: has `iter_batches`, as Ray Data's iterators do."""

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; ask each time, because an older one may be deleted."""
        ...

    def announce(self, model: str, text: str, gauges: dict[str, float]) -> None:
        """Show an epoch's line of text, and its gauges to the monitoring. Rank 0 only."""
        ...

    def report(self, figures: dict[str, float], folder: str) -> None:
        """Store the folder as a checkpoint. All workers must call it equally often."""
        ...


class Validation(NamedTuple):
    """How good a model's weights are."""

    score: float | None
    """Larger is better. None: nothing to validate on, and the latest weights are kept."""
    figures: dict[str, float]
    """Entries of the epoch's line."""


class Task(Protocol):
    """What differs between the training jobs."""

    name: str
    """Of the model; a checkpoint with another name is not resumed."""
    seed: int
    epochs: int
    """Most epochs."""
    seconds: float | None
    """Most seconds, but at least one epoch; None: no bound."""
    planned_epochs: int
    """How many of `epochs` fit into `seconds`. The loop sets it after each epoch."""
    patience: int | None
    """Stop after this many epochs without a better score of the first model; None never stops early."""
    validates_start: bool
    """Whether the untrained weights are validated too, as epoch 0."""
    engine: Any
    """A DeepSpeed engine."""
    models: dict[str, nn.Module]
    """Parts of the engine's module whose best weights are kept and exported."""

    def train_epoch(self, epoch: int, first_step: int) -> dict[str, float]:
        """Train for one epoch, counted from 0; returns the line's entries, among them `steps`.

        Raises:
          FloatingPointError: training has failed, for example because the loss is not finite.
        """
        ...

    def validate(self, model: str, weights: Weights) -> Validation:
        """Score one of `models` with these weights. All workers call it."""
        ...

    def describe(self, line: dict[str, Any]) -> str:
        """An epoch as a line of text."""
        ...

    def gauges(self, line: dict[str, Any]) -> dict[str, float]:
        """An epoch's values for the monitoring."""
        ...

    def export(self, weights: dict[str, Weights], log: list[dict[str, Any]]) -> None:
        """Write the best weights of each model. Rank 0 only."""
        ...


@dataclass
class Best:
    """The best epoch's weights of one model."""

    score: float = -1.0
    stale: int = 0
    """Epochs since."""
    weights: Weights = field(default_factory=dict)

    def update(self, score: float | None, weights: Weights) -> None:
        """Keep the weights if their score is better than all before."""
        if score is None or score > self.score:
            self.score, self.stale, self.weights = self.score if score is None else score, 0, weights
        else:
            self.stale += 1


@dataclass
class Progress:
    """How far a training is."""

    run: str
    epoch: int = 0
    steps: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    """One line an epoch."""


def train(task: Task, worker: Worker) -> None:
    """Train a task to its end and export its models; resumes from the worker's checkpoint of the same name."""
    progress, best = Progress(task.name), {name: Best() for name in task.models}
    _resume(task, progress, best, worker.latest_checkpoint())
    task.planned_epochs = epochs_within(progress.log, most=task.epochs, seconds=task.seconds)
    decisive = next(iter(best.values()))
    if task.validates_start and not progress.log:
        _finish_epoch(task, worker, progress, best, {"epoch": 0, "train_seconds": 0.0}, time.monotonic())
    while progress.epoch < task.planned_epochs and (task.patience is None or decisive.stale < task.patience):
        # each worker and each epoch has a seed of its own, so that a resumed run draws the same dropout
        torch.manual_seed(task.seed + 1000 * (worker.rank + 1) + 1_000_003 * progress.epoch)
        started = time.monotonic()
        figures = task.train_epoch(progress.epoch, progress.steps)
        seconds = time.monotonic() - started
        progress.epoch, progress.steps = progress.epoch + 1, progress.steps + int(figures["steps"])
        line = {"epoch": progress.epoch, **figures, "train_seconds": seconds}
        _finish_epoch(task, worker, progress, best, line, started)
        _save(task, worker, progress, best)
    if worker.rank == 0:
        task.export({name: record.weights for name, record in best.items()}, progress.log)
    task.engine.destroy()


def epochs_within(log: Sequence[dict[str, Any]], *, most: int, seconds: float | None) -> int:
    """How many epochs fit into a time if all take as long as the mean epoch of the log. At least those of the log.

    Args:
      log: lines of the epochs so far, with `seconds` each.
      most: most epochs.
      seconds: of the whole training; None: no bound.
    """
    spent = sum(line["seconds"] for line in log)
    if seconds is None or not spent:
        return most
    return min(most, len(log) + max(int((seconds - spent) / (spent / len(log))), 0))


def check_finite(loss: float, *, name: str, epoch: int, settings: str) -> None:
    """Raise FloatingPointError if an epoch's mean loss is not finite.

    Args:
      loss: the mean.
      name: of the model.
      epoch: counted from 0.
      settings: which settings to lower.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"{name}: the loss is not finite in epoch {epoch + 1}. Lower {settings}")


def _finish_epoch(
    task: Task, worker: Worker, progress: Progress, best: dict[str, Best], line: dict[str, Any], started: float
) -> None:
    """Validate, keep the best weights, log the line and show it."""
    for name, record in best.items():
        weights = full_weights(task.engine, task.models[name])
        validation = task.validate(name, weights)
        line |= validation.figures
        record.update(validation.score, weights)
    line["seconds"] = _slowest(time.monotonic() - started, worker)
    progress.log.append(line)
    task.planned_epochs = epochs_within(progress.log, most=task.epochs, seconds=task.seconds)
    if worker.rank == 0:
        worker.announce(task.name, task.describe(line), task.gauges(line))


def _slowest(seconds: float, worker: Worker) -> float:
    """The largest of all workers' times. With one time, all workers plan the same number of epochs."""
    if worker.world == 1:
        return seconds
    largest = torch.tensor(seconds, dtype=torch.float64, device=worker.device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.item()


def _save(task: Task, worker: Worker, progress: Progress, best: dict[str, Best]) -> None:
    """Report a checkpoint: each rank its part of the engine's state, rank 0 the best weights too."""
    with tempfile.TemporaryDirectory(prefix="distilrec-checkpoint-") as folder:
        task.engine.save_checkpoint(folder, tag="state", client_state={"distilrec": asdict(progress)})
        if worker.rank == 0:
            scores = {name: {"score": record.score, "stale": record.stale} for name, record in best.items()}
            Path(folder, "best.json").write_text(json.dumps({"run": progress.run, "best": scores}))
            for name, record in best.items():
                save_file(record.weights, Path(folder, f"best_{name}.safetensors"))
        figures = {name: value for name, value in progress.log[-1].items() if isinstance(value, float)}
        worker.report(figures, folder)


def _resume(task: Task, progress: Progress, best: dict[str, Best], checkpoint: Checkpoint | None) -> None:
    """Restore engine, progress and best weights from a checkpoint of the same run."""
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        stored = json.loads(Path(folder, "best.json").read_text())
        if stored["run"] != progress.run:
            return
        for name, value in load_state(task.engine, folder, "state")["distilrec"].items():
            setattr(progress, name, value)
        for name, record in best.items():
            record.score, record.stale = stored["best"][name]["score"], stored["best"][name]["stale"]
            record.weights = load_file(Path(folder, f"best_{name}.safetensors"))
