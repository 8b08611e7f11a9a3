"""Measure every model and baseline on the test users: all items ranked, bootstrap intervals (Ray Data)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import say, warn
from jobs.runtime.oracle import BEST, knows_the_truth, truth_of
from jobs.runtime.published import features_of
from jobs.runtime.rank_targets import histories_to_test, rank_targets, training_counts
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.teachers import ensemble, teacher_weights
from jobs.runtime.warm_start import last_model
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows, list_matrix
from kdlib.errors import ConfigError, ModelError
from kdlib.inference.recommender import check_vocabulary
from kdlib.metrics.comparison import history_buckets, popularity_buckets
from kdlib.metrics.expected import expected_metrics
from kdlib.metrics.table import by_event_type, event_mixes, metrics_table
from kdlib.store.partitions import Manifest


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The student of the last promoted run, to compare with."""
    last = last_model(config, "student")
    if last is None:
        return Found()
    run, folder, facts = last
    try:
        check_vocabulary(facts, pa.array(features_of(inputs).item_ids(), pa.string()))
    except ModelError as error:
        return Found(value=f"the model in use cannot be compared: {error}")
    return Found({"last_night": f"{run.ds}.{facts['version']}"}, folder)


def build(job: Job) -> Details:
    """Rank the test users' items under all models, and write `metrics`."""
    config, judged_k, recall_k = job.config, job.config.evaluation.judged_k, job.config.evaluation.recall_k
    if isinstance(job.found, str):
        warn(f"evaluate: warning: {job.found}")
    found = _measure(job)
    teacher = "ensemble" if "ensemble" in found.ranks else config.teachers[0].name
    table = metrics_table(
        found.ranks,
        found.coverage,
        config.evaluation.k,
        pairs=[
            ("student", "control"),
            (teacher, "control"),
            (teacher, "student"),
            ("student", "popularity"),
            ("student", "markov"),
            ("student", "last_night"),
        ],
        samples=config.evaluation.bootstrap_samples,
        seed=config.seed,
        slices={f"ndcg@{judged_k}": found.slices, f"recall@{recall_k}": by_event_type(found.target_types)},
        mixes=event_mixes(found.target_types, config.objective.event_weights, ndcg_k=judged_k, recall_k=recall_k),
        confidence=found.confidence,
        confidence_k=judged_k,
        expected=found.expected,
    )
    pq.write_table(table, job.output / "part-00000.parquet")
    return {"metrics": found.details}


class _Measured(NamedTuple):
    """What `metrics_table` is made from, and `details` for the manifest."""

    ranks: dict[str, np.ndarray]
    coverage: dict[str, float]
    slices: dict[str, np.ndarray]
    target_types: np.ndarray
    """int8 [users]."""
    confidence: dict[str, np.ndarray]
    expected: dict[str, dict[str, np.ndarray]]
    details: dict[str, Any]


def _compared(job: Job) -> dict[str, list[tuple[str, float]]]:
    """Name → (model folder, weight), for teachers and students. A cross-fitted teacher is the mean of its folds."""
    config = job.config
    teachers = [[job.input(model) for model in teacher.models] for teacher in config.teachers]
    compared = {t.name: ensemble([folders], [1.0]) for t, folders in zip(config.teachers, teachers, strict=True)}
    students = ["student", *(["control"] if config.evaluation.control else [])]
    compared |= {name: [(str(job.input(f"models/{name}")), 1.0)] for name in students}
    if isinstance(job.found, Path):
        compared["last_night"] = [(str(job.found), 1.0)]
    if len(config.teachers) > 1:
        compared["ensemble"] = ensemble(teachers, teacher_weights(config, job.inputs))
    return compared


def _measure(job: Job) -> _Measured:
    """Rank the test items under every model. For a simulated shop, also judge the lists by its true model."""
    config, source = job.config, features_of(job.inputs)
    counts, top = training_counts(source), max(job.config.evaluation.k)
    if top > len(counts):
        raise ConfigError(
            f"evaluation.k asks for the first {top} items, but the vocabulary has {len(counts)}. Set smaller values"
        )
    everyone = knows_the_truth(config)
    histories = histories_to_test(config, source, everyone=everyone)
    confidence_k = config.evaluation.judged_k
    found = rank_targets(
        config, source, histories, _compared(job), top=top, confidence_k=confidence_k, everyone=everyone
    )
    rows = evaluation_rows(histories, position_column="test_position", with_marks=everyone, everyone=everyone)
    assert found["user_id"].to_pylist() == rows.user_ids.tolist(), "both are sorted by user"
    details = {"users": int((rows.targets >= 0).sum()), "repeats_left_out": rows.repeats}
    every = [name.removeprefix("rank/") for name in found.column_names if name.startswith("rank/")]
    ranks = {name: found[f"rank/{name}"].to_numpy() for name in every}
    expected: dict[str, dict[str, np.ndarray]] = {}
    if everyone:
        lists = {name: list_matrix(found[f"top/{name}"]) for name in every}
        truth = truth_of(config, histories, source.item_ids(), rows, lists, top=top)
        expected = {name: expected_metrics(of_model, (confidence_k,)) for name, of_model in truth.probabilities.items()}
        ranks[BEST] = truth.ranks
        details["users_with_truth"] = len(rows)
    judged = np.flatnonzero(rows.targets >= 0)
    found = found.take(pa.array(judged))
    ranks = {name: of_model[judged] for name, of_model in ranks.items()}
    touched = {name: found[f"top/{name}"].combine_chunks().flatten().unique().to_numpy() for name in every}
    coverage = {name: float((items >= 0).sum() / len(counts)) for name, items in touched.items()}
    prefix = "confidence/"
    confidence = {
        name.removeprefix(prefix): found[name].to_numpy() for name in found.column_names if name.startswith(prefix)
    }
    slices = history_buckets(np.diff(rows.offsets)[judged]) | popularity_buckets(counts, rows.targets[judged])
    return _Measured(ranks, coverage, slices, rows.target_types[judged], confidence, expected, details)


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many users were measured."""
    details = manifests["metrics"].details
    everyone = details.get("users_with_truth")
    more = f", {everyone:,} users by the true model" if everyone else ""
    say(f"evaluate: {details['users']:,} test users{more} → {config.root / 'metrics' / f'ds={config.day}'}")
