"""Trains sequence models in this process, without Ray: one worker, with its windows in memory and no checkpoints."""

import os
import tempfile
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


@contextmanager
def process_group(threads: int) -> Iterator[Path]:
    """A group of this process alone, as DeepSpeed needs it, and a temporary folder.

    Args:
      threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    with tempfile.TemporaryDirectory() as name:
        dist.init_process_group("gloo", init_method=f"file://{Path(name) / 'group'}", rank=0, world_size=1)
        yield Path(name)
        dist.destroy_process_group()


def train_alone(spec: StudentsSpec, training: TrainingConfig, windows: pa.Table) -> None:
    """Train all runs of `spec` on `windows`, rows of training windows or of `tables.TEACHER_TARGETS`."""
    for task in student_tasks(spec, training, _Alone(windows)):
        train(task, _Alone(windows))


class _Alone:
    rank, world, device = 0, 1, torch.device("cpu")

    def __init__(self, windows: pa.Table) -> None:
        self.shard = self
        self._windows = windows

    def iter_batches(self, *, batch_size: int, **_: Any) -> Iterator[pa.Table]:
        yield from (self._windows.slice(start, batch_size) for start in range(0, len(self._windows), batch_size))

    def latest_checkpoint(self) -> None:
        return None

    def announce(self, model: str, text: str, gauges: dict[str, float]) -> None:
        say(text)

    def report(self, figures: dict[str, float], folder: str) -> None:
        pass
