"""The record of a benchmark's choices. It is published before anything reads the test items.

Epochs, search trials and the best kind of teacher are chosen on validation alone. `publish_selection` records them with
each model's hash. The evaluation starts from `read_selection`, which refuses a model with another hash.
"""

import hashlib
import json
from collections import defaultdict
from typing import Any

from jobs.benchmark.students import Student, model_facts
from jobs.pipeline import STAGES
from jobs.runtime.published import published, teacher_weights
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Details, Job, Part, Stage
from kdlib.config.models import TeacherConfig
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, ModelError
from kdlib.models.files import WEIGHTS
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

FILE = "selection.json"


def publish_selection(
    config: RunConfig, name: str, students: list[Student], found: dict[str, dict[str, Any]]
) -> Manifest:
    """Publish `benchmark_selection/<name>`: every student and teacher with its epoch, validation metrics and hash.

    Args:
      config: the run config.
      name: the benchmark's name.
      students: all students, trained.
      found: variant → the settings that the tuning chose.
    """
    table, shares = f"benchmark_selection/{name}", teacher_weights(config, published(config, "teacher_targets"))
    # each fold of a cross-fitted teacher counts as a teacher, as in the ensemble
    teachers = {
        model.removeprefix("models/"): (model, share / teacher.folds, _kind(teacher))
        for teacher, share in zip(config.teachers, shares, strict=True)
        for model in teacher.models
    }
    values = {
        "students": {s.label: [s.arm.name, s.arm.teacher, s.seed, s.arm.plain] for s in students},
        "teachers": {name: [share, kind] for name, (_, share, kind) in teachers.items()},
        "tuning": found,
    }
    needs = (*(student.model for student in students), *(model for model, _, _ in teachers.values()))
    part = Part((table,), needs, values=values, subject=(students, teachers, found))
    stage = Stage(
        "benchmark-selection",
        "local",
        "write down what was chosen",
        parts=lambda config: [part],
        module="jobs.benchmark.selection",
    )
    return run_stage(config, stage, pipeline=STAGES)[table]


def build(job: Job) -> Details:
    """Write the record."""
    students, teachers, found = job.part.subject
    config = job.config
    record: dict[str, Any] = {
        "students": {s.label: {"arm": s.arm.name, "seed": s.seed} | _entry(config, s.model) for s in students},
        "teachers": {name: {"weight": share} | _entry(config, model) for name, (model, share, _) in teachers.items()},
        "tuning": found,
    }
    scores = {name: entry["validation"]["ndcg@10"] for name, entry in record["teachers"].items()}
    record["best_teacher_kind"] = best_kind({name: kind for name, (_, _, kind) in teachers.items()}, scores)
    (job.output / FILE).write_text(json.dumps(record, indent=1))
    return {}


def _entry(config: RunConfig, name: str) -> dict[str, Any]:
    facts = model_facts(config, name)
    return {"model": name, "epochs_trained": len(facts["epochs"])} | {
        key: facts[key]
        for key in ("validation", "sha256", "parameters", "parameters_without_item_tables", "item_table_bytes", "bytes")
    }


def _kind(teacher: TeacherConfig) -> str:
    """A text that is equal for teachers that differ only in name, seed and weight."""
    return teacher.model_dump_json(exclude={"name", "seed", "weight"})


def best_kind(kinds: dict[str, str], scores: dict[str, float]) -> list[str]:
    """The teachers of the kind with the best mean validation score. Of equal kinds the first wins."""
    members = defaultdict(list)
    for name, kind in kinds.items():
        members[kind].append(name)
    return max(members.values(), key=lambda names: sum(scores[name] for name in names) / len(names))


def read_selection(config: RunConfig, name: str) -> dict[str, Any]:
    """The published record, with a `folder` added to each model.

    Raises:
      InputError: there is no record. Nothing may be measured on test items before the choices are recorded.
      ModelError: a model has another hash than the record.
    """
    table = f"benchmark_selection/{name}"
    if partitions.read_manifest(config.root, table, config.day) is None:
        raise InputError(
            f"no record of what was selected for the benchmark {name} on {config.day} under {config.root}."
            " Run `distilrec benchmark`"
        )
    record = json.loads((partitions.current(config.root, table, config.day) / FILE).read_text())
    for label, entry in [*record["students"].items(), *record["teachers"].items()]:
        folder = partitions.current(config.root, entry["model"], config.day)
        found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if found != entry["sha256"]:
            raise ModelError(
                f"{label} is not the model that was selected: the record has the hash {entry['sha256'][:12]}…,"
                f" {folder} has {found[:12]}…. Run `distilrec benchmark` again, which first writes a new record"
            )
        entry["folder"] = str(folder)
    return record
