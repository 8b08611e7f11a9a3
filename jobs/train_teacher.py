"""Make the teachers: count rules; encode titles where one reads text, and train, a Ray Train run with DeepSpeed a fold."""

import sys
from pathlib import Path
from typing import Any

from jobs._console import command, say
from jobs._fit import TrainingRun, fit
from jobs._published import Features, describe_models, features, parquet_files
from jobs._ranks import training_counts
from jobs._ray import start_ray
from jobs._step import run_step
from kdlib.config import RunConfig, TeacherConfig, TextConfig
from kdlib.publish import Manifest, current, fingerprint_of, read_manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `models/<name>` for every teacher; for a cross-fitted one `models/<name>_fold<number>`."""
    with start_ray(config):
        source = features(config)
        titles = {t.name: title_vectors(config, source, t.text) for t in config.teachers if t.text}
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

    from jobs._rules import count_and_save

    name, how, training = f"models/{teacher.name}", teacher.rules, config.training
    assert how is not None

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        task: Any = ray.remote(num_cpus=training.cpus_per_worker)
        facts = source.vocabulary_facts() | {"name": teacher.name}
        ray.get(
            task(count_and_save).remote(
                how.model_dump(), parquet_files(source.histories), training_counts(source), str(staging[name]), facts,
                max_length=training.max_length, max_validation_users=training.max_validation_users,
            )
        )  # fmt: skip
        return {}

    settings = [how.model_dump(), training.max_length, training.max_validation_users]
    return run_step(config, (name,), settings=settings, inputs=source.versions, build=build)


def _train(
    config: RunConfig, source: Features, teachers: list[TeacherConfig], fold: int, titles: dict[str, tuple[Path, str]]
) -> dict[str, Manifest]:
    """Train the models number `fold` of teachers with as many folds: without that fold's users, where there are several."""
    names = tuple(teacher.models[fold] for teacher in teachers)
    folds = teachers[0].folds

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        runs = [
            TrainingRun(
                name=name.removeprefix("models/"),
                export=str(staging[name]),
                model=teacher.model.model_dump(mode="json"),
                train=config.training.resolve(teacher.train).model_dump(),
                seed=config.seed if teacher.seed is None else teacher.seed,
                title_vectors=str(titles[teacher.name][0]) if teacher.text else None,
                statistics=str(source.statistics),
            )
            for name, teacher in zip(names, teachers, strict=True)
        ]
        fit(
            config, "train_teacher", runs,
            train_files=parquet_files(source.histories), histories=source.histories, from_histories=True,
            facts=source.vocabulary_facts(), without_fold=(fold, folds) if folds > 1 else None,
        )  # fmt: skip
        return {}

    return run_step(
        config,
        names,
        settings=[
            config.seed, config.training.model_dump(mode="json"), [t.model_dump(mode="json") for t in teachers],
        ],
        inputs=source.versions | {f"title_vectors/{t.name}": titles[t.name][1] for t in teachers if t.text},
        build=build,
    )  # fmt: skip


def title_vectors(config: RunConfig, source: Features, text: TextConfig) -> tuple[Path, str]:
    """Encode all titles with Ray Data actors, once per vocabulary and text settings; the folder and its version.

    The table is `title_vectors/<hash of the settings>`, so that teachers with different ones do not meet.
    """
    import ray.data

    from jobs.train_text_encoder import encoder_and_version
    from kdlib.teachers.text import TitleEncoder, whiten_files

    encoder, encoder_version = encoder_and_version(config, source, text)
    name = f"title_vectors/{fingerprint_of(text.model_dump(mode='json'))[:8]}"
    items = ray.data.read_parquet(parquet_files(source.vocabulary), columns=["item_index", "title"])

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        (
            items.repartition(4 * config.training.workers)
            .map_batches(
                TitleEncoder,
                fn_constructor_kwargs={
                    "encoder": encoder,
                    "max_tokens": text.max_tokens,
                    "batch_size": text.batch_size,
                    "threads": config.training.threads_per_worker,
                },
                compute=ray.data.ActorPoolStrategy(size=config.training.workers),
                num_cpus=config.training.cpus_per_worker,
                num_gpus=config.training.gpus_per_worker,
                batch_format="pyarrow",
                batch_size=text.batch_size * 8,
            )
            .write_parquet(str(staging[name]))
        )
        return {name: {"whitening": whiten_files(staging[name], width=text.whiten_width)}} if text.whiten else {}

    run_step(
        config,
        (name,),
        settings=text.model_dump(mode="json"),
        inputs={"item_vocabulary": source.versions["item_vocabulary"], "encoder": encoder_version},
        build=build,
    )
    manifest = read_manifest(config.root, name, config.day)
    assert manifest is not None
    return current(config.root, name, config.day), manifest.version


def main(argv: list[str] | None = None) -> int:
    return command("train_teacher", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
