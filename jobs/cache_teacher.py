"""Store the finished teachers' hidden states at every training position (Ray Data), for offline distillation."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from jobs._console import command, say
from jobs._published import features, parquet_files, versions
from jobs._ray import start_ray
from jobs._step import run_step
from kdlib import publish
from kdlib.config import RunConfig
from kdlib.errors import ConfigError, ModelError
from kdlib.publish import Manifest

ROWS = 2048
"""Windows handed to an actor at once."""


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `teacher_targets`."""
    if config.distillation.mode == "joint":
        raise ConfigError("distillation.mode is joint: teacher and student learn together, there is nothing to cache")
    source = features(config)
    folders = teacher_folders(config, source.vocabulary_facts()["vocabulary_hash"])
    teachers = versions(config, *(f"models/{t.name}" for t in config.teachers))

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        with start_ray(config):
            import ray.data

            from kdlib.data.windows import training_windows
            from kdlib.teachers.targets import TargetWriter

            settings = config.training
            (
                ray.data.read_parquet(parquet_files(source.histories))
                .map_batches(
                    partial(training_windows, max_length=settings.max_length), batch_format="pyarrow", batch_size=None
                )
                .map_batches(
                    TargetWriter,
                    fn_constructor_kwargs={
                        "folders": [str(f) for f in folders],
                        "threads": settings.threads_per_worker,
                    },
                    compute=ray.data.ActorPoolStrategy(size=settings.workers),
                    num_cpus=settings.cpus_per_worker,
                    num_gpus=settings.gpus_per_worker,
                    batch_format="pyarrow",
                    batch_size=ROWS,
                )
                .write_parquet(str(staging["teacher_targets"]))
            )
        return {"teacher_targets": {"teachers": [t.name for t in config.teachers]}}

    made = run_step(
        config,
        ("teacher_targets",),
        settings=[config.training.max_length, [t.name for t in config.teachers]],
        inputs={**source.versions, **teachers},
        build=build,
    )
    say(
        f"cache_teacher: {made['teacher_targets'].rows:,} windows, {sum(f['bytes'] for f in made['teacher_targets'].files) / 2**20:.1f} MiB"
    )
    return made


def teacher_folders(config: RunConfig, expected_hash: str) -> list[Path]:
    """Each teacher's published model folder.

    Raises:
      ModelError: a teacher was trained on another vocabulary.
    """
    from kdlib.models.files import load_model

    folders = []
    for teacher in config.teachers:
        folder = publish.current(config.root, f"models/{teacher.name}", config.day)
        _, facts = load_model(folder)
        if facts["vocabulary_hash"] != expected_hash:
            raise ModelError(
                f"teacher {teacher.name} at {folder} was trained on another item vocabulary"
                f" ({facts['vocabulary_items']} items, version {facts['vocabulary_version']}) than the one published for {config.day}:"
                " run `distilrec train-teacher` for this date again"
            )
        folders.append(folder)
    return folders


def main(argv: list[str] | None = None) -> int:
    return command("cache_teacher", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
