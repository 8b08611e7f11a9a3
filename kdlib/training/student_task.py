"""The training of sequence models, students and teachers, as tasks of `kdlib.training.trainer`."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from kdlib.config.models import TrainConfig, TrainingConfig
from kdlib.data.batches import made_ahead
from kdlib.data.windows import EvaluationRows, evaluation_rows, read_evaluation_histories
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.ranking import hit_rate, ndcg
from kdlib.models.files import as_served, is_whole, save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import HISTORIES
from kdlib.training.engine import make_engine
from kdlib.training.loop import train_epoch
from kdlib.training.shard import Shard
from kdlib.training.specs import StudentsSpec, TrainingRun
from kdlib.training.student_setup import training_module
from kdlib.training.trainer import Validation, Weights, Worker, check_finite

DIVERGED = 10.0
"""A mean cross-entropy of this many times that of uniform guessing means that training has diverged."""
SHOWN = {"accuracy": "accuracy@1", "recall@10": "recall@10", "NDCG@10": "ndcg@10"}
"""Label → validation metric, in the order of an epoch's line."""

Export = Literal["float32", "int8"]


def student_tasks(spec: StudentsSpec, training: TrainingConfig, worker: Worker) -> Iterator["StudentTask"]:
    """The runs that are not finished yet, one after the other; each is set up when the one before has ended."""
    shard = Shard(
        worker.shard,
        teachers=spec.states_a_position,
        resident_bytes=training.resident_megabytes * 2**20,
        world=worker.world,
    )
    held_out = HISTORIES.schema.empty_table()
    if not spec.whole:
        held_out = read_evaluation_histories(
            spec.histories,
            position_column="validation_position",
            max_users=training.max_validation_users,
            part=worker.rank,
            parts=worker.world,
        )
    rows = evaluation_rows(held_out, position_column="validation_position")
    for run in spec.runs:
        if is_whole(Path(run.export)):  # finished before a failure
            continue
        yield StudentTask(run, spec, training, worker, shard, rows)
        if worker.world > 1:
            dist.barrier()


