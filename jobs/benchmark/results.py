"""Measure a benchmark's recorded selection on the test users, and put the figures together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.selection import read_selection
from jobs.benchmark.students import model_facts
from jobs.runtime.oracle import BEST, knows_the_truth, truth_of
from jobs.runtime.published import Features
from jobs.runtime.rank_targets import histories_to_test, rank_targets, training_counts
from jobs.runtime.step import run_step
from kdlib.config.benchmark import Benchmark
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows, list_matrix
from kdlib.errors import InputError
from kdlib.inference.speed import users_per_second
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
from kdlib.metrics.expected import PREFIX, expected_metrics
from kdlib.metrics.ranking import ndcg
from kdlib.models.files import serves
from kdlib.store import partitions
from kdlib.store.partitions import Manifest

EXPECTED = {f"{PREFIX}ndcg@{K}": "expected_ndcg", f"{PREFIX}hr@{K}": "expected_hr"}
"""Metric → prefix of its columns in the table of ranks."""


def rank_selected(benchmark: Benchmark, source: Features, selection: Manifest) -> Manifest:
    """Publish `benchmark_ranks/<name>`: each test target's rank under every model of the published selection."""
    config, table = benchmark.run, f"benchmark_ranks/{benchmark.config.name}"

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        chosen = read_selection(config, benchmark.config.name)
        students = {label: entry["folder"] for label, entry in chosen["students"].items()}
        teachers = {f"teacher/{name}": entry["folder"] for name, entry in chosen["teachers"].items()}
        compared = {label: [(folder, 1.0)] for label, folder in (students | teachers).items()}
        compared[TEACHER] = [(entry["folder"], entry["weight"]) for entry in chosen["teachers"].values()]
        everyone = knows_the_truth(config)
        histories = histories_to_test(config, source, everyone=everyone)
        found = rank_targets(config, source, histories, compared, top=K if everyone else 0, everyone=everyone)
        rows = evaluation_rows(histories, position_column="test_position", with_marks=everyone, everyone=everyone)
        assert found["user_id"].to_pylist() == rows.user_ids.tolist(), "both are sorted by user"
        columns = {"user_id": found["user_id"], "target": rows.targets, "length": np.diff(rows.offsets)}
        columns |= {f"rank/{name}": found[f"rank/{name}"] for name in _named(found, "rank/")}
        if everyone:
            lists = {name: list_matrix(found[f"top/{name}"]) for name in _named(found, "top/")}
            truth = truth_of(config, histories, source.item_ids(), rows, lists, top=K)
            columns[f"rank/{BEST}"] = truth.ranks
            for name, probabilities in truth.probabilities.items():
                expected = expected_metrics(probabilities, (K,))
                columns |= {f"{column}/{name}": expected[metric] for metric, column in EXPECTED.items()}
        pq.write_table(pa.table(columns), staging[table] / "part-00000.parquet")
        one_each = {entry["arm"]: entry["folder"] for entry in reversed(chosen["students"].values())} | {
            name: folder for name, folder in teachers.items() if serves(Path(folder))
        }
        speed = users_per_second(one_each, rows, users=benchmark.config.speed_users, k=config.recommend.k)
        judged = int((rows.targets >= 0).sum())
        return {table: {"users": judged, "repeats_left_out": rows.repeats, "users_per_second": speed}}

    settings = [config.evaluation.max_users, benchmark.config.speed_users, config.recommend.k]
    inputs = source.versions | {"selection": selection.version}
    return run_step(config, (table,), settings=settings, inputs=inputs, build=build)[table]


