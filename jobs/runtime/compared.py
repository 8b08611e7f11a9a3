"""The models that `evaluate` measures."""

from pathlib import Path

from jobs.runtime.stage import Job
from jobs.runtime.teachers import ensemble, teacher_weights


def compared_models(job: Job) -> dict[str, list[tuple[str, float]]]:
    """Name → (model folder, weight), for teachers and students. A cross-fitted teacher is the mean of its folds."""
    config = job.config
    teachers = [[job.input(model) for model in teacher.models] for teacher in config.teachers]
    compared = {t.name: ensemble([folders], [1.0]) for t, folders in zip(config.teachers, teachers, strict=True)}
    students = ["student", *(["control"] if config.evaluation.control else [])]
    compared |= {name: [(str(job.input(f"models/{name}")), 1.0)] for name in students}
    if isinstance(job.found, Path):
        compared["last_night"] = [(str(job.found), 1.0)]
    if len(config.teachers) > 1:
        compared["ensemble"] = ensemble(teachers, teacher_weights(config, job.inputs))
    return compared
