"""Train a benchmark's students: each arm once a seed, all that are not up to date in one Ray Train run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.build_codes import ItemCodes, item_codes
from jobs.distill import student_run
from jobs.runtime.console import say
from jobs.runtime.published import Features, parquet_files, teacher_weights, versions
from jobs.runtime.ray_train import Trainable, TrainingRun, fit_missing
from jobs.runtime.step import run_step
from jobs.runtime.teachers import ensemble, teacher_folders, write_targets
from jobs.runtime.titles import title_vectors
from kdlib.config.benchmark import Arm, Benchmark, draw_trials
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.models.files import MODEL_FILE
from kdlib.store import partitions
from kdlib.training.stand_ins import STATELESS

CONTROLS = ("permuted", "uniform", "popularity")


@dataclass(frozen=True)
class Student:
    """One model to train."""

    arm: Arm
    seed: int
    label: str

    @property
    def model(self) -> str:
        """The name that it is published under."""
        return f"models/bench_{self.label}"


@dataclass(frozen=True)
class _Teachers:
    """Cached targets and the models that made them."""

    targets: Path
    models: list[tuple[str, float]]
    versions: dict[str, str]


def students_of(arms: Iterable[Arm]) -> list[Student]:
    """Every arm's students, a seed each."""
    return [Student(arm, seed, f"{arm.name}_s{seed}") for arm in arms for seed in arm.seeds]


def tuned_settings(benchmark: Benchmark, source: Features) -> dict[str, dict[str, Any]]:
    """Arm → the trial with the best validation NDCG@10; the same trials for every arm, each trained once. Ray must run."""
    tuning = benchmark.config.tuning
    if tuning is None:
        return {}
    whole, trials = replace(benchmark, selected=None), draw_trials(tuning)
    students = [
        Student(whole.arms(dict.fromkeys(tuning.arms, trial))[name], tuning.seed, f"{name}_t{number}")
        for name in tuning.arms
        for number, trial in enumerate(trials)
    ]
    train_students(benchmark.run, source, students)
    found = {}
    for name in tuning.arms:
        scores = [
            model_facts(benchmark.run, student.model)["validation"]["ndcg@10"]
            for student in students
            if student.arm.name == name
        ]
        best = max(range(len(scores)), key=scores.__getitem__)
        taught = benchmark.config.arms[name].teacher != "none"
        found[name] = {key: value for key, value in trials[best].items() if taught or key.startswith("student.")}
        say(f"tuning: {name}: trial {best} of {len(trials)}, validation NDCG@10 {scores[best]:.4f}: {found[name]}")
    return found


def train_students(config: RunConfig, source: Features, students: list[Student]) -> None:
    """Publish `models/bench_<label>` of every student; the ones that are up to date are not trained again. Ray must run."""
    names = [name for teacher in config.teachers for name in teacher.models]
    folders = teacher_folders(config, source.vocabulary_facts()["vocabulary_hash"])
    teachers = _Teachers(
        partitions.current(config.root, "teacher_targets", config.day),
        ensemble(folders, teacher_weights(config)),
        versions(config, "teacher_targets", *names),
    )
    _train(config, source, [student for student in students if student.arm.teacher != "self"], teachers)
    own = [student for student in students if student.arm.teacher == "self"]
    for first in sorted({f"{student.arm.plain}_s{student.seed}" for student in own}):
        taught = [student for student in own if f"{student.arm.plain}_s{student.seed}" == first]
        _train(config, source, taught, _own_teacher(config, source, first))


def _own_teacher(config: RunConfig, source: Features, label: str) -> _Teachers:
    """A finished student as the teacher: its hidden states, cached like any teacher's."""
    name, model = f"teacher_targets/bench_{label}", f"models/bench_{label}"
    folder = partitions.current(config.root, model, config.day)

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        write_targets(config, source, [[folder]], [1.0], staging[name])
        return {}

    inputs = source.versions | versions(config, model)
    settings = [config.training.max_length, config.distillation.cached_form, config.seed]
    run_step(config, (name,), settings=settings, inputs=inputs, build=build)
    return _Teachers(
        partitions.current(config.root, name, config.day), [(str(folder), 1.0)], versions(config, name, model)
    )


def _train(config: RunConfig, source: Features, students: list[Student], teachers: _Teachers) -> None:
    codes: dict[str, ItemCodes] = {}
    titles: dict[str, tuple[Path, str]] = {}

    def trainable(student: Student) -> Trainable:
        own, taught = student.arm.config, student.arm.teacher != "none"
        if taught and own.distillation.cached_form != config.distillation.cached_form:
            raise ConfigError(
                f"arm {student.arm.name} asks for cached targets {own.distillation.cached_form}, but the run's, which all arms"
                f" share, are {config.distillation.cached_form}: set distillation.targets, samples and temperature in the run config"
            )
        variant, way = repr((own.student.model.dim, own.student.model.codes)), repr(own.student.text)
        if own.student.model.codes and variant not in codes:
            codes[variant] = item_codes(own, source)
        if own.student.text and way not in titles:
            titles[way] = title_vectors(own, source, own.student.text)
        vectors, text_version = titles.get(way, (None, ""))
        made_of = codes.get(variant)
        trained = own.student if taught else own.student.without_teachers()
        settings = [
            student.seed,
            trained.model_dump(mode="json", exclude={"control"}),
            own.training.model_dump(mode="json"),
        ]
        if taught:
            settings += [student.arm.teacher, own.distillation.model_dump(), [w for _, w in teachers.models]]

        def run(export: Path) -> TrainingRun:
            made = student_run(
                own,
                student.label,
                export,
                seed=student.seed,
                statistics=source.statistics,
                taught=taught,
                cached=teachers.models if taught else [],
                titles=vectors,
                codes=made_of,
            )
            stand_in = student.arm.teacher if student.arm.teacher in CONTROLS else ""
            if stand_in:  # it measures what the teachers' knowledge is worth: it must not start from it
                made = replace(made, item_start="random")
            if stand_in in STATELESS and made.distillation is not None:
                made = replace(made, distillation=made.distillation.model_copy(update={"hidden_weight": 0.0}))
            return replace(made, stand_in=stand_in)

        return Trainable(
            name=student.model,
            settings=settings,
            inputs=source.versions
            | ({"title_vectors": text_version} if vectors else {})
            | (made_of.versions if made_of else {})
            | (teachers.versions if taught else {}),
            run=run,
        )

    fit_missing(
        config,
        "benchmark",
        [trainable(student) for student in students],
        train_files=parquet_files(teachers.targets),
        histories=source.histories,
        from_histories=False,
        facts=source.vocabulary_facts(),
    )


def model_facts(config: RunConfig, name: str) -> dict[str, Any]:
    """What `model.json` of a published model says."""
    return json.loads((partitions.current(config.root, name, config.day) / MODEL_FILE).read_text())