class StudentTask:
    """One `TrainingRun`: a student or a teacher, or a student whose teacher is trained with it.

    Args:
      run: what to train.
      spec: what all runs share.
      training: how the workers train.
      worker: this one.
      shard: its training data.
      rows: its validation rows.
    """

    patience: int | None
    models: dict[str, nn.Module]
    validates_start = False
    planned_epochs = 0

    def __init__(
        self,
        run: TrainingRun,
        spec: StudentsSpec,
        training: TrainingConfig,
        worker: Worker,
        shard: Shard,
        rows: EvaluationRows,
    ) -> None:
        self.name, self.seed = run.name, run.seed
        self.epochs, self.patience, self.seconds = run.train.epochs, run.train.patience, run.seconds
        self._run, self._spec, self._worker, self._shard, self._rows = run, spec, worker, shard, rows
        module = training_module(run, spec, training, worker.device)
        self.engine = make_engine(
            module,
            run.train,
            zero_stage=training.zero_stage,
            workers=worker.world,
            bf16=training.bf16 and worker.device.type == "cuda",
        )
        self._weights_K = shard.kind_weights(run.event_weights, run.train.session_opener_weight)
        self._batch_size = shard.batch_size(run.train.batch_size // worker.world, least_steps=run.train.least_steps)
        self._trained = {"student": module.student} | ({} if module.teacher is None else {"teacher": module.teacher})
        self.models = {**self._trained}
        self._exports: dict[str, Export] = {"student": run.stored_as, "teacher": "float32"}

    def train_epoch(self, epoch: int, first_step: int) -> dict[str, float]:
        """See `Task`. Raises FloatingPointError if the loss is not finite or has diverged."""
        run = self._run
        rates = run.learning_rates
        rate = rates[epoch] if rates else learning_rate_in(epoch, run.train, epochs=self.planned_epochs)
        batches = self._shard.batches(
            batch_size=self._batch_size,
            seed=run.seed * 1_000_003 + epoch,
            permute_seed=run.seed if run.stand_in == "permuted" else None,
            weights_K=self._weights_K,
        )
        figures = train_epoch(
            self.engine,
            made_ahead(batches, self._worker.device),
            device=self._worker.device,
            learning_rate=rate,
            warmup_steps=run.train.warmup_steps,
            positions_a_step=self._shard.positions_a_window * self._batch_size * self._worker.world,
            first_step=first_step,
        )
        check_loss(figures, run.name, run.train, epoch, self._spec.num_items)
        return figures | {"learning_rate": rate}

    def validate(self, model: str, weights: Weights) -> Validation:
        """The validation metrics, under the model's name; the score is the NDCG@10."""
        scores = validation_scores(
            self._trained[model],
            weights,
            self._exports[model],
            self._rows,
            device=self._worker.device,
            world=self._worker.world,
            event_weights=self._run.event_weights,
        )
        score = scores["ndcg@10"] if scores["rows"] > 0 else None
        return Validation(score, {f"{model}_{metric}": value for metric, value in scores.items()})

    def describe(self, line: dict[str, Any]) -> str:
        """The training loss and accuracy, then each model's validation metrics."""
        run = self._run
        text = f"{run.name} epoch {line['epoch']:>2}/{self.planned_epochs}: {describe_loss(line, run)}"
        text += f", accuracy {line['accuracy']:.4f}"
        if run.teacher:
            text += f", teacher CE {line['teacher_ce']:.3f}"
        judged = "validation" if run.event_weights is None else "weighted validation"
        for model in (one for one in self.models if line[f"{one}_rows"]):
            scores = [f"{label} {line[f'{model}_{metric}']:.4f}" for label, metric in SHOWN.items()]
            text += f" | {'teacher ' if model == 'teacher' else ''}{judged} {', '.join(scores)}"
        minutes = line["seconds"] * (self.planned_epochs - line["epoch"]) / 60
        return text + f" ({line['train_seconds']:.1f} s{f'; {minutes:.0f} min left' if minutes >= 1 else ''})"

    def gauges(self, line: dict[str, Any]) -> dict[str, float]:
        """Epoch, speed, how much of the time the steps wait for data, and the student's NDCG@10 if users validate."""
        found = {
            "epoch": line["epoch"],
            "positions_per_second": line["positions"] / line["train_seconds"],
            "data_wait_share": line["data_wait_seconds"] / line["train_seconds"],
        }
        return found | ({"ndcg": line["student_ndcg@10"]} if line["student_rows"] else {})

    def export(self, weights: dict[str, Weights], log: list[dict[str, Any]]) -> None:
        """Write the models; the student comes last, because its files mark the run as finished."""
        run = self._run
        folders = {"student": run.export, "teacher": run.teacher_export}
        for name in reversed(self.models):
            folder = folders[name]
            assert folder is not None
            own = {
                "name": run.name if name == "student" else f"{run.name}_teacher",
                "seed": run.seed,
                "kl_weight": run.kl_weight,
                "temperature": run.temperature,
                "warm_nights": run.warm_nights,
                "validation": {"epoch": log[-1]["epoch"]} if self._spec.whole else best_epoch(log, name),
                "epochs": [{"run": run.name, **line} for line in log],
            }
            metadata = {**self._spec.metadata, **own}
            save_model(Path(folder), self._trained[name], weights[name], metadata, export=self._exports[name])


def learning_rate_in(epoch: int, train: TrainConfig, *, epochs: int) -> float:
    """The learning rate of an epoch, counted from 0, after the warm-up. It falls to its end over `epochs`."""
    done = epoch / max(epochs - 1, 1)
    return train.learning_rate * (1.0 - (1.0 - train.final_learning_rate_fraction) * done)


def check_loss(figures: dict[str, float], name: str, train: TrainConfig, epoch: int, num_items: int) -> None:
    """Raise FloatingPointError if training has failed, so that no broken model is published.

    Args:
      figures: the epoch's means, from `kdlib.training.loop.train_epoch`.
      name: of the model.
      train: its settings.
      epoch: counted from 0.
      num_items: size of the vocabulary.
    """
    remedy = "learning_rate or kl_weight"
    check_finite(figures["student_ce"] + figures["kl"] + figures["teacher_ce"], name=name, epoch=epoch, settings=remedy)
    worst, uniform = max(figures["student_ce"], figures["teacher_ce"]), math.log(num_items)
    if train.loss == "cross_entropy" and worst > DIVERGED * uniform:
        raise FloatingPointError(
            f"{name}: the loss has diverged in epoch {epoch + 1}: the cross-entropy is {worst:.4g} nats, and uniform"
            f" guessing has {uniform:.2f}. Lower {remedy}"
        )


def best_epoch(log: list[dict[str, Any]], model: str) -> dict[str, float]:
    """Number and validation metrics of the epoch whose weights are kept; the last epoch if no user validates."""
    validated = log[-1][f"{model}_rows"] > 0
    line = max(log, key=lambda one: one[f"{model}_ndcg@10"]) if validated else log[-1]
    return {"epoch": line["epoch"]} | {metric: line[f"{model}_{metric}"] for metric in SHOWN.values()}


def validation_scores(
    model: SequenceModel,
    weights: Weights,
    export: Export,
    rows: EvaluationRows,
    *,
    device: torch.device,
    world: int,
    event_weights: Sequence[float] | None = None,
) -> dict[str, float]:
    """Validation metrics over all workers' rows, of the weights as they would be exported.

    Args:
      model: for its options and text vectors.
      weights: all of its weights.
      export: how the matrices would be stored.
      rows: of this worker; may be empty.
      device: where to compute.
      world: number of workers; all of them must call.
      event_weights: weights of the rows by the type of the target's event. None: all are equal.

    Returns:
      Means over the rows, and `rows`: the number of rows that count.
    """
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    if len(rows):
        plain = SequenceModel(**model.options)
        plain.load_state_dict(as_served(model, weights, export))
        ranks = ranks_of_models([plain.to(device).eval()], [1.0], rows, device=device).ranks
        found = np.stack([ndcg(ranks, 10), hit_rate(ranks, 10), hit_rate(ranks, 1), np.ones(len(ranks))])
        worth = rows.weights(event_weights)
        judged = len(ranks) if worth is None else np.count_nonzero(worth)
        found = found if worth is None else found * worth
        sums += torch.tensor([*(one.sum() for one in found), judged], device=device)
    if world > 1:
        dist.all_reduce(sums)
    total = sums[3].item() or 1.0
    return {
        "ndcg@10": sums[0].item() / total,
        "recall@10": sums[1].item() / total,
        "accuracy@1": sums[2].item() / total,
        "rows": sums[4].item(),
    }


def describe_loss(line: dict[str, Any], run: TrainingRun) -> str:
    """The training loss; with teachers as the sum of its two terms."""
    data = "CE" if run.train.loss == "cross_entropy" else run.train.loss
    if not run.teacher and not run.cached:
        return f"{data} {line['student_ce']:.3f}"
    text = f"loss {line['student_ce'] + run.kl_weight * line['kl']:.3f} = {data} {line['student_ce']:.3f}"
    text += f" + {run.kl_weight:g}·KL {line['kl']:.3f}"
    return text + (" (and the hidden-state match)" if run.hidden_weight > 0 else "")
