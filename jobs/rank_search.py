"""Write each head query's top-k products to the table `search_rankings`, from the search index (Ray Data)."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.runtime.actors import map_by_actors
from jobs.runtime.console import say
from jobs.runtime.names import SEARCH_STUDENT
from jobs.runtime.product_search import head_queries, product_search, read_products, typed_queries
from jobs.runtime.stage import Details, Job
from kdlib.config.run import RunConfig
from kdlib.search.index import SearchIndex, load_index
from kdlib.store.days import day_end
from kdlib.store.partitions import Manifest
from kdlib.store.search_tables import SEARCH_RANKINGS

QUERIES_AT_A_TIME = 256
TIMED_QUERIES = 200
"""Most queries whose answers are timed, evenly spread over the head queries."""


def build(job: Job) -> Details:
    """Answer the head queries.

    Raises:
      InputError: there is no query to rank for.
      ModelError: index and student do not belong together.
    """
    started, settings, typed = time.monotonic(), product_search(job.config), typed_queries(job.inputs)
    index, student = job.input("search_index"), job.input(SEARCH_STUDENT)
    head = head_queries(settings, typed, read_products(job.input("products")))
    found = _rank(job.config, index, student, head)
    pq.write_table(found, job.output / "part-00000.parquet")
    details = {
        "queries": len(head),
        "answered": len(found),
        "logged": len(typed) if "queries" in job.inputs else None,
        "ranking_seconds": round(time.monotonic() - started, 3),
    }
    return {"search_rankings": details | _milliseconds(load_index(index, student), head, k=settings.k)}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many queries have an answer."""
    made = manifests["search_rankings"].details
    say(
        f"rank_search: {made['answered']:,} of {made['queries']:,} queries answered in {made['ranking_seconds']:.1f} s →"
        f" {config.place('search_rankings')}; one search takes {made['milliseconds']:.1f} ms on one thread"
    )


def _milliseconds(index: SearchIndex, queries: list[str], *, k: int) -> dict[str, float]:
    """Median and 99th percentile of the milliseconds of one answer, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        asked = queries[:: -(-len(queries) // TIMED_QUERIES)]
        index.answer(asked[:1], k=k)  # the first answer also warms up
        spent = []
        for query in asked:
            started = time.perf_counter()
            index.answer([query], k=k)
            spent.append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(threads)
    middle, slow = np.quantile(spent, [0.5, 0.99]).tolist()
    return {"milliseconds": round(middle, 3), "milliseconds_p99": round(slow, 3)}


def _rank(config: RunConfig, index: Path, student: Path, queries: list[str]) -> pa.Table:
    import ray.data

    settings, training = product_search(config), config.training
    end_of_day = day_end(config.last_day, config.features.time_zone)
    parts = [
        pa.table({"query": pa.array(queries[start : start + QUERIES_AT_A_TIME])})
        for start in range(0, len(queries), QUERIES_AT_A_TIME)
    ]
    batches = map_by_actors(
        config,
        ray.data.from_arrow(parts),
        _Ranker,
        {
            "index": str(index),
            "student": str(student),
            "k": settings.k,
            "generated_at": end_of_day,
            "threads": training.threads_per_worker,
        },
        actors=min(training.workers, len(parts)),
        num_cpus=training.cpus_per_worker,
        batch_size=QUERIES_AT_A_TIME,
    ).iter_batches(batch_size=None, batch_format="pyarrow")
    found = list(batches) or [SEARCH_RANKINGS.schema.empty_table()]  # Ray leaves out what is empty
    return pa.concat_tables(found).sort_by("query").cast(SEARCH_RANKINGS.schema)


class _Ranker:
    """Answers queries as an actor, which loads the index once."""

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
        """Queries → rows of `SEARCH_RANKINGS`. A query without an answer has no row."""
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
        return pa.Table.from_pylist(rows, schema=SEARCH_RANKINGS.schema)
