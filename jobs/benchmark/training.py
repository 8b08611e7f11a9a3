"""Train a benchmark's stale students in one Ray Train run."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.runtime.names import item_codes, title_vectors
from jobs.runtime.published import features_of, parquet_files, user_columns
from jobs.runtime.stage import Details, Job
from jobs.runtime.students import student_run
from jobs.runtime.train_models import fit
from kdlib.store import partitions
from kdlib.training.specs import TrainingRun
from kdlib.training.stand_ins import STATELESS

STAND_INS = ("permuted", "uniform", "popularity")
"""What a variant can have in place of teachers, to measure the value of the teachers' knowledge."""


def build(jobs: Sequence[Job]) -> Details:
    """Train all students on the same cached targets; those without teachers ignore the targets."""
    config, source = jobs[0].config, features_of(jobs[0].inputs)
    _, teachers = jobs[0].part.subject
    fit(
        config,
        "benchmark",
        [_training_run(job) for job in jobs],
        fingerprints=[job.fingerprint for job in jobs],
        train_files=parquet_files(partitions.current(config.root, teachers.targets, config.day)),
        histories=source.histories,
        from_histories=False,
        facts=source.vocabulary_facts(),
    )
    return {}


def _training_run(job: Job) -> TrainingRun:
    student, teachers = job.part.subject
    own, taught = student.arm.config, student.arm.teacher != "none"
    settings = own.student
    made = student_run(
        own,
        student.label,
        job.output,
        seed=student.seed,
        statistics=job.input("item_statistics"),
        taught=taught,
        cached=teachers.models if taught else [],
        titles=job.input(title_vectors(settings.text)) if settings.text else None,
        item_features=job.input("item_features") if settings.features else None,
        user_columns=user_columns(own, job.inputs, settings.user_features),
        codes=[job.input(table) for table in item_codes(settings.model)] if settings.model.codes else None,
    )
    stand_in = student.arm.teacher if student.arm.teacher in STAND_INS else ""
    if stand_in:  # it measures the value of the teachers' knowledge, so it must not start from that knowledge
        made = replace(made, item_start="random")
    if stand_in in STATELESS:
        made = replace(made, hidden_weight=0.0)
    return replace(made, stand_in=stand_in)
