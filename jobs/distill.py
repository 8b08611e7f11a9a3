"""Train the student from its teachers, and the same student without them for comparison (Ray Train, DeepSpeed)."""

import sys
from pathlib import Path
from typing import Any

from jobs._console import command, say
from jobs._fit import TrainingRun, fit
from jobs._published import describe_models, features, parquet_files, versions
from jobs._ray import start_ray
from jobs._step import run_step
from jobs.cache_teacher import teacher_folders
from jobs.train_teacher import title_vectors
from kdlib import publish
from kdlib.config import RunConfig
from kdlib.publish import Manifest


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
            inputs |= versions(config, "teacher_targets", *(f"models/{t.name}" for t in config.teachers))
        train_folder = source.histories if joint else publish.current(config.root, "teacher_targets", config.day)
        teacher_name = f"models/{config.teachers[0].name}"
        outputs = (
            "models/student",
            *(("models/control",) if config.evaluation.control else ()),
            *((teacher_name,) if joint else ()),
        )

        def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
            student = {
                "model": config.student.model.model_dump(mode="json"),
                "train": config.training.resolve(config.student.train).model_dump(),
                "seed": config.seed,
            }
            with_teacher: dict[str, Any] = {
                "kl_weight": distillation.kl_weight,
                "temperature": distillation.temperature,
            }
            if joint:
                with_teacher |= {
                    "teacher": config.teachers[0].model.model_dump(mode="json"),
                    "teacher_export": str(staging[teacher_name]),
                    "teacher_title_vectors": None if text is None else str(text),
                }
            else:
                with_teacher["cached"] = [
                    (str(f), t.weight) for f, t in zip(teacher_models, config.teachers, strict=True)
                ]
            runs = [TrainingRun(name="student", export=str(staging["models/student"]), **student, **with_teacher)]
            if config.evaluation.control:
                runs.append(TrainingRun(name="control", export=str(staging["models/control"]), **student))
            fit(
                config, "distill", runs,
                train_files=parquet_files(train_folder), histories=source.histories, from_histories=joint, facts=facts,
            )  # fmt: skip
            return {}

        made = run_step(
            config,
            outputs,
            settings=[
                config.seed, config.evaluation.control, distillation.model_dump(), config.student.model_dump(mode="json"),
                config.training.model_dump(mode="json"), [t.model_dump(mode="json") for t in config.teachers],
            ],
            inputs=inputs,
            build=build,
        )  # fmt: skip
        say(f"distill:{describe_models(config, [name.removeprefix('models/') for name in outputs])}")
        return made


def main(argv: list[str] | None = None) -> int:
    return command("distill", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
