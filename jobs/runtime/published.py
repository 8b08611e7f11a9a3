"""Read published tables and models: features, the teachers' weights, figures to print."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.runtime.names import FEATURES
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.metrics.table import LABELS, format_distillation, format_metrics
from kdlib.models.files import MODEL_FILE
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store import partitions

REFITTED = (
    "The lists are made by the student after a second training on all days. All metrics are the student's before it."
)


@dataclass(frozen=True)
class Features:
    """The feature tables that models are made from."""

    histories: Path
    vocabulary: Path
    statistics: Path
    versions: dict[str, str]

    def item_ids(self) -> list[str]:
        """All item ids in index order."""
        table = pq.read_table(self.vocabulary, columns=["item_index", "item_id"])
        return table.sort_by("item_index")["item_id"].to_pylist()

    def vocabulary_facts(self) -> dict[str, Any]:
        """Metadata that tells which vocabulary a model was trained on."""
        ids = self.item_ids()
        return {
            "vocabulary_items": len(ids),
            "vocabulary_hash": vocabulary_hash(ids),
            "vocabulary_version": self.versions["item_vocabulary"],
        }


def features_of(inputs: Mapping[str, Input]) -> Features:
    """The feature tables among a stage's inputs."""
    folders = [inputs[name].folder for name in FEATURES]
    return Features(*folders, versions={name: inputs[name].version for name in FEATURES})


def user_columns(config: RunConfig, inputs: Mapping[str, Input], names: Iterable[str]) -> dict[str, int]:
    """Features of the users → their columns in `user_values` of the histories, as the vocabulary's manifest tells.

    Raises:
      InputError: the histories lack a feature, because they were made under another run config.
    """
    codings = inputs["item_vocabulary"].manifest.details.get("user_values", [])
    columns = [(one["feature"], one["kind"]) for one in codings]
    wanted = {name: (name, config.user_features[name]) for name in names}
    if missing := [name for name, column in wanted.items() if column not in columns]:
        raise InputError(
            f"a model reads the user feature {missing[0]}, but no model of the run config that made the histories of"
            f" {inputs['histories'].manifest.ds} reads it, so they lack its values. Name it in student.user_features of that"
            " run config too, and run build-features again"
        )
    return {name: columns.index(column) for name, column in wanted.items()}


def features(config: RunConfig) -> Features:
    """The features that are published for the run's date; InputError where there are none."""
    return features_of(published(config, *FEATURES))


def published(config: RunConfig, *names: str) -> dict[str, Input]:
    """Name → folder and manifest of what is published for the run's date; InputError where one is missing."""
    return {
        name: Input(
            partitions.linked(config.root, name, config.day), partitions.manifest_of(config.root, name, config.day)
        )
        for name in names
    }


def versions(config: RunConfig, *names: str) -> dict[str, str]:
    """Name → version of published partitions; InputError where one is missing."""
    return {name: partitions.manifest_of(config.root, name, config.day).version for name in names}


def describe_models(config: RunConfig, names: Iterable[str]) -> str:
    """Version, size and validation metrics of published models, one line for each."""
    parts = []
    for name in names:
        facts = json.loads((partitions.current(config.root, name, config.day) / MODEL_FILE).read_text())
        scores, size = facts["validation"], facts["options"].get("function")
        if facts["parameters"] is not None:
            size = f"{facts['parameters']:,} parameters, {facts['parameters_without_item_tables']:,} of them outside the item tables"
        parts.append(
            f"\n  {name.removeprefix('models/')} {facts['version']}: {size}; validation accuracy"
            f" {scores['accuracy@1']:.4f}, recall@10 {scores['recall@10']:.4f}, NDCG@10 {scores['ndcg@10']:.4f}"
        )
    return "".join(parts)


def quality_table(config: RunConfig) -> str:
    """The published metrics as text: the gain from distillation, if there is a control, then all models."""
    manifest = partitions.read_manifest(config.root, "metrics", config.day)
    assert manifest is not None
    metrics, k = pq.read_table(partitions.current(config.root, "metrics", config.day)), config.evaluation.judged_k
    teacher = config.teachers[0].name if len(config.teachers) == 1 else "ensemble"
    made_of = {"student": ["models/student"], "control": ["models/control"]}
    if all(one.is_trained for one in config.teachers):  # rules and functions have no parameters
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


def better_than_the_student(config: RunConfig) -> list[str]:
    """The baselines whose NDCG is clearly above the published student's: the whole 95% interval of the difference."""
    metrics = pq.read_table(partitions.current(config.root, "metrics", config.day)).to_pylist()
    named = {f"student - {name}": LABELS.get(name, name) for name in ("popularity", "markov")}
    metric = f"ndcg@{config.evaluation.judged_k}"
    rows = [row for row in metrics if row["metric"] == metric and row["model"] in named]
    return [named[row["model"]] for row in rows if row["high"] < 0]


def _parameters(config: RunConfig, model: str) -> int:
    return json.loads((partitions.current(config.root, model, config.day) / MODEL_FILE).read_text())["parameters"]


def parquet_files(folder: Path) -> list[str]:
    """The data files of a partition, in order."""
    return [str(file) for file in sorted(folder.glob("*.parquet"))]
