"""What the search stages share: settings, products, logged queries, and the choice of the weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.runtime.encoding import find_encoder
from jobs.runtime.names import SEARCH_ENCODER
from jobs.runtime.published import parquet_files
from jobs.runtime.stage import Found, Input
from kdlib.config.operations import SearchConfig
from kdlib.config.run import RunConfig
from kdlib.data.queries import normalise_query
from kdlib.encoders.encoder import known_width
from kdlib.errors import ConfigError, InputError
from kdlib.metrics.judged import ndcg_of
from kdlib.search.fusion import Weights, choose_weights
from kdlib.search.index import INDEX_FILE, SearchIndex, build_index, load_index
from kdlib.search.student import STUDENT_FILE
from kdlib.search.words import in_first_half, teaches

K = 10
LEAST_QUERIES = 30
"""Fewest clicked queries to choose the weights, and fewest to judge them."""
MOST_QUERIES = 1_000
"""Most clicked queries that are used, the most frequent first."""


def product_search(config: RunConfig) -> SearchConfig:
    """The section search; ConfigError where there is none."""
    if config.search is None:
        raise ConfigError(
            f"the run config {config.name} has no section search: add `search: {{}}` to have product search"
        )
    return config.search


def search_teacher(config: RunConfig, inputs: Mapping[str, Input]) -> Found:
    """The encoder that teaches: adapted to the shop, or pretrained. The value is its name, for `open_encoder`.

    Raises:
      ConfigError: the encoder is not there, or `search.width` is more than its width.
    """
    settings = product_search(config)
    check_width(settings, None if settings.text.endpoint else known_width(settings.text.encoder))
    if SEARCH_ENCODER in inputs:
        return Found(value=str(inputs[SEARCH_ENCODER].folder))
    return find_encoder(config, settings.text)


def check_width(settings: SearchConfig, wide: int | None) -> None:
    """ConfigError where `search.width` is more than the teacher's width. The student starts from the teacher's vectors."""
    if wide is not None and settings.width > wide:
        encoder = settings.text.endpoint.model if settings.text.endpoint else settings.text.encoder
        raise ConfigError(f"search.width {settings.width} is more than the encoder {encoder} has, {wide}: set it lower")


def read_products(folder: Path) -> pa.Table:
    """The published products in the order of their index."""
    return pq.read_table(parquet_files(folder)).sort_by("product_index")


def typed_queries(inputs: Mapping[str, Input]) -> list[str]:
    """The logged queries among a stage's inputs, the most frequent first; none without a search log."""
    if "queries" not in inputs:
        return []
    table = pq.read_table(parquet_files(inputs["queries"].folder), columns=["query", "num_searches"])
    return table.sort_by([("num_searches", "descending"), ("query", "ascending")])["query"].to_pylist()


def head_queries(settings: SearchConfig, typed: list[str], products: pa.Table) -> list[str]:
    """The queries to rank for: the most frequent ones, or without a search log the names of the categories.

    Raises:
      InputError: there are no queries and no categories.
    """
    if not typed:
        categories = {normalise_query(name) for name in products["category"].to_pylist() if name}
        typed = sorted(categories - {""})
    if not typed:
        raise InputError(
            "no query to rank for: no search is logged (input.searches) and no product has a category"
            " (input.catalogue.category)"
        )
    return typed[: settings.max_queries]


def chosen_weights(
    settings: SearchConfig,
    products: pa.Table,
    vectors_VE: torch.Tensor,
    folder: Path,
    student: Path,
    clicks: dict[str, dict[int, float]],
    *,
    seed: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Build the index with the given weights, or with weights that clicks choose; returns details for its manifest.

    One half of the clicked queries chooses, the other half judges. Queries from which an adapted teacher has learnt do
    neither.
    """
    given = Weights(settings.vector_weight, settings.intent_weight)
    build_index(folder, products, vectors_VE, language=settings.language, weights=given, seed=seed, facts=facts)
    facts_of_student = json.loads((student / STUDENT_FILE).read_text())
    details = {name: facts_of_student[name] for name in ("parameters", "cosine", "overlap@10", "held_out", "version")}
    details["weights"] = {**asdict(given), "chosen": "given"}
    if settings.weights == "clicks":
        gains = _without_unavailable(clicks, products)
        judging = {query: items for query, items in gains.items() if not in_first_half(query)}
        learnt = {query for query in gains if settings.text.adapt and teaches(query)}
        choosing = {query: items for query, items in gains.items() if query not in {*judging, *learnt}}
        if min(len(choosing), len(judging)) < LEAST_QUERIES:
            details["weights"]["chosen"] = f"given: only {len(choosing)} and {len(judging)} clicked queries"
            return details
        index = load_index(folder, student)
        weights = choose_weights(lambda weights: _ndcg(index, choosing, weights))
        kept = json.loads((folder / INDEX_FILE).read_text()) | {"weights": asdict(weights)}
        (folder / INDEX_FILE).write_text(json.dumps(kept, indent=1))
        details["weights"] = {**asdict(weights), "chosen": f"by the clicks after {len(choosing)} queries"}
        details["clicks"] = {
            "queries": len(judging),
            "ndcg@10": _ndcg(index, judging, weights),
            "ndcg@10_words_alone": _ndcg(index, judging, Weights(0.0, 0.0)),
        }
    return details


def clicked(queries: list[str], inputs: Mapping[str, Input], products: pa.Table) -> dict[str, dict[int, float]]:
    """Query → product index → weight of the clicks, for the most frequent queries with a click on a known product."""
    if not queries:
        return {}
    place = {item: number for number, item in enumerate(products["item_id"].to_pylist())}
    table = pq.read_table(parquet_files(inputs["query_items"].folder))
    gains: dict[str, dict[int, float]] = {}
    for query, item, weight in zip(*(table[name].to_pylist() for name in ("query", "item_id", "weight")), strict=True):
        if item in place and weight > 0:
            gains.setdefault(query, {})[place[item]] = weight
    return {query: gains[query] for query in [one for one in queries if one in gains][:MOST_QUERIES]}


def _without_unavailable(gains: dict[str, dict[int, float]], products: pa.Table) -> dict[str, dict[int, float]]:
    """The clicks on available products. Queries without one are left out."""
    sold = products["available"].to_pylist()
    left = {query: {place: gain for place, gain in items.items() if sold[place]} for query, items in gains.items()}
    return {query: items for query, items in left.items() if items}


def _ndcg(index: SearchIndex, gains: dict[str, dict[int, float]], weights: Weights) -> float:
    """Mean NDCG@10 of the answers over all queries. The gain of a product is the weight of its clicks."""
    answers = index.answer(list(gains), k=K, weights=weights)
    found = [
        ndcg_of(
            np.array([mine.get(place, 0.0) for place in answer.places.tolist()]), np.array(list(mine.values())), k=K
        )
        for answer, mine in zip(answers, gains.values(), strict=True)
    ]
    return sum(found) / len(found)
