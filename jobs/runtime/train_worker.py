"""What Ray Train runs in each training worker. It connects Ray with `kdlib.training.trainer`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from jobs.runtime.epoch_lines import Lines
from jobs.runtime.node_files import NodeFiles
from jobs.runtime.ray_nodes import check_here
from kdlib.config.models import TrainingConfig
from kdlib.training.trainer import Checkpoint, Task, Worker, train

MakeTasks = Callable[[Any, TrainingConfig, Worker], Iterable[Task]]
"""(spec, `training` of the run config, worker) → what to train, one after the other."""


@dataclass
class RayWorker:
    """A worker of a Ray Train run; see `kdlib.training.trainer.Worker`."""

    rank: int
    world: int
    device: torch.device
    shard: Any
    lines: Lines
    """For the lines about the epochs."""

    def latest_checkpoint(self) -> Checkpoint | None:
        import ray.train

        return ray.train.get_checkpoint()

    def announce(self, model: str, text: str, gauges: dict[str, float]) -> None:
        """Add the text to the lines that `run_workers` follows, and set Ray's metrics `ray_distilrec_training_…`."""
        from ray.util.metrics import Gauge

        self.lines.add(text)
        for name, value in gauges.items():
            Gauge(f"distilrec_training_{name}", tag_keys=("model",)).set(value, tags={"model": model})

    def report(self, figures: dict[str, float], folder: str) -> None:
        import ray.train

        ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_worker(loop_config: dict[str, Any]) -> None:
    """Ray Train's training function.

    Args:
      loop_config: `spec` and `make_tasks`, a `MakeTasks` for this spec. A stage hands in its own, so that it depends on no other
        task's code. `run_workers` adds `training`, `lines`, `files` and `driver`.

    Raises:
      DistilrecError: this node does not run what the driver runs.
    """
    import ray.train
    import ray.train.torch

    if loop_config["driver"]:
        check_here(loop_config["driver"])
    spec: Any = loop_config["spec"]
    training: TrainingConfig = loop_config["training"]
    files: NodeFiles = loop_config["files"]
    files.bring(spec)
    torch.set_num_threads(training.threads_per_worker)
    context = ray.train.get_context()
    worker = RayWorker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        shard=ray.train.get_dataset_shard("train"),
        lines=loop_config["lines"],
    )
    make_tasks: MakeTasks = loop_config["make_tasks"]
    for task in make_tasks(spec, training, worker):
        train(task, worker)
        if worker.rank == 0:
            files.offer(spec)  # the finished model
        del task  # free its engine before the next one is made
