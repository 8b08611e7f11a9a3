"""Training of text encoders on Ray Train, for recommendation and for product search."""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.runtime.ray_train import remove_checkpoints, run_workers
from jobs.runtime.stage import Job
from jobs.runtime.train_worker import train_worker
from kdlib.config.text import TextConfig
from kdlib.encoders.hugging_face import from_anywhere
from kdlib.errors import TrainingError
from kdlib.store import partitions
from kdlib.training.encoder_task import encoder_tasks
from kdlib.training.specs import ENCODER_FILE, EncoderSpec


@dataclass(frozen=True)
class EncoderData:
    """The files that every worker reads."""

    texts: str
    """A table with `item_index` and `title`."""
    statistics: str | None = None
    """A table with `num_train`; None: all pairs count the same."""
    histories: list[str] = field(default_factory=list)
    judging: str | None = None
    """A Parquet file of held-out pairs. None: pairs of the histories judge."""


def fit_encoder(job: Job, text: TextConfig, pairs: Any, data: EncoderData) -> None:
    """Train an encoder into the job's output folder. A killed run's checkpoints are resumed.

    Args:
      job: makes one model.
      text: with `adapt`.
      pairs: a Ray Dataset of `kdlib.teachers.contrastive.PAIRS_SCHEMA`. A pair has the row numbers of two texts.
      data: the files that every worker reads.
    """
    assert text.adapt is not None
    config, [name] = job.config, job.part.makes
    short = name.removeprefix("models/")
    run_name = f"{config.name}.{short}.ds={config.day}.{job.fingerprint}"
    # this folder outlives the process: a retry does not train a finished encoder again
    finished = config.root / partitions.CHECKPOINTS / f"{run_name}.models"
    finished.mkdir(parents=True, exist_ok=True)
    adapt = text.adapt.model_dump(mode="json")
    spec = EncoderSpec(
        name=short,
        base=from_anywhere(text.encoder),
        adapt=text.adapt,
        max_tokens=text.max_tokens,
        seed=config.seed,
        export=str(finished),
        metadata={"base": text.encoder, "inputs": job.versions, "adapt": adapt, "seed": config.seed},
        **asdict(data),
    )
    epochs = text.adapt.epochs + 1
    loop_config = {"spec": spec, "make_tasks": encoder_tasks}
    run_workers(config, train_worker, loop_config, pairs, name=run_name, stage="train_text_encoder", epochs=epochs)
    if not (finished / ENCODER_FILE).exists():
        raise TrainingError(f"{job.stage}: the workers ended without {short}; see the log")
    shutil.copytree(finished, job.output, dirs_exist_ok=True)
    remove_checkpoints(config, run_name)


def describe_encoder(folder: Path) -> str:
    """One line about a finished encoder."""
    facts = json.loads((folder / ENCODER_FILE).read_text())
    text = f"{facts['parameters']:,} parameters, {facts['pairs']:,} pairs, epoch {facts['epoch']} kept"
    if facts["validation_pairs"]:
        before, after = (facts["epochs"][epoch]["recall@10"] for epoch in (0, facts["epoch"]))
        text += (
            f"; recall@10 of {facts['validation_pairs']:,} held-out pairs {before:.4f} as pretrained, {after:.4f} now"
        )
    return text
