"""Train the student from its teachers, and the same student without them for comparison (Ray Train, DeepSpeed)."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jobs.build_codes import ItemCodes, item_codes
from jobs.runtime.console import command, say
from jobs.runtime.published import describe_models, features, parquet_files, teacher_weights, versions
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.ray_train import TrainingRun, fit
from jobs.runtime.step import run_step
from jobs.runtime.teachers import ensemble, teacher_folders
from jobs.runtime.titles import title_vectors
from jobs.runtime.warm_start import Start, earlier_model, run_options, warm_training
from kdlib.config.models import TrainConfig
from kdlib.config.run import RunConfig
from kdlib.store import partitions
from kdlib.store.partitions import Manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `models/student`, `models/control` (the student without teacher) and, in joint mode, the teacher."""
    with start_ray(config):
        source, distillation = features(config), config.distillation
        facts = source.vocabulary_facts()
        joint = distillation.mode == "joint"
        inputs, teacher_models, text = dict(source.versions), [], None
        if joint:
            if config.teachers[0].text:
                text, inputs["title_vectors"] = title_vectors(config, source, config.teachers[0].text)
        else:
            teacher_models = teacher_folders(config, facts["vocabulary_hash"])
            inputs |= versions(config, "teacher_targets", *(name for t in config.teachers for name in t.models))
        titles = None
        if config.student.text:
            titles, inputs["title_vectors/student"] = title_vectors(config, source, config.student.text)
        shape = config.student.model.model_dump(mode="json")
        starts = {name: earlier_model(config, name, shape, source.item_ids) for name in ("student", "control")}
        inputs |= {f"start/{name}": start.version for name, start in starts.items() if start}
        codes = item_codes(config, source) if config.student.model.codes else None
        inputs |= codes.versions if codes else {}
        train_folder = source.histories if joint else partitions.current(config.root, "teacher_targets", config.day)
        teacher_name = f"models/{config.teachers[0].name}"
        outputs = (
            "models/student",
            *(("models/control",) if config.evaluation.control else ()),
            *((teacher_name,) if joint else ()),
        )

        def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
            cached = [] if joint else ensemble(teacher_models, teacher_weights(config))
            untrained = partial(
                student_run, config, seed=config.seed, statistics=source.statistics, titles=titles, codes=codes
            )
            taught = untrained(
                "student", staging["models/student"], taught=True, cached=cached, start=starts["student"]
            )
            if joint:
                taught = replace(
                    taught,
                    teacher=config.teachers[0].model,
                    teacher_export=str(staging[teacher_name]),
                    teacher_title_vectors=None if text is None else str(text),
                )
            runs = [taught]
            if config.evaluation.control:
                runs.append(untrained("control", staging["models/control"], taught=False, start=starts["control"]))
            fit(
                config,
                "distill",
                runs,
                train_files=parquet_files(train_folder),
                histories=source.histories,
                from_histories=joint,
                facts=facts,
            )
            return {}

        made = run_step(
            config,
            outputs,
            settings=[
                config.seed,
                config.evaluation.control,
                distillation.model_dump(),
                config.student.model_dump(mode="json"),
                config.training.model_dump(mode="json"),
                [t.model_dump(mode="json") for t in config.teachers],
            ],
            inputs=inputs,
            build=build,
        )
        say(f"distill:{describe_models(config, [name.removeprefix('models/') for name in outputs])}")
        return made


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
    codes: ItemCodes | None = None,
    start: Start | None = None,
) -> TrainingRun:
    """The run config's student, to be taught by teachers or by the data alone.

    Args:
      config: for the student's settings and, where it is taught, the distillation's.
      name: of the model.
      export: folder for it.
      seed: of its training.
      statistics: folder of the item statistics.
      taught: whether it has teachers.
      cached: (model folder, weight) of the teachers whose hidden states lie in the training files.
      titles: folder of the title vectors, where `student.text` asks for them.
      codes: from `item_codes`, where `student.model.codes` asks for them; with and without teachers the same.
      start: the earlier model that it goes on from.
    """
    distillation: dict[str, Any] = {
        "kl_weight": config.distillation.kl_weight,
        "temperature": config.distillation.temperature,
        "item_start": config.distillation.item_start,
        "distillation": config.distillation,
    }
    student = config.student if taught else config.student.without_teachers()
    train = warm_training(config, config.training.resolve(student.train).model_dump(), start)
    return TrainingRun(
        name=name,
        export=str(export),
        model=student.model,
        train=TrainConfig(**train),
        seed=seed,
        title_vectors=None if titles is None else str(titles),
        cached=list(cached),
        targets=config.distillation.targets if taught else "hidden",
        statistics=str(statistics),
        codes=None if codes is None else (str(codes.codes), str(codes.codebooks)),
        stored_as=config.student.export,
        **run_options(start),
        **(distillation if taught else {}),
    )


def main(argv: list[str] | None = None) -> int:
    return command("distill", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
