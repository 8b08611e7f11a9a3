"""Train the student once more, on all days: as many epochs as the judged student, at the same rates (Ray Train, DeepSpeed)."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.runtime.budget import within_budget
from jobs.runtime.console import say
from jobs.runtime.own_teachers import check_sources
from jobs.runtime.published import features_of, parquet_files
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.students import run_of, student_start
from jobs.runtime.teachers import recounted, teacher_folders, teacher_weights, write_targets
from jobs.runtime.train_models import checkpoints_name, fit
from kdlib.config.run import RunConfig
from kdlib.errors import ModelError
from kdlib.models.files import MODEL_FILE
from kdlib.store import partitions
from kdlib.store.mirror import drop
from kdlib.store.partitions import Manifest
from kdlib.training.specs import TrainingRun


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The model that the judged student started from, with a warm start."""
    return student_start(config, "student", inputs)


def build(job: Job) -> Details:
    """Write the teachers' targets at all positions, and train the student from them. In joint mode no targets are needed."""
    config, source, joint = job.config, features_of(job.inputs), job.config.distillation.mode == "joint"
    judged = json.loads((job.input("models/student") / MODEL_FILE).read_text())
    run = as_judged(run_of(job, "refit"), judged)
    files = parquet_files(source.histories if joint else _targets(job))
    [run] = within_budget(config, [run], "refit")
    fit(
        config,
        "refit",
        [run],
        fingerprints=[job.fingerprint],
        train_files=files,
        histories=source.histories,
        from_histories=joint,
        facts=source.vocabulary_facts() | {"refit": True, "judged": judged["version"]},
        whole=True,
    )
    return {}


def as_judged(run: TrainingRun, judged: Mapping[str, Any]) -> TrainingRun:
    """The run with the size, the epochs and the learning rates of the judged student, up to its best epoch.

    Args:
      run: of the run config's student.
      judged: the content of the judged student's `model.json`.

    Raises:
      ModelError: an earlier version of distilrec has trained the judged student.
    """
    epochs = judged["validation"]["epoch"]
    lines = judged["epochs"][:epochs]
    if any("learning_rate" not in line for line in lines):
        raise ModelError(
            "models/student does not say at which learning rates it was trained, because an earlier version of distilrec"
            " has trained it. Run `distilrec distill` first"
        )
    model = run.model.model_copy(update={name: judged["options"][name] for name in ("dim", "hidden")})
    train = run.train.model_copy(update={"epochs": epochs})
    return replace(run, model=model, train=train, learning_rates=tuple(line["learning_rate"] for line in lines))


def _targets(job: Job) -> Path:
    """The teachers' targets at all positions. They lie beside the checkpoints, which a killed run goes on from."""
    config, source = job.config, features_of(job.inputs)
    kept = config.root / partitions.CHECKPOINTS / f"{checkpoints_name(config, job.stage, [job.fingerprint])}.targets"
    if not kept.exists():
        folders = teacher_folders(config, job.inputs, source.vocabulary_facts()["vocabulary_hash"])
        check_sources(config, folders)
        rules = partitions.new_staging(config.root, "refit_rules", config.day)
        made = partitions.new_staging(config.root, "refit_targets", config.day)
        teachers = recounted(config, source, folders, rules)
        write_targets(config, source, teachers, teacher_weights(config, job.inputs), made, whole=True)
        drop(rules)
        shutil.rmtree(rules)
        kept.parent.mkdir(parents=True, exist_ok=True)
        made.rename(kept)
    return kept


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how long the student was trained."""
    facts = json.loads((partitions.current(config.root, "models/refit", config.day) / MODEL_FILE).read_text())
    epochs, positions = facts["validation"]["epoch"], facts["epochs"][-1]["positions"]
    say(
        f"refit: {facts['version']}, the student {facts['judged']} trained again on all days: {epochs} epochs of"
        f" {positions:,.0f} positions"
    )
