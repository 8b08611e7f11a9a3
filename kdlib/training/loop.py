"""Train one module through a DeepSpeed engine that the caller has made; nothing here knows Ray or DeepSpeed's set-up."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdlib.data.batches import Batch
from kdlib.training.module import StepLoss


def train_epoch(
    engine: Any,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    learning_rate: float,
    warmup_steps: int,
    positions_a_step: float,
    first_step: int,
    on_step: Any = None,
) -> dict[str, float]:
    """One pass over this worker's batches.

    Every position counts the same, up to the engine's gradient clipping: a step's loss is its sum over positions by the *usual* number of positions of a step,
    not by the step's own. Windows of similar lengths go together, and a mean over each step's positions would give one of
    a short history ten times the weight of one of a long one. Workers may hold different numbers of positions: the
    mean of their gradients is that of one process on the union.

    Args:
      engine: a DeepSpeed engine around `NextItemTraining`.
      batches: as many on every worker.
      device: the worker's.
      learning_rate: after the warm-up.
      warmup_steps: steps of linear rise from 0.
      positions_a_step: usual number of real positions of a step, of all workers together; the same on all.
      first_step: optimizer steps taken before this epoch.
      on_step: called after each step without arguments.

    Returns:
      Means over all workers' positions: `student_ce`, `kl`, `teacher_ce` in nats, `accuracy`; and `positions`, `steps`;
      `data_wait_seconds`, of this worker: how long its steps waited for their batch.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    engine.train()
    sums: Tensor | None = None
    step = first_step
    waits = _Waits(batches)
    for batch in waits:
        batch = batch.to(device)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / (warmup_steps + 1))
        loss: StepLoss = engine(batch)
        engine.backward(loss.total * (world / positions_a_step))
        engine.step()
        positions = torch.tensor(float(len(batch.targets_T)), device=device)
        parts = torch.stack([loss.student_ce, loss.kl, loss.teacher_ce, loss.correct.float(), positions]).double()
        sums = parts if sums is None else sums + parts
        step += 1
        if on_step is not None:
            on_step()
    if sums is None:
        sums = torch.zeros(5, dtype=torch.float64, device=device)
    if world > 1:
        dist.all_reduce(sums)
    ce, kl, teacher_ce, correct, count = sums.tolist()
    count = max(count, 1.0)
    return {
        "student_ce": ce / count,
        "kl": kl / count,
        "teacher_ce": teacher_ce / count,
        "accuracy": correct / count,
        "positions": count,
        "steps": step - first_step,
        "data_wait_seconds": waits.seconds,
    }


class _Waits:
    """The same batches; `seconds` adds up how long each was waited for."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches)
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self.seconds += time.monotonic() - started
            if batch is None:
                return
            yield batch
