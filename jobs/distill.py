"""Train the student from its teachers, and the same student without them for comparison (Ray Train, DeepSpeed)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.runtime.budget import within_budget
from jobs.runtime.console import say, warn
from jobs.runtime.published import describe_models, features_of, parquet_files
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.students import narrowed, run_of, sizes_of, student_start
from jobs.runtime.teachers import teachers_ndcg
from jobs.runtime.train_models import fit
from kdlib.config.run import RunConfig
from kdlib.models.files import MODEL_FILE
from kdlib.store.fingerprint import fingerprint_of
from kdlib.store.partitions import Manifest
from kdlib.training.specs import TrainingRun


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The earlier run's model that a warm start begins with."""
    return student_start(config, part.subject, inputs)


def build(jobs: Sequence[Job]) -> Details:
    """Train student and control in the same workers. In joint mode the teacher trains with the student."""
    if jobs[0].config.student.size == "auto":
        return _train_the_smallest(jobs[0])
    runs = [run_of(job, job.part.subject) for job in jobs]
    _train(jobs[0], within_budget(jobs[0].config, runs, "students"), [job.fingerprint for job in jobs])
    return {}


def _train_the_smallest(job: Job) -> Details:
    """Train students of rising width until one keeps enough of the teachers' quality, then the control at its width."""
    config, widest = job.config, run_of(job, "student")
    teachers = teachers_ndcg(config, features_of(job.inputs), widest.cached)
    runs = [narrowed(widest, model) for model in sizes_of(config.student.model)]
    if config.evaluation.control:
        runs.append(run_of(job, "control"))
    runs = within_budget(config, runs, "students")
    control = runs.pop() if config.evaluation.control else None
    found: dict[str, float] = {}
    for run in runs:
        width = run.model.dim
        _train(job, [run], [fingerprint_of(job.fingerprint, width)])
        facts = json.loads((Path(run.export) / MODEL_FILE).read_text())
        found[f"d{width}"] = facts["validation"]["ndcg@10"]
        share = found[f"d{width}"] / teachers if teachers else 0.0
        say(f"  student of width {width}: {share:.0%} of the teachers' validation NDCG@10, {teachers:.4f}")
        if share >= config.student.size_share:
            break
    else:
        warn(f"no student keeps {config.student.size_share:.0%} of the teachers' NDCG@10: the widest is published")
    if control is not None:
        _train(job, [narrowed(control, run.model)], [fingerprint_of(job.fingerprint, "control")])
    return {"models/student": {"sizes": {"teachers": teachers, **found}}}


def _train(job: Job, runs: list[TrainingRun], fingerprints: list[str]) -> None:
    config, joint = job.config, job.config.distillation.mode == "joint"
    source = features_of(job.inputs)
    fit(
        config,
        "distill",
        runs,
        fingerprints=fingerprints,
        train_files=parquet_files(source.histories if joint else job.input("teacher_targets")),
        histories=source.histories,
        from_histories=joint,
        facts=source.vocabulary_facts(),
    )


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how large and how good the models are."""
    say(f"distill:{describe_models(config, manifests)}")
