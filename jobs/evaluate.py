"""Measure every model and baseline on the test users: all items ranked, intervals by bootstrap over users (Ray Data)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs._console import command, say
from jobs._published import Features, features, parquet_files, quality_table, versions
from jobs._ray import start_ray
from jobs._step import run_step
from kdlib import publish
from kdlib.config import RunConfig
from kdlib.data.windows import read_evaluation_histories
from kdlib.errors import ConfigError, InputError
from kdlib.inference.baselines import count_transitions
from kdlib.metrics.table import metrics_table
from kdlib.publish import Manifest

ROWS = 1024
"""Users handed to an actor at once."""


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `metrics`."""
    source = features(config)
    names = [*(t.name for t in config.teachers), "student", *(["control"] if config.evaluation.control else [])]
    models = versions(config, *(f"models/{name}" for name in names))

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        ranks, coverage, details = _measure(config, source, names)
        teacher = "ensemble" if "ensemble" in ranks else config.teachers[0].name
        table = metrics_table(
            ranks, coverage, config.evaluation.k,
            pairs=[("student", "control"), (teacher, "control"), (teacher, "student"), ("student", "popularity"), ("student", "markov")],
            samples=config.evaluation.bootstrap_samples, seed=config.seed,
        )  # fmt: skip
        pq.write_table(table, staging["metrics"] / "part-00000.parquet")
        return {"metrics": details}

    made = run_step(
        config,
        ("metrics",),
        settings=[
            config.evaluation.model_dump(), config.features.split.model_dump(), config.input.model_dump(mode="json"),
            [t.weight for t in config.teachers],
        ],
        inputs={**source.versions, **models},
        build=build,
    )  # fmt: skip
    manifest = made["metrics"]
    say(f"evaluate: {manifest.details['users']:,} test users → {config.root / 'metrics' / f'ds={config.day}'}")
    return made


def _measure(
    config: RunConfig, source: Features, names: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
    """Ranks a model, coverage a model, and what to note in the manifest."""
    histories = read_evaluation_histories(
        parquet_files(source.histories), position_column="test_position", max_users=config.evaluation.max_users
    ).sort_by("user_id")
    if not len(histories):
        raise InputError(
            f"no user can be tested: the split {config.features.split.kind!r} leaves no user with a test item after earlier ones;"
            " widen features.split.test_days or take in more events"
        )
    popularity = (
        pq.read_table(source.statistics, columns=["item_index", "num_train"])
        .sort_by("item_index")["num_train"]
        .to_numpy()
    )
    top = max(config.evaluation.k)
    if top > len(popularity):
        raise ConfigError(
            f"evaluation.k asks for the first {top} items, but the vocabulary has {len(popularity)}; set smaller values"
        )
    folders = {name: str(publish.current(config.root, f"models/{name}", config.day)) for name in names}
    compared = {name: [(folder, 1.0)] for name, folder in folders.items()}
    if len(config.teachers) > 1:
        compared["ensemble"] = [(folders[t.name], t.weight) for t in config.teachers]
    with start_ray(config):
        import ray
        import ray.data

        from kdlib.inference.evaluator import Evaluator

        markov = ray.put(count_transitions(parquet_files(source.histories), popularity))
        settings = config.training
        parts = [histories.slice(start, ROWS).combine_chunks() for start in range(0, len(histories), ROWS)]
        batches = (
            ray.data.from_arrow(parts)
            .map_batches(
                _Evaluation,
                fn_constructor_args=(Evaluator, compared, markov, top, settings.threads_per_worker),
                compute=ray.data.ActorPoolStrategy(size=min(settings.workers, len(parts))),
                num_cpus=settings.cpus_per_worker,
                num_gpus=settings.gpus_per_worker,
                batch_format="pyarrow",
                batch_size=ROWS,
            )
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )
        found = pa.concat_tables(list(batches)).sort_by("user_id")
    every = [name.removeprefix("rank/") for name in found.column_names if name.startswith("rank/")]
    ranks = {name: found[f"rank/{name}"].to_numpy() for name in every}
    coverage = {name: len(found[f"top/{name}"].combine_chunks().flatten().unique()) / len(popularity) for name in every}
    details = {"users": len(found), "repeats_left_out": len(histories) - len(found)}
    if config.input.simulate is not None and config.features.split.kind == "time":
        from jobs._oracle import oracle_ranks

        ranks["best_reachable"] = oracle_ranks(config, histories, source.item_ids())
    return ranks, coverage, details


class _Evaluation:
    """Fetches the shared transitions once an actor."""

    def __init__(self, evaluator: Any, models: Any, markov: Any, top: int, threads: int) -> None:
        import ray

        self._evaluate = evaluator(
            models, ray.get(markov) if isinstance(markov, ray.ObjectRef) else markov, top, threads
        )

    def __call__(self, histories: pa.Table) -> pa.Table:
        return self._evaluate(histories)


def main(argv: list[str] | None = None) -> int:
    def run_and_show(config: RunConfig) -> None:
        run(config)
        say(quality_table(config))

    return command("evaluate", run_and_show, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
