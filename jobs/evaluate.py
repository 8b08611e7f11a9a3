"""Measure every model and baseline on the test users: all items ranked, bootstrap intervals (Ray Data)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.compared import compared_models
from jobs.runtime.console import say, warn
from jobs.runtime.item_facts import items_of
from jobs.runtime.oracle import BEST, knows_the_truth, truth_of
from jobs.runtime.published import features_of
from jobs.runtime.rank_targets import histories_to_test, rank_targets, rows_to_test, training_counts
from jobs.runtime.rule_costs import ruled_lists, user_segments
from jobs.runtime.stage import Details, Found, Input, Job, Part
from jobs.runtime.warm_start import last_model
from kdlib.config.run import RunConfig
from kdlib.data.windows import list_matrix
from kdlib.errors import ConfigError, ModelError
from kdlib.inference.recommender import check_vocabulary
from kdlib.metrics.beyond import beyond_table
from kdlib.metrics.comparison import history_buckets, popularity_buckets
from kdlib.metrics.expected import expected_metrics
from kdlib.metrics.table import WITH_RULES, WITHOUT, by_event_type, event_mixes, metrics_table
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
    config, recall_k = job.config, job.config.evaluation.recall_k
    if isinstance(job.found, str):
        warn(f"evaluate: warning: {job.found}")
    found, k = _measure(job), config.evaluation.judged_k
    resamples = {"samples": config.evaluation.bootstrap_samples, "seed": config.seed}
    teacher = "ensemble" if "ensemble" in found.ranks else config.teachers[0].name
    accuracy = metrics_table(
        found.ranks,
        config.evaluation.k,
        pairs=[
            ("student", "control"),
            (teacher, "control"),
            (teacher, "student"),
            ("student", "popularity"),
            ("student", "markov"),
            ("student", "last_night"),
            *((name, WITH_RULES) for name in found.ranks if name.startswith(WITHOUT)),
        ],
        slices={f"ndcg@{k}": found.slices, f"recall@{recall_k}": by_event_type(found.target_types)},
        mixes=event_mixes(found.target_types, config.objective.event_weights, ndcg_k=k, recall_k=recall_k),
        confidence=found.confidence,
        confidence_k=k,
        expected=found.expected,
        **resamples,
    )
    items = items_of(config, features_of(job.inputs), job.input("models/student"))
    beyond = beyond_table(found.lists, items, k=k, segments=found.segments, **resamples)
    pq.write_table(pa.concat_tables([accuracy, beyond]), job.output / "part-00000.parquet")
    return {"metrics": found.details}


class _Measured(NamedTuple):
    """What the tables of metrics are made from, and `details` for the manifest."""

    ranks: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    slices: dict[str, np.ndarray]
    segments: dict[str, np.ndarray]
    target_types: np.ndarray
    confidence: dict[str, np.ndarray]
    expected: dict[str, dict[str, np.ndarray]]
    details: dict[str, Any]


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
    found = rank_targets(
        config,
        source,
        histories,
        compared_models(job),
        top=top,
        confidence_k=config.evaluation.judged_k,
        everyone=everyone,
        ruled=ruled_lists(config, job.inputs),
    )
    rows = rows_to_test(config, histories, everyone=everyone)
    assert found["user_id"].to_pylist() == rows.user_ids.tolist(), "both are sorted by user"
    details = {
        "users": int((rows.targets >= 0).sum()),
        "repeats_left_out": rows.repeats,
        "new_item_days": config.evaluation.new_item_days,
    }
    every = [name.removeprefix("rank/") for name in found.column_names if name.startswith("rank/")]
    ranks = {name: found[f"rank/{name}"].to_numpy() for name in every}
    lists = {name: list_matrix(found[f"top/{name}"], top) for name in every}
    expected: dict[str, dict[str, np.ndarray]] = {}
    if everyone:
        truth = truth_of(config, histories, source.item_ids(), rows, lists, top=top)
        expected = {
            name: expected_metrics(of_model, (config.evaluation.judged_k,))
            for name, of_model in truth.probabilities.items()
        }
        ranks[BEST] = truth.ranks
        details["users_with_truth"] = len(rows)
    judged = np.flatnonzero(rows.targets >= 0)
    found = found.take(pa.array(judged))
    ranks = {name: of_model[judged] for name, of_model in ranks.items()}
    lists = {name: of_model[judged] for name, of_model in lists.items()}
    prefix = "confidence/"
    confidence = {
        name.removeprefix(prefix): found[name].to_numpy() for name in found.column_names if name.startswith(prefix)
    }
    segments = history_buckets(np.diff(rows.offsets)[judged])
    segments |= user_segments(config, job.inputs, rows.user_ids[judged])
    slices = segments | popularity_buckets(counts, rows.targets[judged])
    return _Measured(ranks, lists, slices, segments, rows.target_types[judged], confidence, expected, details)


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many users were measured."""
    details = manifests["metrics"].details
    everyone = details.get("users_with_truth")
    more = f", {everyone:,} users by the true model" if everyone else ""
    say(f"evaluate: {details['users']:,} test users{more} → {config.place('metrics')}")
