"""Rank the test items under any number of models, on Ray Data. Evaluation and benchmark share this."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.actors import map_by_actors, own_errors
from jobs.runtime.published import Features, parquet_files
from jobs.runtime.ray_cluster import check_workers_room, start_ray
from kdlib.config.run import RunConfig
from kdlib.data.windows import EvaluationRows, evaluation_rows, read_evaluation_histories
from kdlib.errors import InputError
from kdlib.inference.baselines import count_transitions

ROWS = 1024
"""Number of users that an actor gets at once."""


def histories_to_test(config: RunConfig, source: Features, *, everyone: bool = False) -> pa.Table:
    """The histories with a test item, or all of them, sorted by user; InputError where there is no test item."""
    histories = read_evaluation_histories(
        parquet_files(source.histories),
        position_column="test_position",
        max_users=config.evaluation.max_users,
        everyone=everyone,
    ).sort_by("user_id")
    if histories["test_position"].null_count == len(histories):
        raise InputError(
            f"no user can be tested: the split {config.features.split.kind!r} leaves no user with a test item after"
            " earlier items. Raise features.split.test_days or add more events"
        )
    return histories


def rows_to_test(config: RunConfig, histories: pa.Table, *, everyone: bool = False) -> EvaluationRows:
    """The rows that `rank_targets` ranks, in its order, for histories from `histories_to_test`."""
    how = {"with_marks": everyone, "everyone": everyone, "seen_days": seen_days(config)}
    how["time_zone"] = config.features.time_zone
    return evaluation_rows(histories, position_column="test_position", **how)


def seen_days(config: RunConfig) -> tuple[float, ...] | None:
    """For each event type, how long its item stays out of a list; None: for ever. Rules of segments do not count here."""
    policy = config.recommend.policy
    return policy.seen_days() if policy and policy.exclude_recent else None


def training_counts(source: Features) -> np.ndarray:
    """Training interactions of each item, int64 [items]."""
    statistics = pq.read_table(source.statistics, columns=["item_index", "num_train"])
    return statistics.sort_by("item_index")["num_train"].to_numpy()


def rank_targets(
    config: RunConfig,
    source: Features,
    histories: pa.Table,
    compared: dict[str, list[tuple[str, float]]],
    *,
    top: int,
    confidence_k: int = 0,
    everyone: bool = False,
    ruled: dict[str, Any] | None = None,
) -> pa.Table:
    """Run `kdlib.inference.evaluator` on Ray Data; returns its rows, sorted by user, maybe none.

    There is a row for each user whose test item is new to the user. With `everyone` there is a row for each user with a
    history.
    """
    with start_ray(config):
        import ray
        import ray.data

        from kdlib.inference.evaluator import Evaluator

        markov = ray.put(count_transitions(parquet_files(source.histories), training_counts(source)))
        settings = config.training
        parts = [histories.slice(start, ROWS).combine_chunks() for start in range(0, len(histories), ROWS)]
        actors = min(settings.workers, len(parts))
        check_workers_room(config, actors)
        batches = map_by_actors(
            config,
            ray.data.from_arrow(parts),
            _Evaluation,
            {
                "evaluator": Evaluator,
                "markov": markov,
                "models": compared,
                "top": top,
                "confidence_k": confidence_k,
                "threads": settings.threads_per_worker,
                "everyone": everyone,
                "seen_days": seen_days(config),
                "ruled": ruled,
                "time_zone": config.features.time_zone,
            },
            actors=actors,
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            batch_size=ROWS,
        ).iter_batches(batch_size=None, batch_format="pyarrow")
        with own_errors():
            tables = list(batches)
        tables = tables or [_no_ranks(compared, ruled["policies"] if ruled else ())]  # Ray leaves out what is empty
        return pa.concat_tables(tables).sort_by("user_id")


def _no_ranks(models: Collection[str], policies: Collection[str]) -> pa.Table:
    """The evaluator's table without rows, for the case that every user's next item is a repeat."""
    columns: list[tuple[str, pa.DataType]] = [("user_id", pa.string())]
    for name in ("popularity", "markov", *models, *policies):
        columns += [(f"rank/{name}", pa.int64()), (f"top/{name}", pa.list_(pa.int64()))]
        if name in models:
            columns.append((f"confidence/{name}", pa.float32()))
    return pa.schema(columns).empty_table()


class _Evaluation:
    """The evaluator as an actor, which fetches the shared transitions once."""

    def __init__(self, evaluator: Any, markov: Any, **settings: Any) -> None:
        import ray

        shared = ray.get(markov) if isinstance(markov, ray.ObjectRef) else markov
        self._evaluate = evaluator(markov=shared, **settings)

    def __call__(self, histories: pa.Table) -> pa.Table:
        return self._evaluate(histories)
