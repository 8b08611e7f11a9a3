"""Train the teachers: one Ray Train run with DeepSpeed for all of them, after encoding titles where a teacher reads text."""

import sys
from pathlib import Path
from typing import Any

from jobs._console import command, say
from jobs._fit import TrainingRun, fit
from jobs._published import Features, describe_models, features, parquet_files
from jobs._ray import start_ray
from jobs._step import run_step
from kdlib.config import RunConfig, TextConfig
from kdlib.publish import Manifest, current, read_manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `models/<name>` for every teacher."""
    with start_ray(config):
        source = features(config)
        titles = {t.name: title_vectors(config, source, t.text) for t in config.teachers if t.text}
        names = tuple(f"models/{teacher.name}" for teacher in config.teachers)

        def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
            runs = [
                TrainingRun(
                    name=teacher.name,
                    export=str(staging[name]),
                    model=teacher.model.model_dump(mode="json"),
                    train=config.training.resolve(teacher.train).model_dump(),
                    seed=config.seed if teacher.seed is None else teacher.seed,
                    title_vectors=str(titles[teacher.name][0]) if teacher.text else None,
                )
                for name, teacher in zip(names, config.teachers, strict=True)
            ]
            fit(
                config, "train_teacher", runs,
                train_files=parquet_files(source.histories), histories=source.histories, from_histories=True,
                facts=source.vocabulary_facts(),
            )  # fmt: skip
            return {}

        made = run_step(
            config,
            names,
            settings=[
                config.seed, config.training.model_dump(mode="json"), [t.model_dump(mode="json") for t in config.teachers],
            ],
            inputs=source.versions | {f"title_vectors/{name}": version for name, (_, version) in titles.items()},
            build=build,
        )  # fmt: skip
        say(f"train_teacher:{describe_models(config, [teacher.name for teacher in config.teachers])}")
        return made


def title_vectors(config: RunConfig, source: Features, text: TextConfig) -> tuple[Path, str]:
    """Encode all titles with Ray Data actors, once per vocabulary and encoder; the folder and its version."""
    import ray.data

    from kdlib.teachers.text import TitleEncoder, encoder_folder

    encoder_folder(text.encoder)
    items = ray.data.read_parquet(parquet_files(source.vocabulary), columns=["item_index", "title"])

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        (
            items.repartition(4 * config.training.workers)
            .map_batches(
                TitleEncoder,
                fn_constructor_kwargs={**text.model_dump(), "threads": config.training.threads_per_worker},
                compute=ray.data.ActorPoolStrategy(size=config.training.workers),
                num_cpus=config.training.cpus_per_worker,
                num_gpus=config.training.gpus_per_worker,
                batch_format="pyarrow",
                batch_size=text.batch_size * 8,
            )
            .write_parquet(str(staging["title_vectors"]))
        )
        return {}

    run_step(
        config,
        ("title_vectors",),
        settings=text.model_dump(),
        inputs={"item_vocabulary": source.versions["item_vocabulary"]},
        build=build,
    )
    manifest = read_manifest(config.root, "title_vectors", config.day)
    assert manifest is not None
    return current(config.root, "title_vectors", config.day), manifest.version


def main(argv: list[str] | None = None) -> int:
    return command("train_teacher", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
