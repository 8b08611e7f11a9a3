"""Publish a benchmark's students: one for each variant and seed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jobs.pipeline import STAGES, stage_named
from jobs.runtime.console import say
from jobs.runtime.names import FEATURES, item_codes, model_features, teacher_models, title_vectors
from jobs.runtime.published import Features, published
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Part, Stage
from jobs.runtime.teachers import ensemble, teacher_folders, teacher_weights
from kdlib.config.benchmark import Arm, Benchmark, draw_trials
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.models.files import MODEL_FILE
from kdlib.store import partitions


@dataclass(frozen=True)
class Student:
    """One model to train."""

    arm: Arm
    seed: int
    label: str
    """Its name in the results."""
    trial: str = ""
    """Label of the trial that is this student already."""

    @property
    def model(self) -> str:
        """The name under which the model is published."""
        return f"models/bench_{self.trial or self.label}"


class Tuned(NamedTuple):
    """What the tuning chose."""

    settings: dict[str, dict[str, Any]]
    """Variant → keys below `student` and `distillation`, with their values."""
    trials: dict[tuple[str, int], str]
    """(variant, seed of the tuning) → label of the best trial. It is the student of that seed."""


@dataclass(frozen=True)
class Teachers:
    """Cached targets and the models that made them."""

    targets: str
    """Name of the table."""
    models: tuple[tuple[str, float], ...]
    """(model folder, weight)."""
    needs: tuple[str, ...]
    """The table and the models that a taught student is made from."""


def students_of(arms: Iterable[Arm], trials: Mapping[tuple[str, int], str] | None = None) -> list[Student]:
    """The students of all variants, one for each seed.

    Args:
      arms: the variants.
      trials: (variant, seed) → label of the trial that is this student already.
    """
    trials = trials or {}
    return [
        Student(arm, seed, f"{arm.name}_s{seed}", trials.get((arm.name, seed), ""))
        for arm in arms
        for seed in arm.seeds
    ]


def tuned(benchmark: Benchmark, source: Features) -> Tuned:
    """The trial of each variant with the best validation NDCG@10. All variants have the same trials. Ray must run."""
    tuning = benchmark.config.tuning
    if tuning is None:
        return Tuned({}, {})
    whole, trials = replace(benchmark, selected=None), draw_trials(tuning)
    students = [
        Student(whole.arms(dict.fromkeys(tuning.arms, trial))[name], tuning.seed, f"{name}_t{number}")
        for name in tuning.arms
        for number, trial in enumerate(trials)
    ]
    train_students(benchmark.run, source, students)
    found = Tuned({}, {})
    for name in tuning.arms:
        own = [student for student in students if student.arm.name == name]
        scores = [model_facts(benchmark.run, student.model)["validation"]["ndcg@10"] for student in own]
        best = max(range(len(scores)), key=scores.__getitem__)
        found.trials[name, tuning.seed] = own[best].label
        taught = benchmark.config.arms[name].teacher != "none"
        chosen = {key: value for key, value in trials[best].items() if taught or key.startswith("student.")}
        found.settings[name] = chosen
        say(f"tuning: {name}: trial {best} of {len(trials)}, validation NDCG@10 {scores[best]:.4f}: {chosen}")
    return found


def train_students(config: RunConfig, source: Features, students: list[Student]) -> None:
    """Publish `models/bench_<label>` of every student. Students that are up to date are skipped. Ray must run."""
    names = teacher_models(config)
    inputs = published(config, *FEATURES, "teacher_targets", *names)
    folders = teacher_folders(config, inputs, source.vocabulary_facts()["vocabulary_hash"])
    weights = teacher_weights(config, inputs)
    teachers = Teachers("teacher_targets", tuple(ensemble(folders, weights)), ("teacher_targets", *names))
    _train(config, [student for student in students if student.arm.teacher != "self"], teachers)
    finished = {(student.arm.name, student.seed): student for student in students}
    own = [student for student in students if student.arm.teacher == "self"]
    for first in sorted({(str(student.arm.plain), student.seed) for student in own}):
        taught = [student for student in own if (student.arm.plain, student.seed) == first]
        _train(config, taught, _own_teacher(config, finished[first]))


def _own_teacher(config: RunConfig, student: Student) -> Teachers:
    """A finished student as a teacher. Its hidden states are cached like those of any teacher."""
    name, model = f"teacher_targets/bench_{student.label}", student.model
    cached = {"distillation": config.distillation.cached_form}
    part = Part((name,), (*FEATURES, model), ("seed", "training.max_length"), cached)
    stage = Stage(
        "benchmark-targets",
        "ray",
        "store what a finished student predicts at every training position",
        parts=lambda config: [part],
        module="jobs.benchmark.targets",
    )
    run_stage(config, stage, pipeline=STAGES)
    folder = published(config, model)[model].folder
    return Teachers(name, ((str(folder), 1.0),), (name, model))


def _train(config: RunConfig, students: list[Student], teachers: Teachers) -> None:
    """Train the stale students in one Ray Train run, after the encoders, title vectors and codes that they need."""
    prepared = set[str]()
    for student in students:
        own, taught = student.arm.config, student.arm.teacher != "none"
        if taught and own.distillation.cached_form != config.distillation.cached_form:
            raise ConfigError(
                f"arm {student.arm.name} asks for cached targets {own.distillation.cached_form}, but all arms share the"
                f" run's targets, {config.distillation.cached_form}. Set distillation.targets, samples and temperature in"
                " the run config"
            )
        made_of = repr((own.student.model.dim, own.student.model.codes, own.student.text))
        if made_of not in prepared:
            prepared.add(made_of)
            for name in ("train-text-encoder", "encode-titles", "build-codes"):
                if (stage := stage_named(name)).when(own):
                    run_stage(own, stage, pipeline=STAGES)
    if students:
        stage = Stage(
            "benchmark-students",
            "ray",
            "train the students of a benchmark",
            parts=lambda config: [_part(student, teachers) for student in students],
            together=True,
            module="jobs.benchmark.training",
        )
        run_stage(config, stage, pipeline=STAGES)


def _part(student: Student, teachers: Teachers) -> Part:
    own, taught = student.arm.config, student.arm.teacher != "none"
    trained = student.arm.student
    values: dict[str, Any] = {"seed": student.seed, "student": trained.model_dump(mode="json", exclude={"control"})}
    values |= {"training": own.training, "objective": own.objective}
    if taught:
        values |= {"teacher": student.arm.teacher, "distillation": own.distillation}
        values["weights"] = [weight for _, weight in teachers.models]
    needs = [*FEATURES, *([title_vectors(trained.text)] if trained.text else []), *model_features(trained)]
    needs += item_codes(trained.model) if trained.model.codes else ()
    needs += teachers.needs if taught else ()
    return Part((student.model,), tuple(needs), values=values, subject=(student, teachers))


def model_facts(config: RunConfig, name: str) -> dict[str, Any]:
    """The content of a published model's `model.json`."""
    return json.loads((partitions.current(config.root, name, config.day) / MODEL_FILE).read_text())
