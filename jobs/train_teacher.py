"""Make the teachers: count the rules of some, try the functions of others, train the rest (Ray Train, DeepSpeed)."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from jobs.runtime.actors import in_a_task
from jobs.runtime.budget import within_budget
from jobs.runtime.console import say
from jobs.runtime.names import title_vectors
from jobs.runtime.own_teachers import source_of, source_version
from jobs.runtime.published import describe_models, features_of, parquet_files, user_columns
from jobs.runtime.rank_targets import training_counts
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.train_models import fit
from jobs.runtime.warm_start import earlier_model, run_options, warm_training
from kdlib.config.run import RunConfig
from kdlib.store.partitions import Manifest
from kdlib.training.specs import TrainingRun


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The earlier run's model that a warm start begins with; the source of a function of the user's own."""
    teacher, _ = part.subject
    if teacher.function:
        source = source_of(teacher.function)
        return Found(source, source_version(source))
    if teacher.rules:
        return Found()
    [model] = part.makes
    columns = user_columns(config, inputs, teacher.user_features)
    options = teacher.model.model_dump(mode="json") | {"user_columns": columns}
    name, item_ids = model.removeprefix("models/"), features_of(inputs).item_ids
    start = earlier_model(config, name, options, item_ids, folds=teacher.folds)
    return Found({"start": start.version} if start else {}, start)


def build(jobs: Sequence[Job]) -> Details:
    """Try functions, count rules, train the others. Teachers that learn from the same users share a Ray Train run."""
    for job in jobs:
        if job.part.subject[0].function:
            _try_function(job)
        elif job.part.subject[0].rules:
            _count(job)
    learning = sorted((job for job in jobs if job.part.subject[0].is_trained), key=_users)
    runs = within_budget(jobs[0].config, [_training_run(job) for job in learning], "teachers")
    planned = zip(learning, runs, strict=True)
    for (folds, fold), together in groupby(planned, key=lambda one: _users(one[0])):
        _train(*zip(*together, strict=True), fold=fold, folds=folds)
    return {}


def _users(job: Job) -> tuple[int, int]:
    """Which users a model learns from: (folds, fold that is left out)."""
    teacher, fold = job.part.subject
    return teacher.folds, fold


def _try_function(job: Job) -> None:
    """Let a teacher's function score the validation users, in a Ray process as in the later stages."""
    from kdlib.teachers.function import record_function

    (teacher, _), training, source = job.part.subject, job.config.training, features_of(job.inputs)
    in_a_task(
        job.config,
        record_function,
        teacher.function,
        source.item_ids(),
        parquet_files(source.histories),
        str(job.output),
        source.vocabulary_facts() | {"name": teacher.name},
        num_gpus=training.gpus_per_worker,
        gives=job.output,
        version=job.found,
        max_length=training.max_length,
        max_validation_users=training.max_validation_users,
        event_weights=job.config.objective.event_weights,
        threads=training.threads_per_worker,
    )


def _count(job: Job) -> None:
    """Count a teacher's rules in a process of the cluster. Its memory must hold all pairs of neighbouring items."""
    from kdlib.teachers.rules_task import count_and_save

    (teacher, _), training, source = job.part.subject, job.config.training, features_of(job.inputs)
    in_a_task(
        job.config,
        count_and_save,
        teacher.rules.model_dump(),
        parquet_files(source.histories),
        training_counts(source),
        str(job.output),
        source.vocabulary_facts() | {"name": teacher.name},
        gives=job.output,
        max_length=training.max_length,
        max_validation_users=training.max_validation_users,
        event_weights=job.config.objective.event_weights,
    )


def _train(jobs: Sequence[Job], runs: Sequence[TrainingRun], *, fold: int, folds: int) -> None:
    """Train teachers with the same number of folds. If there are several folds, the users of `fold` are left out."""
    source = features_of(jobs[0].inputs)
    fit(
        jobs[0].config,
        "train_teacher",
        list(runs),
        fingerprints=[job.fingerprint for job in jobs],
        train_files=parquet_files(source.histories),
        histories=source.histories,
        from_histories=True,
        facts=source.vocabulary_facts(),
        without_fold=(fold, folds) if folds > 1 else None,
    )


def _training_run(job: Job) -> TrainingRun:
    config, (teacher, _) = job.config, job.part.subject
    [name] = job.part.makes
    return TrainingRun(
        name=name.removeprefix("models/"),
        export=str(job.output),
        model=teacher.model,
        train=warm_training(config, config.training.resolve(teacher.train), job.found),
        seed=config.seed if teacher.seed is None else teacher.seed,
        title_vectors=str(job.input(title_vectors(teacher.text))) if teacher.text else None,
        item_features=str(job.input("item_features")) if teacher.features else None,
        features=teacher.features,
        user_columns=user_columns(config, job.inputs, teacher.user_features),
        statistics=str(job.input("item_statistics")),
        event_weights=config.objective.event_weights,
        **run_options(job.found),
    )


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how large and how good the teachers are."""
    say(f"train_teacher:{describe_models(config, manifests)}")
