"""Make the teachers: count rules; encode titles where one reads text, and train, a Ray Train run with DeepSpeed a fold."""

import sys
from pathlib import Path
from typing import Any

from jobs.runtime.console import command, say
from jobs.runtime.published import Features, describe_models, features, parquet_files
from jobs.runtime.rank_targets import training_counts
from jobs.runtime.ray_cluster import check_room, start_ray
from jobs.runtime.ray_train import Trainable, TrainingRun, fit_missing
from jobs.runtime.step import run_step
from jobs.runtime.titles import title_vectors
from jobs.runtime.warm_start import earlier_model, run_options, warm_training
from kdlib.config.models import TeacherConfig, TrainConfig
from kdlib.config.run import RunConfig
from kdlib.store.partitions import Manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `models/<name>` for every teacher; for a cross-fitted one `models/<name>_fold<number>`."""
    source = features(config)  # before Ray starts: what is missing is said at once
    with start_ray(config):
        ways = {repr(t.text): t.text for t in config.teachers if t.text}
        vectors = {way: title_vectors(config, source, text) for way, text in ways.items()}
        titles = {t.name: vectors[repr(t.text)] for t in config.teachers if t.text}
        made: dict[str, Manifest] = {}
        for teacher in config.teachers:
            if teacher.rules:
                made |= _count(config, source, teacher)
        learning = [teacher for teacher in config.teachers if not teacher.rules]
        for folds in sorted({teacher.folds for teacher in learning}):
            teachers = [teacher for teacher in learning if teacher.folds == folds]
            for fold in range(folds):  # other data, so a run of its own
                made |= _train(config, source, teachers, fold, titles)
        say(f"train_teacher:{describe_models(config, [name.removeprefix('models/') for name in made])}")
        return made


def _count(config: RunConfig, source: Features, teacher: TeacherConfig) -> dict[str, Manifest]:
    """Count a teacher's rules, in a process of the cluster: its memory must hold all pairs of items that stand near."""
    import ray

    from kdlib.teachers.rules_task import count_and_save

    name, how, training = f"models/{teacher.name}", teacher.rules, config.training
    assert how is not None

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        check_room(config, "training.workers", 1, cpus=training.cpus_per_worker)
        task: Any = ray.remote(num_cpus=training.cpus_per_worker)
        facts = source.vocabulary_facts() | {"name": teacher.name}
        ray.get(
            task(count_and_save).remote(
                how.model_dump(),
                parquet_files(source.histories),
                training_counts(source),
                str(staging[name]),
                facts,
                max_length=training.max_length,
                max_validation_users=training.max_validation_users,
            )
        )
        return {}

    settings = [how.model_dump(), training.max_length, training.max_validation_users]
    return run_step(config, (name,), settings=settings, inputs=source.versions, build=build)


def _train(
    config: RunConfig, source: Features, teachers: list[TeacherConfig], fold: int, titles: dict[str, tuple[Path, str]]
) -> dict[str, Manifest]:
    """Train the models number `fold` of teachers with as many folds: without that fold's users, where there are several."""
    folds = teachers[0].folds

    def trainable(teacher: TeacherConfig) -> Trainable:
        vectors, text_version = titles[teacher.name] if teacher.text else (None, "")
        model = teacher.model.model_dump(mode="json")
        name = teacher.models[fold].removeprefix("models/")
        start = earlier_model(config, name, model, source.item_ids, folds=folds)
        train = warm_training(config, config.training.resolve(teacher.train).model_dump(), start)
        training = config.training.model_dump(mode="json", exclude={"defaults"})
        seed = config.seed if teacher.seed is None else teacher.seed
        return Trainable(
            name=teacher.models[fold],
            settings=[seed, train, training, teacher.model_dump(mode="json", exclude={"weight"})],
            inputs=source.versions
            | ({"title_vectors": text_version} if teacher.text else {})
            | ({} if start is None else {"start": start.version}),
            run=lambda export: TrainingRun(
                name=teacher.models[fold].removeprefix("models/"),
                export=str(export),
                model=teacher.model,
                train=TrainConfig(**train),
                seed=seed,
                title_vectors=None if vectors is None else str(vectors),
                statistics=str(source.statistics),
                **run_options(start),
            ),
        )

    return fit_missing(
        config,
        "train_teacher",
        [trainable(teacher) for teacher in teachers],
        train_files=parquet_files(source.histories),
        histories=source.histories,
        from_histories=True,
        facts=source.vocabulary_facts(),
        without_fold=(fold, folds) if folds > 1 else None,
    )


def main(argv: list[str] | None = None) -> int:
    return command("train_teacher", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
