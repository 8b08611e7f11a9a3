"""Measure every model and baseline on the test users: all items ranked, intervals by bootstrap over users (Ray Data)."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import command, say
from jobs.runtime.oracle import BEST, knows_the_truth, truth_of
from jobs.runtime.published import Features, features, quality_table, teacher_weights, versions
from jobs.runtime.rank_targets import histories_to_test, rank_targets, training_counts
from jobs.runtime.step import run_step
from jobs.runtime.teachers import ensemble
from jobs.runtime.warm_start import last_model
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows, list_matrix
from kdlib.errors import ConfigError, ModelError
from kdlib.inference.recommender import check_vocabulary
from kdlib.metrics.comparison import history_buckets, popularity_buckets
from kdlib.metrics.expected import expected_metrics
from kdlib.metrics.table import metrics_table
from kdlib.store import partitions
from kdlib.store.partitions import Manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `metrics`."""
    source = features(config)
    names = ["student", *(["control"] if config.evaluation.control else [])]
    models = versions(config, *(m for t in config.teachers for m in t.models), *(f"models/{name}" for name in names))
    in_use = _last_night(config, source)
    models |= {} if in_use is None else {"last_night": in_use[1]}

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        found = _measure(config, source, names, in_use and in_use[0])
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
            slices={f"ndcg@{config.evaluation.judged_k}": found.slices},
            confidence=found.confidence,
            confidence_k=config.evaluation.judged_k,
            expected=found.expected,
        )
        pq.write_table(table, staging["metrics"] / "part-00000.parquet")
        return {"metrics": found.details}

    made = run_step(
        config,
        ("metrics",),
        settings=[
            config.evaluation.model_dump(),
            config.features.split.model_dump(),
            config.input.model_dump(mode="json"),
            teacher_weights(config),
        ],
        inputs={**source.versions, **models},
        build=build,
    )
    manifest = made["metrics"]
    everyone = manifest.details.get("users_with_truth")
    more = f", {everyone:,} users by the true model" if everyone else ""
    say(f"evaluate: {manifest.details['users']:,} test users{more} → {config.root / 'metrics' / f'ds={config.day}'}")
    return made


class _Measured(NamedTuple):
    """The input of `metrics_table`, and `details` for the manifest."""

    ranks: dict[str, np.ndarray]
    coverage: dict[str, float]
    slices: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    expected: dict[str, dict[str, np.ndarray]]
    details: dict[str, Any]


def _measure(config: RunConfig, source: Features, names: list[str], last_night: Path | None) -> _Measured:
    """Rank the test users under every model, a cross-fitted teacher as the mean of its folds; judge simulated lists exactly."""
    teachers = [[partitions.current(config.root, name, config.day) for name in t.models] for t in config.teachers]
    compared = {t.name: ensemble([folders], [1.0]) for t, folders in zip(config.teachers, teachers, strict=True)}
    compared |= {name: [(str(partitions.current(config.root, f"models/{name}", config.day)), 1.0)] for name in names}
    if last_night is not None:
        compared["last_night"] = [(str(last_night), 1.0)]
    if len(config.teachers) > 1:
        compared["ensemble"] = ensemble(teachers, teacher_weights(config))
    counts = training_counts(source)
    top = max(config.evaluation.k)
    if top > len(counts):
        raise ConfigError(
            f"evaluation.k asks for the first {top} items, but the vocabulary has {len(counts)}; set smaller values"
        )
    everyone = knows_the_truth(config)
    histories = histories_to_test(config, source, everyone=everyone)
    found = rank_targets(
        config, source, histories, compared, top=top, confidence_k=config.evaluation.judged_k, everyone=everyone
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
        ks = (config.evaluation.judged_k,)
        expected = {name: expected_metrics(of_model, ks) for name, of_model in truth.probabilities.items()}
        ranks[BEST] = truth.ranks
        details["users_with_truth"] = len(rows)
    judged = np.flatnonzero(rows.targets >= 0)
    found = found.take(pa.array(judged))
    ranks = {name: of_model[judged] for name, of_model in ranks.items()}
    touched = {name: found[f"top/{name}"].combine_chunks().flatten().unique().to_numpy() for name in every}
    coverage = {name: float((items >= 0).sum() / len(counts)) for name, items in touched.items()}
    confidence = {
        name.removeprefix("confidence/"): found[name].to_numpy()
        for name in found.column_names
        if name.startswith("confidence/")
    }
    slices = history_buckets(np.diff(rows.offsets)[judged]) | popularity_buckets(counts, rows.targets[judged])
    return _Measured(ranks, coverage, slices, confidence, expected, details)


def _last_night(config: RunConfig, source: Features) -> tuple[Path, str] | None:
    """Folder and version of the student of the last promoted night before this one; None where there is none to compare."""
    last = last_model(config, "student")
    if last is None:
        return None
    night, folder, facts = last
    try:
        check_vocabulary(facts, pa.array(source.item_ids(), pa.string()))
    except ModelError as error:
        say(f"evaluate: warning: the model in use cannot be compared: {error}")
        return None
    return folder, f"{night.ds}.{facts['version']}"


def main(argv: list[str] | None = None) -> int:
    def run_and_show(config: RunConfig) -> None:
        run(config)
        say(quality_table(config))

    return command("evaluate", run_and_show, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
