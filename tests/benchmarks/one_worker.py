"""Train sequence models in this process, without Ray: for benchmarks that train many small models."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from jobs.runtime.console import say
from kdlib.config.models import TrainingConfig
from kdlib.training.specs import StudentsSpec
from kdlib.training.student_task import student_tasks
from kdlib.training.trainer import train


class OneWorker:
    """The only worker. It has its windows in memory and keeps no checkpoints.

    Args:
      windows: rows of training windows or of `tables.TEACHER_TARGETS`.
      label: stands before each line about an epoch.
    """

    rank, world, device = 0, 1, torch.device("cpu")

    def __init__(self, windows: pa.Table, label: str = "") -> None:
        self.shard = self
        self._windows, self._label = windows, label

    def iter_batches(self, *, batch_size: int, **_: Any) -> Any:
        yield from (self._windows.slice(start, batch_size) for start in range(0, len(self._windows), batch_size))

    def latest_checkpoint(self) -> None:
        return None

    def announce(self, model: str, text: str, gauges: dict[str, float]) -> None:
        say(f"{self._label}{text}")

    def report(self, figures: dict[str, float], folder: str) -> None:
        pass


@contextmanager
def process_group(folder: Path, *, threads: int = 1) -> Iterator[None]:
    """What DeepSpeed needs to train in this process alone. `folder` gets a file."""
    torch.set_num_threads(threads)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def train_all(spec: StudentsSpec, training: TrainingConfig, windows: pa.Table, *, label: str = "") -> None:
    """Train all runs of the spec on the windows; inside `process_group`. For `label` see `OneWorker`."""
    worker = OneWorker(windows, label)
    for task in student_tasks(spec, training, worker):
        train(task, worker)
