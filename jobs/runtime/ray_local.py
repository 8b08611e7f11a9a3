"""Training on a local Ray: no server that other machines reach, and nobody who watches what ends with this process."""

import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup


class _FileBackend(_TorchBackend):
    """Ray's own, but for the rendezvous: a file, where Ray's has rank 0 open a store on all the machine's interfaces."""

    def __init__(self) -> None:
        self._folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        # another one each time the workers start: a file that was used once holds the dead ones' addresses
        self._folder = tempfile.mkdtemp(prefix="distilrec-rendezvous-")
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=Path(self._folder, "store").as_uri(),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)


@dataclass
class LoopbackConfig(TorchConfig):
    """Ray Train's `TorchConfig` for workers of one machine; `backend` ("gloo" or "nccl") must be given.

    torch's TCPStore listens on every interface, and asks nobody who they are.
    """

    @property
    def backend_cls(self) -> type[_FileBackend]:
        return _FileBackend


class _WorkerGroup(WorkerGroup):
    """Ray's own, but for the environment: workers of this machine have this process's already."""

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup


class LocalTrainer(TorchTrainer):
    """Ray Train's `TorchTrainer` without what only several machines need, which costs a training seconds.

    Ray Train hands its environment variables to each of its actors, even if they have them; an actor with an environment of
    its own cannot take one of Ray's waiting processes, and starting another takes seconds. And it starts an actor that frees
    the workers' resources if the controller dies: this one asks the dashboard, which a local Ray does not have, whether the
    controller lives, and a finished training waits for the answer for up to twelve seconds. The resources of a local Ray end
    with this process.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        controller: Any = ray.remote(num_cpus=0)(_Controller).remote(**controller_init_kwargs)
        if threading.current_thread() is threading.main_thread():
            self._register_sigint_handler(controller)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())
