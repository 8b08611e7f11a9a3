"""Train the text encoders in-domain, on titles of items that follow each other (Ray Data, Ray Train, DeepSpeed)."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from jobs.runtime.console import command, say
from jobs.runtime.published import Features, features, parquet_files
from jobs.runtime.ray_cluster import read_parquet, start_ray
from jobs.runtime.ray_train import remove_checkpoints, run_workers
from jobs.runtime.step import code_version, run_step
from jobs.runtime.train_worker import train_worker
from kdlib.config.models import TextConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, TrainingError
from kdlib.store import partitions
from kdlib.store.partitions import Manifest
from kdlib.teachers.contrastive import training_pairs
from kdlib.teachers.text import encoder_folder, encoder_version, from_anywhere
from kdlib.training.specs import ENCODER_FILE, EncoderSpec


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `models/encoder_<hash>` for each teacher's and the student's text encoder that is to be adapted."""
    readers = [*config.teachers, config.student]
    texts = [reader.text for reader in readers if reader.text and reader.text.adapt]
    if not texts:
        raise ConfigError("no encoder to train: no teacher, nor the student, has text.adapt (`text: {adapt: {}}`)")
    made: dict[str, Manifest] = {}
    source = features(config)  # before Ray starts: what is missing is said at once
    with start_ray(config):
        for text in {encoder_name(text): text for text in texts}.values():
            made |= train_encoder(config, source, text)
    return made


def encoder_name(text: TextConfig) -> str:
    """The output of an adapted encoder: texts that are only whitened or batched differently share it."""
    assert text.adapt is not None
    settings = text.model_dump(mode="json", include={"encoder", "max_tokens", "adapt"})
    return f"models/encoder_{partitions.fingerprint_of(settings)[:8]}"


def encoder_and_version(config: RunConfig, source: Features, text: TextConfig) -> tuple[str, str]:
    """What `TitleEncoder` shall load, trained first where `text.adapt` says so, and the version of its content."""
    if text.adapt:
        [(name, manifest)] = train_encoder(config, source, text).items()
        return str(partitions.current(config.root, name, config.day)), manifest.version
    return from_anywhere(text.encoder), encoder_version(encoder_folder(text.encoder))


def train_encoder(config: RunConfig, source: Features, text: TextConfig) -> dict[str, Manifest]:
    """Train one encoder, unless it is up to date; output name → manifest."""
    assert text.adapt is not None
    name, base, histories = encoder_name(text), encoder_folder(text.encoder).absolute(), parquet_files(source.histories)
    inputs = source.versions | {"encoder": encoder_version(base)}
    adapt = text.adapt.model_dump(mode="json")
    settings = [config.seed, text.max_tokens, adapt, config.training.model_dump(mode="json", exclude={"defaults"})]

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        pairs = read_parquet(histories).select_columns(["item_indices", "num_train"])
        fit_encoder(
            config,
            name,
            staging[name],
            text,
            pairs.map_batches(training_pairs, batch_format="pyarrow", batch_size=None),
            {
                "texts": str(source.vocabulary),
                "statistics": str(source.statistics),
                "histories": histories,
                "judging": None,
            },
            settings=settings,
            inputs=inputs,
        )
        return {}

    made = run_step(config, (name,), settings=settings, inputs=inputs, build=build)
    say(f"train_text_encoder: {describe_encoder(partitions.current(config.root, name, config.day))}")
    return made


def fit_encoder(
    config: RunConfig,
    name: str,
    export: Path,
    text: TextConfig,
    pairs: Any,
    data: dict[str, Any],
    *,
    settings: Any,
    inputs: dict[str, str],
) -> None:
    """Train an encoder on Ray Train; a killed run's checkpoints are taken up.

    Args:
      config: the run config.
      name: `models/…`, of the output.
      export: folder for the finished encoder.
      text: with `adapt`.
      pairs: Ray Data of `kdlib.teachers.contrastive.PAIRS_SCHEMA`: numbers of rows of the texts.
      data: `texts`, a table with `item_index` and `title`; `statistics`, one with `num_train`, or None where all pairs
        count the same; `judging`, a Parquet file of held-out pairs, or None where those of the `histories` judge.
      settings, inputs: all that the weights depend on.
    """
    assert text.adapt is not None
    short, key = name.removeprefix("models/"), partitions.fingerprint_of(settings, inputs, data, code_version())
    run_name = f"{config.name}.{short}.ds={config.day}.{key}"
    finished = (
        config.root / partitions.CHECKPOINTS / f"{run_name}.models"
    )  # a worker's place that outlives this process
    finished.mkdir(parents=True, exist_ok=True)
    adapt = text.adapt.model_dump(mode="json")
    spec = EncoderSpec(
        name=short,
        base=from_anywhere(text.encoder),
        adapt=text.adapt,
        max_tokens=text.max_tokens,
        seed=config.seed,
        export=str(finished),
        metadata={"base": text.encoder, "inputs": inputs, "adapt": adapt, "seed": config.seed},
        **data,
    )
    run_workers(
        config,
        train_worker,
        {"spec": spec},
        pairs,
        name=run_name,
        stage="train_text_encoder",
        epochs=text.adapt.epochs + 1,
    )
    if not (finished / ENCODER_FILE).exists():
        raise TrainingError(f"train_text_encoder: the workers ended without {short}; see the log")
    shutil.copytree(finished, export, dirs_exist_ok=True)
    remove_checkpoints(config, run_name)


def describe_encoder(folder: Path) -> str:
    """One line on a finished encoder."""
    facts = json.loads((folder / ENCODER_FILE).read_text())
    text = f"{facts['parameters']:,} parameters, {facts['pairs']:,} pairs, epoch {facts['epoch']} kept"
    if facts["validation_pairs"]:
        before, after = (facts["epochs"][epoch]["recall@10"] for epoch in (0, facts["epoch"]))
        text += (
            f"; recall@10 of {facts['validation_pairs']:,} held-out pairs {before:.4f} as pretrained, {after:.4f} now"
        )
    return text


def main(argv: list[str] | None = None) -> int:
    return command("train_text_encoder", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
