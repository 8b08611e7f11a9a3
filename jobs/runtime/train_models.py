"""Train sequence models on Ray Train: students and teachers."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import read_parquet, start_ray
from jobs.runtime.ray_train import remove_checkpoints, run_workers
from kdlib.config.run import RunConfig
from kdlib.errors import TrainingError
from kdlib.store import partitions
from kdlib.store.fingerprint import fingerprint_of
from kdlib.training.specs import StudentsSpec, TrainingRun

CHECKPOINT_FORM = ("workers", "zero_stage", "bf16", "max_length", "max_validation_users")
"""Settings of `training` that must be the same to resume from a checkpoint."""


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
    whole: bool = False,
) -> None:
    """Train all runs and leave the models in their export folders.

    Args:
      config: the run config.
      stage: for the names of the log and the checkpoints.
      runs: what to train, in this order.
      fingerprints: of each run, a hash of all that its result depends on.
      train_files: Parquet files with histories or teacher targets.
      histories: folder of the histories, for validation.
      from_histories: whether `train_files` are histories, which the workers' data stream cuts into windows.
      facts: metadata for the `model.json` of each model.
      without_fold: (fold, folds): leave out the users of this fold; `train_files` must be histories.
      whole: train on the held-out positions too, and validate on nothing. Teacher targets must have these positions.

    Raises:
      TrainingError: the workers failed more than `training.max_failures` times; the text has the cause.
    """
    with start_ray(config):
        from jobs.runtime.train_worker import train_worker
        from kdlib.models.files import is_whole
        from kdlib.training.student_task import student_tasks

        facts = facts | {"split": config.features.split.model_dump(mode="json")}
        if without_fold is not None:
            facts = facts | dict(zip(("fold", "folds"), without_fold, strict=True))
        home = config.root / partitions.CHECKPOINTS
        name = checkpoints_name(config, stage, fingerprints)
        # these folders outlive this process: a later attempt does not train a finished model again
        finished = [home / f"{checkpoints_name(config, stage, [one])}.model" for one in fingerprints]
        spec = StudentsSpec(
            runs=tuple(_exported_to(folder, run) for run, folder in zip(runs, finished, strict=True)),
            states_a_position=0 if from_histories else _states_a_position(runs),
            histories=parquet_files(histories),
            num_items=facts["vocabulary_items"],
            metadata=facts,
            without_fold=without_fold,
            whole=whole,
        )
        train = read_parquet(config, train_files)
        if from_histories:
            train = _windows(config, train, without_fold=without_fold, whole=whole)
        epochs = sum(run.train.epochs for run in runs)
        loop_config = {"spec": spec, "make_tasks": student_tasks}
        run_workers(config, train_worker, loop_config, train, name=name, stage=stage, epochs=epochs)
        for run, made in zip(runs, finished, strict=True):
            for model, folder in ((run.name, run.export), (f"{run.name}_teacher", run.teacher_export)):
                if folder is not None:
                    if not is_whole(made / model):
                        raise TrainingError(f"{stage}: the workers ended without the model {model}. See the log")
                    shutil.copytree(made / model, folder, dirs_exist_ok=True)
        remove_checkpoints(config, name)


def checkpoints_name(config: RunConfig, stage: str, fingerprints: Sequence[str]) -> str:
    """What a killed run's checkpoints are found by: the same for the same work, by the same program, in the same form."""
    form = config.training.model_dump(mode="json", include=set(CHECKPOINT_FORM))
    return f"{config.name}.{stage}.ds={config.day}.{fingerprint_of(list(fingerprints), form)}"


def _windows(config: RunConfig, histories: Any, *, without_fold: tuple[int, int] | None, whole: bool) -> Any:
    """The Ray Dataset of the training windows of a Ray Dataset of histories; see `fit`."""
    from kdlib.data.folds import outside_fold
    from kdlib.data.windows import training_windows, whole_histories

    steps: list[Any] = [whole_histories] if whole else []
    if without_fold is not None:
        steps.append(partial(outside_fold, fold=without_fold[0], folds=without_fold[1]))
    for step in (*steps, partial(training_windows, max_length=config.training.max_length)):
        histories = histories.map_batches(step, batch_format="pyarrow", batch_size=None)
    return histories


def _states_a_position(runs: list[TrainingRun]) -> int:
    """How many teacher states the cached targets have at a position; sampled targets count as one."""
    taught = next((run for run in runs if run.cached), None)
    return 0 if taught is None else 1 if taught.targets == "sampled" else len(taught.cached)


def _exported_to(folder: Path, run: TrainingRun) -> TrainingRun:
    """The run with export folders below `folder`, which are made."""
    student, teacher = folder / run.name, folder / f"{run.name}_teacher"
    for made in (student, teacher):
        made.mkdir(parents=True, exist_ok=True)
    return replace(run, export=str(student), teacher_export=str(teacher))
