"""The finished teachers: their published models, their shares, and their targets at every training position."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jobs.runtime.actors import in_a_task, write_by_shards
from jobs.runtime.published import Features, parquet_files
from jobs.runtime.ray_cluster import check_workers_room, start_ray
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, ModelError

USERS = 2048
"""Number of users whose targets an actor holds at once."""


def teacher_folders(config: RunConfig, inputs: Mapping[str, Input], expected_hash: str) -> list[list[Path]]:
    """Each teacher's model folders among a stage's inputs. A cross-fitted teacher has one for each fold.

    Raises:
      ModelError: a teacher was trained on another vocabulary, or with other folds.
    """
    from kdlib.models.files import load_predictor

    found = []
    for teacher in config.teachers:
        found.append([inputs[name].folder for name in teacher.models])
        for fold, folder in enumerate(found[-1]):
            _, facts = load_predictor(folder)
            if facts["vocabulary_hash"] != expected_hash:
                raise ModelError(
                    f"teacher {teacher.name} at {folder} was trained on another item vocabulary"
                    f" ({facts['vocabulary_items']} items, version {facts['vocabulary_version']}) than the one published for"
                    f" {config.day}. Run `distilrec train-teacher` for this date again"
                )
            if teacher.folds > 1 and (facts.get("fold"), facts.get("folds")) != (fold, teacher.folds):
                raise ModelError(
                    f"teacher {teacher.name} at {folder} must be trained without fold {fold} of {teacher.folds}, found"
                    f" fold {facts.get('fold')} of {facts.get('folds')}. Run `distilrec train-teacher` for this date again"
                )
    return found


def teacher_weights(config: RunConfig, inputs: Mapping[str, Input]) -> list[float]:
    """The teachers' shares in the ensemble, in the config's order. `cache-teacher` has set them; their sum is 1."""
    if config.distillation.mode == "joint":
        return [1.0]
    shares = inputs["teacher_targets"].manifest.details["teachers"]
    return [shares[teacher.name] for teacher in config.teachers]


def ensemble(folders: Sequence[Sequence[Path]], weights: Sequence[float]) -> list[tuple[str, float]]:
    """(model folder, weight) of all models. The folds of a cross-fitted teacher get equal parts of its share."""
    parts = zip(folders, weights, strict=True)
    return [(str(folder), weight / len(of_teacher)) for of_teacher, weight in parts for folder in of_teacher]


def write_targets(
    config: RunConfig,
    source: Features,
    folders: Sequence[Sequence[Path]],
    weights: Sequence[float],
    target: Path,
    *,
    whole: bool = False,
) -> None:
    """Write what the models predict at every training position, as rows of `tables.TEACHER_TARGETS`.

    Args:
      config: for the form of the targets.
      source: the features.
      folders: each teacher's model folders, as from `teacher_folders`.
      weights: the teachers' shares, for sampled targets.
      target: an empty folder.
      whole: write targets at the held-out positions too. Rules must come from `recounted`.
    """
    with start_ray(config):
        from kdlib.teachers.shard_teacher import ShardTeacher
        from kdlib.teachers.sparse import SampledTargetWriter
        from kdlib.teachers.targets import TargetWriter

        settings, how = config.training, config.distillation
        check_workers_room(config, settings.workers)
        names = [[str(folder) for folder in of_teacher] for of_teacher in folders]
        writer, options = TargetWriter, {"folders": [folder for of_teacher in names for folder in of_teacher]}
        if how.targets == "sampled":
            writer, options = (
                SampledTargetWriter,
                {
                    "teachers": names,
                    "weights": list(weights),
                    "temperature": how.temperature,
                    "samples": how.samples,
                    "seed": config.seed,
                },
            )
        write_by_shards(
            config,
            source.histories,
            ShardTeacher,
            target,
            {
                "batch_size": USERS,
                "max_length": settings.max_length,
                "writer": writer,
                "options": options | {"threads": settings.threads_per_worker},
                "whole": whole,
            },
            actors=settings.workers,
            batch_size=USERS,
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
        )


def recounted(config: RunConfig, source: Features, folders: list[list[Path]], place: Path) -> list[list[Path]]:
    """The teachers' folders, in which rules are counted anew over the whole histories, the held-out positions too.

    At a position, rules leave out what they counted in its own window. Without a new count they would subtract held-out
    positions that they have never counted.

    Args:
      config: for the teachers.
      source: the features.
      folders: each teacher's model folders, as from `teacher_folders`.
      place: an empty folder for the new rules.
    """
    with start_ray(config):
        from kdlib.teachers.rules_task import recount_and_save

        facts, found = source.vocabulary_facts(), []
        for teacher, old in zip(config.teachers, folders, strict=True):
            if teacher.rules:
                in_a_task(
                    config,
                    recount_and_save,
                    teacher.rules.model_dump(),
                    parquet_files(source.histories),
                    str(place / teacher.name),
                    facts | {"name": teacher.name},
                    gives=place / teacher.name,
                    num_items=facts["vocabulary_items"],
                    max_length=config.training.max_length,
                )
            found.append([place / teacher.name] if teacher.rules else old)
    return found


class Judgement(NamedTuple):
    """Each teacher's log-probability of each user's next item, float64 [teachers, users], and the teachers' shares."""

    training: np.ndarray
    validation: np.ndarray
    weights: list[float]


def judge(config: RunConfig, source: Features, folders: list[list[Path]]) -> Judgement:
    """Judge the teachers on the validation users (`kdlib.teachers.ensembles`), and set their shares."""
    histories = _validation_histories(config, source)
    with start_ray(config):
        from kdlib.teachers.ensembles import choose_weights, judge_teachers

        how = config.distillation.weights
        arguments = [[str(folder) for folder in of_teacher] for of_teacher in folders], histories
        options = {"num_gpus": config.training.gpus_per_worker, "threads": config.training.threads_per_worker}
        trained_NR, held_out_NR = in_a_task(
            config, judge_teachers, *arguments, max_length=config.training.max_length, **options
        )
        if how == "given":
            return Judgement(trained_NR, held_out_NR, [teacher.weight for teacher in config.teachers])
        if not held_out_NR.shape[1]:
            raise InputError(f"distillation.weights is {how}, but no user has a validation item: set it to given")
        event_weights = config.objective.event_weights
        weights = in_a_task(config, choose_weights, *arguments, event_weights=event_weights, **options)
    return Judgement(trained_NR, held_out_NR, np.asarray(weights).tolist())


def teachers_ndcg(config: RunConfig, source: Features, models: Sequence[tuple[str, float]]) -> float:
    """NDCG@10 of all teachers together, on the validation users.

    Args:
      config: for the settings of the training.
      source: the features.
      models: from `ensemble`.

    Raises:
      InputError: no user has a validation item.
    """
    histories = _validation_histories(config, source)
    if not len(histories):
        raise InputError("student.size is auto, but no user has a validation item to choose by: set it to given")
    with start_ray(config):
        from kdlib.teachers.ensembles import validation_ndcg

        return in_a_task(
            config,
            validation_ndcg,
            list(models),
            histories,
            event_weights=config.objective.event_weights,
            num_gpus=config.training.gpus_per_worker,
            threads=config.training.threads_per_worker,
        )


def _validation_histories(config: RunConfig, source: Features) -> pa.Table:
    from kdlib.data.windows import read_evaluation_histories

    return read_evaluation_histories(
        parquet_files(source.histories),
        position_column="validation_position",
        max_users=config.training.max_validation_users,
    )
