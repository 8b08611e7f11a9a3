"""The published tables and models that the training and serving stages start from, looked up and checked once."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError
from kdlib.metrics.table import format_distillation, format_metrics
from kdlib.models.files import MODEL_FILE
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store import partitions


@dataclass(frozen=True)
class Features:
    """The published features of one date."""

    histories: Path
    vocabulary: Path
    statistics: Path
    versions: dict[str, str]

    def item_ids(self) -> list[str]:
        """All item ids in index order."""
        table = pq.read_table(self.vocabulary, columns=["item_index", "item_id"])
        return table.sort_by("item_index")["item_id"].to_pylist()

    def vocabulary_facts(self) -> dict[str, Any]:
        """What a model's facts say of the vocabulary it was trained on."""
        ids = self.item_ids()
        return {
            "vocabulary_items": len(ids),
            "vocabulary_hash": vocabulary_hash(ids),
            "vocabulary_version": self.versions["item_vocabulary"],
        }


def features(config: RunConfig) -> Features:
    """The features of the run's date; InputError where they are not published."""
    names = ("histories", "item_vocabulary", "item_statistics")
    folders = [partitions.current(config.root, name, config.day) for name in names]
    return Features(*folders, versions=versions(config, *names))


def versions(config: RunConfig, *names: str) -> dict[str, str]:
    """Name → version of published partitions; InputError for one that is missing."""
    return {name: partitions.manifest_of(config.root, name, config.day).version for name in names}


def target_settings(config: RunConfig) -> dict[str, Any]:
    """All of the config that the cached targets depend on, ready for JSON."""
    return {
        "form": config.distillation.cached_form,
        "weights": config.distillation.weights,
        "max_length": config.training.max_length,
        "seed": config.seed,
        "teachers": [{"name": t.name, "weight": t.weight, "folds": t.folds} for t in config.teachers],
    }


def teacher_weights(config: RunConfig) -> list[float]:
    """The teachers' shares in the averaged probabilities, of sum 1, in the config's order, as `cache_teacher` set them.

    Raises:
      ConfigError: the cached targets were made by other settings than the config's.
      InputError: they were made from other teachers or histories than are published now.
    """
    if config.distillation.mode == "joint":
        return [1.0]
    manifest = partitions.manifest_of(config.root, "teacher_targets", config.day)
    made_by, wanted = manifest.details["settings"], target_settings(config)
    if other := [name for name, value in wanted.items() if made_by[name] != value]:
        differ = "; ".join(f"{name} {made_by[name]}, the config asks for {wanted[name]}" for name in other)
        raise ConfigError(
            f"teacher_targets of {config.day} were made with {differ}: run `distilrec cache-teacher` for this date again"
        )
    check_made_from(
        config, "teacher_targets", "cache-teacher", {"histories", *(m for t in config.teachers for m in t.models)}
    )
    return [manifest.details["teachers"][teacher.name] for teacher in config.teachers]


def check_made_from(config: RunConfig, table: str, job: str, parts: Collection[str]) -> None:
    """InputError where a published table was made from another version of one of the parts than is published now.

    Args:
      config: the run config.
      table: or model.
      job: that makes it.
      parts: names of tables and models; those that it was not made from are passed over.
    """
    for part, version in partitions.manifest_of(config.root, table, config.day).inputs.items():
        if part in parts and (now := versions(config, part)[part]) != version:
            raise InputError(
                f"{table} of {config.day} was made from {part} {version}, but {now} is published now: run"
                f" `distilrec {job}` first"
            )


def describe_models(config: RunConfig, names: Sequence[str]) -> str:
    """Each published model's version, size and validation metrics, a line each."""
    parts = []
    for name in names:
        facts = json.loads((partitions.current(config.root, f"models/{name}", config.day) / MODEL_FILE).read_text())
        scores = facts["validation"]
        parts.append(
            f"\n  {name} {facts['version']}: {facts['parameters']:,} parameters,"
            f" {facts['parameters_without_item_tables']:,} of them outside the item tables; validation accuracy"
            f" {scores['accuracy@1']:.4f}, recall@10 {scores['recall@10']:.4f}, NDCG@10 {scores['ndcg@10']:.4f}"
        )
    return "".join(parts)


def quality_table(config: RunConfig) -> str:
    """The published metrics as text: first what distillation is worth, where there is a control, then all models."""
    manifest = partitions.read_manifest(config.root, "metrics", config.day)
    assert manifest is not None
    metrics, k = pq.read_table(partitions.current(config.root, "metrics", config.day)), config.evaluation.judged_k
    teacher = config.teachers[0].name if len(config.teachers) == 1 else "ensemble"
    made_of = {"student": ["models/student"], "control": ["models/control"]}
    if not any(one.rules for one in config.teachers):  # a rule is no parameter
        made_of[teacher] = [name for one in config.teachers for name in one.models]
    sizes = {
        name: sum(_parameters(config, model) for model in models)
        for name, models in made_of.items()
        if all(partitions.read_manifest(config.root, model, config.day) for model in models)
    }
    return "\n".join(
        part
        for part in (
            format_distillation(metrics, sizes, teacher=teacher, k=k),
            f"quality   {manifest.details['users']:,} test users, one next item each, all items ranked"
            f" ({manifest.details['repeats_left_out']:,} left out: their next item was not new to them)",
            format_metrics(metrics, k=k),
        )
        if part
    )


def _parameters(config: RunConfig, model: str) -> int:
    return json.loads((partitions.current(config.root, model, config.day) / MODEL_FILE).read_text())["parameters"]


def parquet_files(folder: Path) -> list[str]:
    """The data files of a partition, in order."""
    return [str(file) for file in sorted(folder.glob("*.parquet"))]
