"""Compute a benchmark's figures from the published selection and ranks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.ranks import EXPECTED, named
from jobs.benchmark.selection import read_selection
from jobs.benchmark.students import model_facts
from jobs.runtime.oracle import BEST, knows_the_truth
from jobs.runtime.published import Features
from jobs.runtime.rank_targets import training_counts
from kdlib.config.benchmark import Benchmark
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.metrics.comparison import (
    TEACHER,
    K,
    bucketed_ndcg,
    compare,
    history_buckets,
    new_item_recall,
    popularity_buckets,
    realised,
)
from kdlib.metrics.ranking import ndcg
from kdlib.store import partitions
from kdlib.store.partitions import Manifest


class _Found(NamedTuple):
    """The published ranks, in memory."""

    table: pa.Table
    """One row for each test user."""
    ranks: dict[str, np.ndarray]
    """Model → int64 [users]."""
    values: Mapping[str, Mapping[str, np.ndarray]]
    """Metric → model → value of each user: expected under the true model if it is known, else realised."""
    users_with_truth: int | None
    """None: the true model is not known."""


def _read(config: RunConfig, table: str) -> _Found:
    found = pq.read_table(partitions.current(config.root, table, config.day))
    expected = {
        metric: {name: found[f"{column}/{name}"].to_numpy() for name in named(found, f"{column}/")}
        for metric, column in zip(("ndcg10", "hr10"), EXPECTED.values(), strict=True)
    }
    known, everyone = knows_the_truth(config), len(found)
    found = found.filter(pa.array(found["target"].to_numpy() >= 0))
    ranks = {name: found[f"rank/{name}"].to_numpy() for name in named(found, "rank/")}
    return _Found(found, ranks, expected if known else realised(ranks), everyone if known else None)


def _scores(found: _Found, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """One model's test metrics, and the validation metrics that chose it."""
    scores = {metric: of_metric[name] for metric, of_metric in found.values.items()}
    scores |= {} if found.users_with_truth is None else {"realised_ndcg10": ndcg(found.ranks[name], K)}
    kept = {key: entry[key] for key in ("validation", "epochs_trained", "sha256")}
    return {metric: round(float(one.mean()), 5) for metric, one in scores.items()} | kept


def _models(labels: dict[str, list[str]], chosen: dict[str, Any], ranked: Manifest, main: str) -> dict[str, Any]:
    """Size and speed of each variant's students."""
    sizes = ("parameters", "bytes", "item_table")
    return {
        name: {"seeds": len(ones), "main": name == main, "users_per_second": ranked.details["users_per_second"][name]}
        | {key: value for key, value in chosen["students"][ones[0]].items() if key.startswith(sizes)}
        for name, ones in labels.items()
    }


def _teachers(benchmark: Benchmark, found: _Found, chosen: dict[str, Any], ranked: Manifest) -> dict[str, Any]:
    return {
        name: _scores(found, f"teacher/{name}", entry)
        | {key: entry[key] for key in ("weight", "parameters", "bytes")}
        | {
            "users_per_second": ranked.details["users_per_second"].get(f"teacher/{name}"),
            "seed": model_facts(benchmark.run, entry["model"])["seed"],
            "settings": _teacher_settings(benchmark, entry["model"]),
        }
        for name, entry in chosen["teachers"].items()
    }


