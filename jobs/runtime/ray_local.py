"""Ray Train on a local Ray. It has no servers that other machines can reach, and nothing that only a cluster needs."""

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
    """Ray's backend with a file as rendezvous. In Ray's own backend, rank 0 listens on all network interfaces."""

    def __init__(self) -> None:
        self._folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        # a new folder for each start: a used file holds the addresses of workers that have ended
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
    """Ray Train's `TorchConfig` for workers on one machine; `backend` ("gloo" or "nccl") must be given.

    It avoids torch's TCPStore, which listens on every interface and has no authentication.
    """

    @property
    def backend_cls(self) -> type[_FileBackend]:
        return _FileBackend


class _WorkerGroup(WorkerGroup):
    """Ray's worker group without environment variables: workers on this machine inherit this process's."""

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup


class LocalTrainer(TorchTrainer):
    """Ray Train's `TorchTrainer` without two things that only a cluster needs, and that cost each training seconds.

    - Ray Train gives each of its actors its environment variables. An actor with its own environment cannot use one of
      Ray's idle processes, and a new process takes seconds to start.
    - Ray Train starts an actor that frees the workers' resources if the controller dies. The actor asks the dashboard
      whether the controller is alive. A local Ray has no dashboard, so a finished training waits up to twelve seconds
      for the answer. Here the resources are freed when this process ends.
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
