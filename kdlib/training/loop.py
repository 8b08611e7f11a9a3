"""One epoch of a sequence model's training through a DeepSpeed engine that the caller has made."""

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

    A step's loss is its sum over positions, divided by the *usual* number of positions of a step. So every position
    counts the same, up to the engine's gradient clipping. The mean over a step's own positions would not do: a batch has
    windows of similar lengths, and a position of a short history would weigh ten times one of a long history.
    Workers may hold different numbers of positions. The mean of their gradients is the gradient of one process that
    holds all positions.

    Args:
      engine: a DeepSpeed engine around `NextItemTraining`.
      batches: the same number on every worker.
      device: the worker's.
      learning_rate: after the warm-up.
      warmup_steps: over this many steps the rate rises linearly from 0.
      positions_a_step: usual number of real positions of a step, over all workers; the same on every worker.
      first_step: optimizer steps taken before this epoch.
      on_step: called after each step without arguments.

    Returns:
      Means over all workers' positions: `student_ce`, `kl` and `teacher_ce` in nats, `accuracy`. Also `positions`,
      `steps`, and `data_wait_seconds`: how long this worker's steps waited for their batches.
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
    """The same batches; `seconds` is the total time spent waiting for them."""

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