def results_of(benchmark: Benchmark, source: Features, ranked: Manifest) -> dict[str, Any]:
    """Figures, intervals and their origin, from the published selection and ranks."""
    config, main, tuning = benchmark.run, benchmark.config.main, benchmark.config.tuning
    chosen, found = read_selection(config, benchmark.config.name), _read(config, ranked.table)
    labels: dict[str, list[str]] = {}
    for label, entry in chosen["students"].items():
        labels.setdefault(entry["arm"], []).append(label)
    groups = {name: [name] for name in ("popularity", "markov", BEST) if name in found.ranks}
    groups |= {"teacher_single": [f"teacher/{name}" for name in chosen["best_teacher_kind"]], TEACHER: [TEACHER]}
    members = (groups | labels).items()
    ranks = {name: np.stack([found.ranks[one] for one in ones]) for name, ones in members}
    values = {
        metric: {name: np.stack([of_metric[one] for one in ones]) for name, ones in members}
        for metric, of_metric in found.values.items()
    }
    arms = benchmark.arms(chosen["tuning"])
    plain = {name: arm.plain for name, arm in arms.items() if arm.plain in labels}
    taught = [name for name in plain if arms[name].teacher == "ensemble"]
    gaps = {name: "gap_closed" if name == main else f"{name}_gap_closed" for name in taught}
    drawn = {"samples": config.evaluation.bootstrap_samples, "seed": config.seed}
    figures, intervals = compare(values, plain=plain, gaps=gaps, **drawn)
    if found.users_with_truth is not None:
        figures |= {f"{name}_realised_ndcg10": float(one.mean()) for name, one in realised(ranks)["ndcg10"].items()}
    by_popularity = popularity_buckets(training_counts(source), found.table["target"].to_numpy())
    new = new_item_recall(ranks, by_popularity.get("new", np.zeros(len(found.table), bool)), **drawn)
    figures, intervals = figures | new.means, intervals | new.intervals
    models = _models(labels, chosen, ranked, main)
    if main in models:
        figures |= {f"{n}_size_ratio": models[main]["bytes"] / m["bytes"] for n, m in models.items() if n != main}
    peers = peers_of(benchmark, source, ranked.details["users"])
    buckets = {
        "history_length": history_buckets(found.table["length"].to_numpy()),
        "target_popularity": by_popularity,
    }
    rounded = {name: [round(low, 5), round(high, 5)] for name, (low, high) in intervals.items()}
    return {
        "protocol": _protocol(config, found.users_with_truth or 0),
        "test_users": ranked.details["users"],
        "repeats_left_out": ranked.details["repeats_left_out"],
        **({} if found.users_with_truth is None else {"users_with_truth": found.users_with_truth}),
        "figures": {name: round(value, 5) for name, value in figures.items()} | peers["figures"],
        "intervals": rounded | peers["intervals"],
        "intervals_are": "95%, bootstrap over users, and over seeds where there are several",
        "models": models,
        "teachers": _teachers(benchmark, found, chosen, ranked),
        "per_seed": {label: _scores(found, label, entry) for label, entry in chosen["students"].items()},
        "selection": {
            "by": "validation NDCG@10, written down before the test users were read",
            "version": ranked.inputs[f"benchmark_selection/{benchmark.config.name}"],
            "best_teacher_kind": chosen["best_teacher_kind"],
            "tuning": tuning and {"chosen": chosen["tuning"], **tuning.model_dump(mode="json")},
        },
        "buckets": {name: bucketed_ndcg(ranks, of) for name, of in buckets.items()},
        "peers": peers["facts"],
    }


def _protocol(config: RunConfig, users: int) -> str:
    """How the figures were measured. A figure's name says where it differs."""
    how = f"{config.features.split.kind} split, all items but the user's history ranked"
    if knows_the_truth(config):
        return f"{how}, expected over the true model's next items of {users} users; realised_…: one target a test user"
    return f"{how}, one target a user"


def _teacher_settings(benchmark: Benchmark, model: str) -> dict[str, Any]:
    teacher = next(teacher for teacher in benchmark.run.teachers if model in teacher.models)
    settings = teacher.model_dump(mode="json", exclude={"name", "weight", "seed"})
    return settings | {"train": benchmark.run.training.resolve(teacher.train).model_dump()}


def peers_of(benchmark: Benchmark, source: Features, users: int) -> dict[str, dict[str, Any]]:
    """Results of other software: figures and intervals, with the software's name in front, and the rest of its file.

    Raises:
      InputError: a file is missing, has another form, or is about other users or items.
    """
    found: dict[str, dict[str, Any]] = {"figures": {}, "intervals": {}, "facts": {}}
    ours = {"users": users, "items": source.vocabulary_facts()["vocabulary_items"]}
    for name, path in benchmark.config.peers.items():
        try:
            held = json.loads(Path(path).read_text())
            theirs = {key: held[key] for key in ours}
            for part in ("figures", "intervals"):
                found[part] |= {f"{name}_{metric}": value for metric, value in held.pop(part).items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"peers.{name}: {path} must be a JSON with users, items, figures and intervals: {error!r}"
            ) from None
        if theirs != ours:
            raise InputError(
                f"peers.{name}: {path} is about {theirs}, this benchmark about {ours}. Use results of the same split"
            )
        found["facts"][name] = held
    return found
