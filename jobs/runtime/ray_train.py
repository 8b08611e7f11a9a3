"""Run training on Ray Train: Ray Data feeds the workers, each a rank of a DeepSpeed engine."""

import glob
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from jobs.runtime.console import progress, say
from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import check_workers_room, cluster_address, own_signal_handlers, read_parquet, start_ray
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.store import partitions
from kdlib.store.fingerprint import fingerprint_of

CHECKPOINT_FORM = ("workers", "zero_stage", "bf16", "max_length", "max_validation_users")
"""Settings of `training` without which a checkpoint cannot be read, or means something else."""


@dataclass(frozen=True)
class TrainingRun:
    """One engine's work; the runs of one `fit` follow each other in the same workers, on the same data."""

    name: str
    export: str
    """Folder for the finished model."""
    model: dict[str, Any]
    train: dict[str, Any]
    seed: int
    statistics: str
    """Folder of the item statistics: which items occur in training, and how often."""
    title_vectors: str | None = None
    """Folder of the title vectors that this model's item embeddings get."""
    teacher: dict[str, Any] | None = None
    """Joint: options of a teacher trained along."""
    teacher_export: str | None = None
    teacher_title_vectors: str | None = None
    start: str | None = None
    """Folder of an earlier night's model to go on from."""
    warm_nights: int = 0
    """How many nights in a row have gone on from a model trained from nothing."""
    cached: list[tuple[str, float]] = field(default_factory=list)
    """Offline: (model folder, weight) of the teachers whose hidden states, or draws, come with the data."""
    item_start: str = "random"
    """What the item table starts from: `random` or `teachers` (`DistillationConfig.item_start`)."""
    targets: str = "hidden"
    """What comes with the data: `hidden` or `sampled` (`DistillationConfig.targets`)."""
    kl_weight: float = 0.0
    temperature: float = 1.0
    codes: tuple[str, str] | None = None
    """Folders of the item codes and of the codebooks that a student with codes starts from."""
    stored_as: str = "float32"
    """How the finished student's matrices are stored: `float32` or `int8`."""
    control: str = ""
    """What stands in for the cached teachers' knowledge: `permuted`, `uniform` or `popularity` (`kdlib.training.controls`)."""
    hidden_weight: float = 0.0
    """Weight of the match between the student's and the teachers' hidden states."""


def fit(
    config: RunConfig,
    stage: str,
    runs: list[TrainingRun],
    *,
    fingerprints: Sequence[str],
    train_files: list[str],
    histories: Path,
    from_histories: bool,
    facts: dict[str, Any],
    without_fold: tuple[int, int] | None = None,
) -> None:
    """Train all runs; the models lie in their export folders afterwards.

    Args:
      config: the run config.
      stage: for the names of the log and the checkpoints.
      runs: what to train, in this order.
      fingerprints: a hash for each run of all that its result depends on.
      train_files: Parquet files with histories or teacher targets.
      histories: folder of the histories, for validation.
      from_histories: whether `train_files` are histories, to be cut into windows on the fly.
      facts: what `model.json` of each model shall hold.
      without_fold: (fold, folds): leave this fold's users out; `train_files` are histories.

    Raises:
      TrainingError: the workers failed more than `training.max_failures` times; the cause is in the text.
    """
    with start_ray(config):
        from jobs.runtime.student_worker import train_worker
        from kdlib.data.folds import outside_fold
        from kdlib.data.windows import training_windows
        from kdlib.models.files import is_whole

        settings = config.training
        facts = facts | {"split": config.features.split.model_dump(mode="json")}
        if without_fold is not None:
            facts = facts | dict(zip(("fold", "folds"), without_fold, strict=True))
        home = config.root / partitions.CHECKPOINTS
        name = checkpoints_name(config, stage, fingerprints)
        # outlive this process: a rerun does not train a finished model again, whatever becomes of the others
        finished = [home / f"{checkpoints_name(config, stage, [one])}.model" for one in fingerprints]
        home.mkdir(parents=True, exist_ok=True)
        train = read_parquet(train_files)
        if without_fold is not None:
            left_out = partial(outside_fold, fold=without_fold[0], folds=without_fold[1])
            train = train.map_batches(left_out, batch_format="pyarrow", batch_size=None)
        if from_histories:
            train = train.map_batches(
                partial(training_windows, max_length=settings.max_length), batch_format="pyarrow", batch_size=None
            )
        run_workers(
            config,
            train_worker,
            {
                "runs": [_in_place(run, folder) for run, folder in zip(runs, finished, strict=True)],
                "num_teachers": 0 if from_histories else _states_a_position(runs),
                "histories": parquet_files(histories),
                "facts": facts,
            },
            train,
            name=name,
            stage=stage,
            epochs=sum(run.train["epochs"] for run in runs),
        )
        for run, made in zip(runs, finished, strict=True):
            for model, folder in ((run.name, run.export), (f"{run.name}_teacher", run.teacher_export)):
                if folder is not None:
                    if not is_whole(made / model):
                        raise TrainingError(f"{stage}: the workers ended without the model {model}; see the log")
                    shutil.copytree(made / model, folder, dirs_exist_ok=True)
        remove_checkpoints(config, name)


