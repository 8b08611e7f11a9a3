"""The student as a training run, for the stages `distill` and `refit`, and for benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.runtime.names import item_codes, title_vectors
from jobs.runtime.published import features_of, user_columns
from jobs.runtime.stage import Found, Input, Job
from jobs.runtime.teachers import ensemble, teacher_folders, teacher_weights
from jobs.runtime.warm_start import Start, earlier_model, run_options, warm_training
from kdlib.config.models import ModelConfig
from kdlib.config.run import RunConfig
from kdlib.training.specs import TrainingRun

NARROWEST = 8
"""Smallest width that `student.size: auto` tries. In the default shop a student of this width gains little."""


def sizes_of(model: ModelConfig) -> list[ModelConfig]:
    """The models that `student.size: auto` tries, narrowest first: the given one, with all its widths halved again and again."""
    models, factor = [model], 2
    while model.dim % factor == 0 and model.dim // factor >= NARROWEST:
        width = (model.hidden or model.dim) // factor
        if (model.hidden or 0) % factor or width % model.heads:
            break
        narrower = {"dim": model.dim // factor, "hidden": model.hidden and width}
        models.insert(0, model.model_copy(update=narrower))
        factor *= 2
    return models


def narrowed(run: TrainingRun, narrower: ModelConfig) -> TrainingRun:
    """The run with the widths of another model. The learning rate is in inverse proportion to the width.

    With the wide model's rate, a narrow model is far from done when its epochs end. On Beauty's validation, a GRU of
    width 16 without teachers has an NDCG@10 of .039 with the rate of width 64, and .049 with three times that rate (`trials.json`).
    """
    model = run.model.model_copy(update={"dim": narrower.dim, "hidden": narrower.hidden})
    rate = run.train.learning_rate * run.model.dim / narrower.dim
    return replace(run, model=model, train=run.train.model_copy(update={"learning_rate": rate}))


def student_start(config: RunConfig, name: str, inputs: Mapping[str, Input]) -> Found:
    """The earlier run's model that a warm start of `models/<name>` begins with."""
    columns = user_columns(config, inputs, config.student.user_features)
    shape = config.student.model.model_dump(mode="json") | {"user_columns": columns}
    start = earlier_model(config, name, shape, features_of(inputs).item_ids)
    return Found({"start": start.version} if start else {}, start)


def run_of(job: Job, name: str) -> TrainingRun:
    """The training run of a stage that trains students: of `student` or `refit`, or of `control`, which has no teachers."""
    config = job.config
    student, joint, taught = config.student, config.distillation.mode == "joint", name != "control"
    cached = []
    if taught and not joint:
        folders = teacher_folders(config, job.inputs, features_of(job.inputs).vocabulary_facts()["vocabulary_hash"])
        cached = ensemble(folders, teacher_weights(config, job.inputs))
    codes = [job.input(table) for table in item_codes(student.model)] if student.model.codes else None
    run = student_run(
        config,
        name,
        job.outputs[f"models/{name}"],
        seed=config.seed,
        statistics=job.input("item_statistics"),
        taught=taught,
        cached=cached,
        titles=job.input(title_vectors(student.text)) if student.text else None,
        item_features=job.input("item_features") if student.features else None,
        user_columns=user_columns(config, job.inputs, student.user_features),
        codes=codes,
        start=job.found,
    )
    if not (joint and taught):
        return run
    [teacher] = config.teachers
    made = job.outputs.get(f"models/{teacher.name}")  # `refit` publishes no teacher
    return replace(
        run,
        teacher=teacher.model,
        teacher_export=None if made is None else str(made),
        teacher_title_vectors=str(job.input(title_vectors(teacher.text))) if teacher.text else None,
        item_features=str(job.input("item_features")) if student.features or teacher.features else None,
        teacher_features=teacher.features,
        teacher_user_columns=user_columns(config, job.inputs, teacher.user_features),
    )


def student_run(
    config: RunConfig,
    name: str,
    export: Path,
    *,
    seed: int,
    statistics: Path,
    taught: bool,
    cached: Sequence[tuple[str, float]] = (),
    titles: Path | None = None,
    item_features: Path | None = None,
    user_columns: dict[str, int] | None = None,
    codes: Sequence[Path] | None = None,
    start: Start | None = None,
) -> TrainingRun:
    """The training run of the run config's student, with teachers or from the data alone.

    Args:
      config: for the settings of the student and of the distillation.
      name: of the model.
      export: folder for the model.
      seed: of the training.
      statistics: folder of the item statistics.
      taught: whether the student has teachers.
      cached: (model folder, weight) of the teachers whose hidden states lie in the training files.
      titles: folder of the title vectors, where `student.text` asks for them.
      item_features: folder of the item features, where `student.features` names some.
      user_columns: of the features of the users that the student reads.
      codes: folders of the item codes and of the codebooks, where `student.model.codes` asks for them.
      start: the earlier model that the student starts from.
    """
    distillation: dict[str, Any] = {
        "kl_weight": config.distillation.kl_weight,
        "temperature": config.distillation.temperature,
        "item_start": config.distillation.item_start,
        "hidden_weight": config.distillation.hidden_weight,
    }
    student = config.student if taught else config.student.without_teachers()
    train = warm_training(config, config.training.resolve(student.train), start)
    return TrainingRun(
        name=name,
        export=str(export),
        model=student.model,
        train=train,
        seed=seed,
        title_vectors=None if titles is None else str(titles),
        item_features=None if item_features is None else str(item_features),
        features=student.features,
        user_columns=user_columns or {},
        cached=list(cached),
        targets=config.distillation.targets if taught else "hidden",
        statistics=str(statistics),
        codes=None if codes is None else (str(codes[0]), str(codes[1])),
        stored_as=config.student.export,
        event_weights=config.objective.event_weights,
        **run_options(start),
        **(distillation if taught else {}),
    )
