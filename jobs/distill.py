"""Train the student from its teachers, and the same student without them for comparison (Ray Train, DeepSpeed)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobs.runtime.console import say
from jobs.runtime.names import item_codes, title_vectors
from jobs.runtime.published import describe_models, features_of, parquet_files, teacher_weights
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.students import student_run
from jobs.runtime.teachers import ensemble, teacher_folders
from jobs.runtime.train_models import fit
from jobs.runtime.warm_start import earlier_model
from kdlib.config.run import RunConfig
from kdlib.store.partitions import Manifest
from kdlib.training.specs import TrainingRun


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The earlier run's model that a warm start begins with."""
    shape = config.student.model.model_dump(mode="json")
    start = earlier_model(config, part.subject, shape, features_of(inputs).item_ids)
    return Found({"start": start.version} if start else {}, start)


def build(jobs: Sequence[Job]) -> Details:
    """Train student and control in the same workers. In joint mode the teacher trains with the student."""
    config, joint = jobs[0].config, jobs[0].config.distillation.mode == "joint"
    source = features_of(jobs[0].inputs)
    fit(
        config,
        "distill",
        [_training_run(job) for job in jobs],
        fingerprints=[job.fingerprint for job in jobs],
        train_files=parquet_files(source.histories if joint else jobs[0].input("teacher_targets")),
        histories=source.histories,
        from_histories=joint,
        facts=source.vocabulary_facts(),
    )
    return {}


def _training_run(job: Job) -> TrainingRun:
    config, name = job.config, job.part.subject
    student, joint, taught = config.student, config.distillation.mode == "joint", job.part.subject == "student"
    cached = []
    if taught and not joint:
        folders = teacher_folders(config, job.inputs, features_of(job.inputs).vocabulary_facts()["vocabulary_hash"])
        cached = ensemble(folders, teacher_weights(config, job.inputs))
    codes = [job.input(table) for table in item_codes(student.model)] if student.model.codes else None
    run = student_run(
        config,
        name,
        job.outputs[f"models/{name}"],
        seed=config.seed,
        statistics=job.input("item_statistics"),
        taught=taught,
        cached=cached,
        titles=job.input(title_vectors(student.text)) if student.text else None,
        codes=codes,
        start=job.found,
    )
    if not (joint and taught):
        return run
    [teacher] = config.teachers
    return replace(
        run,
        teacher=teacher.model,
        teacher_export=str(job.outputs[f"models/{teacher.name}"]),
        teacher_title_vectors=str(job.input(title_vectors(teacher.text))) if teacher.text else None,
    )


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how large and how good the models are."""
    say(f"distill:{describe_models(config, manifests)}")
