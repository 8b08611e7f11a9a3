"""Run training on Ray Train: Ray Data feeds the workers, each a rank of a DeepSpeed engine."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jobs.runtime.console import say
from jobs.runtime.epoch_lines import EpochLines
from jobs.runtime.node_files import node_files
from jobs.runtime.ray_cluster import check_workers_room, cluster_address, own_signal_handlers
from jobs.runtime.ray_nodes import installed
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.store import partitions
from kdlib.store.arrow_files import arrow_files, arrow_path
from kdlib.store.leases import check_held
from kdlib.store.mirror import drop, mirror_of
from kdlib.store.working_copy import others


def run_workers(
    config: RunConfig,
    worker: Callable[..., None],
    spec: dict[str, Any],
    train: Any,
    *,
    name: str,
    stage: str,
    epochs: int,
) -> None:
    """Run Ray Train once and print one line for each epoch. Resumes from checkpoints of a killed run of the same name.

    Args:
      config: the run config; Ray must run.
      worker: Ray Train's training function.
      spec: its argument. Added are `training` (the config's section), `lines` (for the epochs), `files` (`NodeFiles`) and, on a
        cluster, `driver` (what the driver runs). The finished models that it names are on this machine afterwards.
      train: a Ray Dataset. Each worker gets a shard of it.
      name: of the checkpoints' folder. Other data or settings need another name.
      stage: for the progress bar.
      epochs: how many lines to expect.

    Raises:
      ConfigError: a local Ray has no room for the workers and for reading their data.
      TrainingError: the workers failed more than `training.max_failures` times; the text has the cause.
    """
    settings, home = config.training, config.root / partitions.CHECKPOINTS
    check_workers_room(config, settings.workers)
    home.mkdir(parents=True, exist_ok=True)
    files, driver = node_files(config), None if cluster_address(config) is None else installed()
    files.gather(spec)  # models that a killed run has finished, maybe on another machine
    files.offer(spec)
    loop_config = spec | {"training": settings, "files": files, "driver": driver}
    with EpochLines(total=epochs, stage=stage) as epoch_lines, own_signal_handlers():
        loop_config["lines"] = epoch_lines.lines
        make_trainer = _trainer_of(config, worker, loop_config, train, home, name)
        resumes = home / name in _checkpoints(config)
        try:
            try:
                make_trainer().fit()
            except Exception as error:
                if not resumes or epoch_lines.any() or _no_workers(error):
                    raise
                # a machine that crashed can leave incomplete files, and every further attempt would fail on them
                check_held()
                say(
                    f"{stage}: training cannot go on from the checkpoints of an earlier run"
                    f" ({_cause(error, settings.max_failures)}). They are {_give_up(home / name)},"
                    " and training starts from scratch"
                )
                make_trainer().fit()
        except SystemExit:  # Ray raises this on Ctrl-C, once the workers have ended
            raise KeyboardInterrupt from None
        except Exception as error:
            raise TrainingError(_cause(error, settings.max_failures)) from error
    files.gather(spec)


def remove_checkpoints(config: RunConfig, name: str) -> None:
    """Remove the files of a finished `run_workers`, and those of killed runs of the same stage and date.

    Raises:
      BusyError: another run has taken over from this one, and the files may be its own.
    """
    check_held()
    stem = name.rpartition(".")[0]
    for path in _checkpoints(config):
        if not path.name.startswith(f"{stem}."):
            continue
        drop(path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _checkpoints(config: RunConfig) -> set[Path]:
    """Files and folders of killed runs and of this one, on this machine and in the store."""
    return {*(config.root / partitions.CHECKPOINTS).iterdir(), *others(config.root, partitions.CHECKPOINTS)}


def _give_up(checkpoints: Path) -> str:
    """Put checkpoints out of the way; returns what is done with them. A store renames no folder, so they are removed there."""
    if mirror_of(checkpoints):
        drop(checkpoints)
        return "removed"
    aside = checkpoints.with_name(f"{checkpoints.name}.given_up")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.rename(aside)
    return f"moved to {aside} until the stage is done"


def _trainer_of(
    config: RunConfig,
    worker: Callable[..., None],
    loop_config: dict[str, Any],
    train: Any,
    home: Path,
    name: str,
) -> Callable[[], Any]:
    """Makes Ray's trainer; each attempt needs a new one."""
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from jobs.runtime.ray_local import LocalTrainer, LoopbackConfig

    settings, local = config.training, cluster_address(config) is None
    resources = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker:
        resources["GPU"] = settings.gpus_per_worker
    storage: dict[str, Any] = {"storage_path": str(home.resolve())}
    if mirror := mirror_of(home):
        storage = {"storage_path": arrow_path(mirror, home), "storage_filesystem": arrow_files(mirror)}
    make_torch_config = LoopbackConfig if local else TorchConfig
    return partial(
        LocalTrainer if local else TorchTrainer,
        worker,
        train_loop_config=loop_config,
        datasets={"train": train},
        torch_config=make_torch_config(backend="nccl" if settings.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=settings.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RayRunConfig(
            name=name,
            **storage,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(
                max_failures=settings.max_failures,
                max_preemption_failures=settings.max_failures,
                controller_failure_limit=1,
            ),
        ),
    )


def _no_workers(error: Exception) -> bool:
    """Whether the workers did not even start: then the checkpoints are not to blame."""
    return type(getattr(error, "controller_failure", None)).__name__.startswith("WorkerGroupStartup")


def _cause(error: Exception, max_failures: int) -> str:
    """The exception of a worker, from Ray's long text, or the reason why there are no workers."""
    if (failure := getattr(error, "controller_failure", None)) is not None:
        kind = type(failure).__name__
        what = "the training workers could not be started" if _no_workers(error) else "training failed"
        return f"{what}: {kind}: {_in_a_line(failure)}"
    for failure in getattr(error, "worker_failures", {}).values():
        error = getattr(failure, "_base_exc", failure)
        break
    return f"training failed {max_failures + 1} times; the last cause: {type(error).__name__}: {_in_a_line(error)}"


def _in_a_line(error: Exception) -> str:
    """The first line; if it ends with a colon, also the last one, where tracebacks have the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return lines[0][:400] if len(lines) == 1 or not lines[0].endswith(":") else f"{lines[0][:400]} {lines[-1][:400]}"