def checkpoints_name(config: RunConfig, stage: str, fingerprints: Sequence[str]) -> str:
    """What a killed run's checkpoints are found by: the same for the same work, by the same program, in the same form."""
    form = config.training.model_dump(mode="json", include=set(CHECKPOINT_FORM))
    return f"{config.name}.{stage}.ds={config.day}.{fingerprint_of(list(fingerprints), form)}"


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
    """One Ray Train run, which goes on where a killed one of the same name stands; a line an epoch for the person.

    Args:
      config: the run config; Ray must run.
      worker: Ray Train's training function.
      spec: what it gets, with `report` (a file for its epoch lines) and `settings` (the config's `training`) added.
      train: the Ray Dataset of which each worker gets its shard.
      name: of the checkpoints' folder; other data or settings need another name.
      stage: for the progress bar.
      epochs: how many lines will come.

    Raises:
      ConfigError: a local Ray has no room for the workers and for reading their data.
      TrainingError: the workers failed more than `training.max_failures` times; the cause is in the text.
    """
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from jobs.runtime.ray_local import LocalTrainer, LoopbackConfig

    settings, home = config.training, config.root / partitions.CHECKPOINTS
    check_workers_room(config, settings.workers)
    local = cluster_address(config) is None
    make_torch_config = LoopbackConfig if local else TorchConfig
    home.mkdir(parents=True, exist_ok=True)
    report = home / f"{name}.jsonl"
    make_trainer = partial(
        LocalTrainer if local else TorchTrainer,
        worker,
        train_loop_config=spec
        | {"settings": settings.model_dump(mode="json", exclude={"defaults"}), "report": str(report)},
        datasets={"train": train},
        torch_config=make_torch_config(backend="nccl" if settings.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": settings.cpus_per_worker,
                **({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}),
            },
        ),
        run_config=RayRunConfig(
            name=name,
            storage_path=str(home.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(
                max_failures=settings.max_failures,
                max_preemption_failures=settings.max_failures,
                controller_failure_limit=1,
            ),
        ),
    )
    with _EpochLines(report, total=epochs, stage=stage) as lines, own_signal_handlers():
        taken_up = (home / name).exists()
        try:
            try:
                make_trainer().fit()
            except Exception as error:
                if not taken_up or lines.any() or _no_workers(error):
                    raise
                # a machine that went down leaves files cut off, on which every further attempt would fail alike
                aside = home / f"{name}.given_up"
                say(
                    f"{stage}: no epoch came of an earlier attempt's checkpoints ({_cause(error, settings.max_failures)});"
                    f" they lie in {aside} until the stage is done, and training starts anew"
                )
                shutil.rmtree(aside, ignore_errors=True)
                (home / name).rename(aside)
                make_trainer().fit()
        except SystemExit:  # Ray's answer to Ctrl-C, once the workers have ended
            raise KeyboardInterrupt from None
        except Exception as error:
            raise TrainingError(_cause(error, settings.max_failures)) from error


def remove_checkpoints(config: RunConfig, name: str) -> None:
    """What a finished run of `run_workers` leaves, and what killed ones of its stage and date with other settings left."""
    stem = name.rpartition(".")[0]
    for path in (config.root / partitions.CHECKPOINTS).glob(f"{glob.escape(stem)}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _states_a_position(runs: list[TrainingRun]) -> int:
    """How many teachers' states, or one for the draws of them all, the cached targets hold at a position."""
    taught = next((run for run in runs if run.cached), None)
    return 0 if taught is None else 1 if taught.targets == "sampled" else len(taught.cached)


def _in_place(run: TrainingRun, finished: Path) -> dict[str, Any]:
    """The run as the workers get it: they export into folders that outlive this process."""
    folders = {"export": finished / run.name, "teacher_export": finished / f"{run.name}_teacher"}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return asdict(run) | {key: str(folder) for key, folder in folders.items()}


def _no_workers(error: Exception) -> bool:
    """Whether training could not even begin: the checkpoints have no part in that."""
    return type(getattr(error, "controller_failure", None)).__name__.startswith("WorkerGroupStartup")


def _cause(error: Exception, max_failures: int) -> str:
    """A worker's own exception out of Ray's long text, or why there are no workers."""
    if (failure := getattr(error, "controller_failure", None)) is not None:
        kind = type(failure).__name__
        what = "the training workers could not be started" if _no_workers(error) else "training failed"
        return f"{what}: {kind}: {_in_a_line(failure)}"
    for failure in getattr(error, "worker_failures", {}).values():
        error = getattr(failure, "_base_exc", failure)
        break
    return f"training failed {max_failures + 1} times; the last cause: {type(error).__name__}: {_in_a_line(error)}"


def _in_a_line(error: Exception) -> str:
    """The first line; where that announces what follows, also the last, in which tracebacks have the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return lines[0][:400] if len(lines) == 1 or not lines[0].endswith(":") else f"{lines[0][:400]} {lines[-1][:400]}"


class _EpochLines:
    """Prints a line an epoch while the workers train: rank 0 appends JSON lines to a file, a thread follows it."""

    def __init__(self, path: Path, *, total: int, stage: str) -> None:
        self._path, self._total, self._stage = path, total, stage
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._path.touch()
        self._seen = self._path.stat().st_size
        self._thread.start()
        return self

    def any(self) -> bool:
        """Whether an epoch has ended since."""
        return self._path.stat().st_size > self._seen

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        with self._path.open() as stream, progress(total=self._total, unit="epoch", description=self._stage) as bar:
            stream.seek(self._seen)
            while True:
                stopping = self._stop.is_set()
                while line := stream.readline():
                    bar.clear()
                    say("  " + json.loads(line)["text"])
                    bar.update()
                if stopping:
                    return
                self._stop.wait(0.3)
