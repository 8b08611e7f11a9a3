"""The head queries' rankings: search index in, one published partition of `search_rankings` out (Ray Data)."""

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import command, say
from jobs.runtime.product_search import head_queries, search_settings, typed_queries
from jobs.runtime.published import versions
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.step import run_step
from kdlib.config.run import RunConfig
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest

QUERIES_AT_A_TIME = 256
INPUTS = ("search_index", "models/search_student")


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `search_rankings` for the date.

    Raises:
      ConfigError: the run config has no section search.
      InputError: index or student are not published for the date, or there is no query to rank for.
      ModelError: they are not whole, or do not belong together.
    """
    settings = search_settings(config)
    queries, _ = typed_queries(config)
    index, student = (partitions.current(config.root, name, config.day) for name in INPUTS)
    built: dict[str, Any] = {}

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        started = time.monotonic()
        head = head_queries(config, queries)
        found = _rank(config, index, student, head)
        pq.write_table(found, staging["search_rankings"] / "part-00000.parquet")
        built.update(queries=len(head), answered=len(found), seconds=round(time.monotonic() - started, 3))
        return {"search_rankings": {name: built[name] for name in ("queries", "answered")}}

    made = run_step(
        config,
        ("search_rankings",),
        settings=[settings.k, settings.max_queries],
        inputs=versions(config, *INPUTS) | typed_queries(config)[1],
        build=build,
    )
    if built:
        say(
            f"rank_search: {built['answered']:,} of {built['queries']:,} queries answered in {built['seconds']:.1f} s →"
            f" {config.root / 'search_rankings' / f'ds={config.day}'}"
        )
    return made


def _rank(config: RunConfig, index: Path, student: Path, queries: list[str]) -> pa.Table:
    with start_ray(config):
        import ray.data

        settings, training = search_settings(config), config.training
        end_of_day = datetime.fromisoformat(config.day).replace(tzinfo=UTC) + timedelta(days=1)
        parts = [
            pa.table({"query": pa.array(queries[start : start + QUERIES_AT_A_TIME])})
            for start in range(0, len(queries), QUERIES_AT_A_TIME)
        ]
        batches = (
            ray.data.from_arrow(parts)
            .map_batches(
                _Ranker,
                fn_constructor_args=(str(index), str(student), settings.k, end_of_day, training.threads_per_worker),
                compute=ray.data.ActorPoolStrategy(size=min(training.workers, len(parts))),
                num_cpus=training.cpus_per_worker,
                batch_format="pyarrow",
                batch_size=QUERIES_AT_A_TIME,
            )
            .iter_batches(batch_size=None, batch_format="pyarrow")
        )
        found = list(batches) or [tables.SEARCH_RANKINGS.schema.empty_table()]  # Ray leaves out what is empty
        return pa.concat_tables(found).sort_by("query").cast(tables.SEARCH_RANKINGS.schema)


class _Ranker:
    """Loads the index once an actor."""

    def __init__(self, index: str, student: str, k: int, generated_at: datetime, threads: int) -> None:
        import json

        import torch

        from kdlib.search.index import load_index
        from kdlib.search.student import STUDENT_FILE

        torch.set_num_threads(threads)
        self._index, self._k, self._generated_at = load_index(Path(index), Path(student)), k, generated_at
        self._version = json.loads((Path(student) / STUDENT_FILE).read_text())["version"]
        self._item_ids = self._index.products["item_id"].to_pylist()

    def __call__(self, queries: pa.Table) -> pa.Table:
        """`query` → rows of `tables.SEARCH_RANKINGS`; a query that nothing answers has none."""
        typed = queries["query"].to_pylist()
        answers = self._index.answer(typed, k=self._k)
        rows = [
            {
                "query": query,
                "item_ids": [self._item_ids[place] for place in answer.places],
                "scores": answer.scores.tolist(),
                "model_version": self._version,
                "generated_at": self._generated_at,
            }
            for query, answer in zip(typed, answers, strict=True)
            if len(answer.places)
        ]
        return pa.Table.from_pylist(rows, schema=tables.SEARCH_RANKINGS.schema)


def main(argv: list[str] | None = None) -> int:
    return command("rank_search", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