def results_of(benchmark: Benchmark, source: Features, ranked: Manifest) -> dict[str, Any]:
    """Figures, intervals and what they come from, out of the published selection and ranks."""
    config, main = benchmark.run, benchmark.config.main
    chosen = read_selection(config, benchmark.config.name)
    found = pq.read_table(partitions.current(config.root, ranked.table, config.day))
    known = knows_the_truth(config)
    expected = {
        metric: {name: found[f"{column}/{name}"].to_numpy() for name in _named(found, f"{column}/")}
        for metric, column in zip(("ndcg10", "hr10"), EXPECTED.values(), strict=True)
    }
    users_with_truth = len(found)
    found = found.filter(pa.array(found["target"].to_numpy() >= 0))
    per_model = {name: found[f"rank/{name}"].to_numpy() for name in _named(found, "rank/")}
    labels: dict[str, list[str]] = {}
    for label, entry in chosen["students"].items():
        labels.setdefault(entry["arm"], []).append(label)
    groups = {name: [name] for name in ("popularity", "markov", BEST) if name in per_model}
    groups |= {"teacher_single": [f"teacher/{name}" for name in chosen["best_teacher_kind"]], TEACHER: [TEACHER]}
    members = (groups | labels).items()
    ranks = {name: np.stack([per_model[one] for one in ones]) for name, ones in members}
    of_model = expected if known else realised(per_model)
    values = {
        metric: {name: np.stack([of_metric[one] for one in ones]) for name, ones in members}
        for metric, of_metric in of_model.items()
    }
    arms = benchmark.arms(chosen["tuning"])
    plain = {name: arm.plain for name, arm in arms.items() if arm.plain in labels}
    taught = [name for name in plain if arms[name].teacher == "ensemble"]
    gaps = {name: "gap_closed" if name == main else f"{name}_gap_closed" for name in taught}
    drawn = {"samples": config.evaluation.bootstrap_samples, "seed": config.seed}
    figures, intervals = compare(values, plain=plain, gaps=gaps, **drawn)
    if known:
        figures |= {f"{name}_realised_ndcg10": float(one.mean()) for name, one in realised(ranks)["ndcg10"].items()}

    def scores(name: str, entry: dict[str, Any]) -> dict[str, Any]:
        """One model's test metrics beside the validation that it was chosen by."""
        found = {metric: of_metric[name] for metric, of_metric in of_model.items()}
        found |= {"realised_ndcg10": ndcg(per_model[name], K)} if known else {}
        kept = {key: entry[key] for key in ("validation", "epochs_trained", "sha256")}
        return {metric: round(float(one.mean()), 5) for metric, one in found.items()} | kept

    by_popularity = popularity_buckets(training_counts(source), found["target"].to_numpy())
    new = new_item_recall(ranks, by_popularity.get("new", np.zeros(len(found), bool)), **drawn)
    figures, intervals = figures | new.means, intervals | new.intervals
    models = {
        name: {"seeds": len(ones), "main": name == main, "users_per_second": ranked.details["users_per_second"][name]}
        | {
            key: value
            for key, value in chosen["students"][ones[0]].items()
            if key.startswith(("parameters", "bytes", "item_table"))
        }
        for name, ones in labels.items()
    }
    if main in models:
        figures |= {f"{n}_size_ratio": models[main]["bytes"] / m["bytes"] for n, m in models.items() if n != main}
    peers = _peers(benchmark, source, ranked.details["users"])
    buckets = {
        "history_length": history_buckets(found["length"].to_numpy()),
        "target_popularity": by_popularity,
    }
    return {
        "protocol": _protocol(config, users_with_truth),
        "test_users": ranked.details["users"],
        "repeats_left_out": ranked.details["repeats_left_out"],
        **({"users_with_truth": users_with_truth} if known else {}),
        "figures": {name: round(value, 5) for name, value in figures.items()} | peers["figures"],
        "intervals": {name: [round(low, 5), round(high, 5)] for name, (low, high) in intervals.items()}
        | peers["intervals"],
        "intervals_are": "95%, bootstrap over users, and over seeds where there are several",
        "models": models,
        "teachers": {
            name: scores(f"teacher/{name}", entry)
            | {"weight": entry["weight"], "parameters": entry["parameters"], "bytes": entry["bytes"]}
            | {"users_per_second": ranked.details["users_per_second"].get(f"teacher/{name}")}
            | {
                "seed": model_facts(config, entry["model"])["seed"],
                "settings": _teacher_settings(benchmark, entry["model"]),
            }
            for name, entry in chosen["teachers"].items()
        },
        "per_seed": {label: scores(label, entry) for label, entry in chosen["students"].items()},
        "selection": {
            "by": "validation NDCG@10, written down before the test users were read",
            "version": ranked.inputs["selection"],
            "best_teacher_kind": chosen["best_teacher_kind"],
            "tuning": None
            if benchmark.config.tuning is None
            else {"chosen": chosen["tuning"], **benchmark.config.tuning.model_dump(mode="json")},
        },
        "buckets": {name: bucketed_ndcg(ranks, of) for name, of in buckets.items()},
        "peers": peers["facts"],
    }


def _protocol(config: RunConfig, users: int) -> str:
    """How the figures were measured, unless their name says otherwise."""
    how = f"{config.features.split.kind} split, all items but the user's history ranked"
    if knows_the_truth(config):
        return f"{how}, expected over the true model's next items of {users} users; realised_…: one target a test user"
    return f"{how}, one target a user"


def _named(found: pa.Table, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in found.column_names if name.startswith(prefix)]


def _teacher_settings(benchmark: Benchmark, model: str) -> dict[str, Any]:
    teacher = next(teacher for teacher in benchmark.run.teachers if model in teacher.models)
    settings = teacher.model_dump(mode="json", exclude={"name", "weight", "seed"})
    return settings | {"train": benchmark.run.training.resolve(teacher.train).model_dump()}


def _peers(benchmark: Benchmark, source: Features, users: int) -> dict[str, dict[str, Any]]:
    """Other software's results: their figures and intervals under its names, and what else their files say.

    Raises:
      InputError: a file is missing, is not of that form, or is about other users or items.
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
            raise InputError(f"peers.{name}: {path} is about {theirs}, this benchmark about {ours}: not the same split")
        found["facts"][name] = held
    return found
