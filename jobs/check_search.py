"""Judge product search before it is promoted. A failed gate ends the run with exit status 3."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.console import say
from jobs.runtime.judging import conclude, on_record, trailing
from jobs.runtime.names import SEARCH_STUDENT, logged_queries
from jobs.runtime.product_search import LEAST_QUERIES, judging_clicks, ndcg_by_query, read_products
from jobs.runtime.published import published
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, ModelError
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.release import promotions
from kdlib.release.search_gates import COMPARED, Difference, search_gates
from kdlib.search.fusion import Weights
from kdlib.search.index import load_index

JUDGED = ("search_index", "search_rankings")
BOUNDS = (
    "min_volume_ratio",
    "max_share_rise",
    "max_empty_search_share",
    "max_search_milliseconds",
    "max_search_loss",
)


def run(config: RunConfig, *, force: str = "") -> None:
    """Judge the search, against words alone and the search in use where enough queries led to clicks.

    Args:
      config: the run config.
      force: why failures are overruled. Empty: only failures that were overruled before, of the same search, stay overruled.

    Raises:
      GateError: a gate has failed.
      InputError: the search is not published.
      ModelError: index and student do not belong together.
    """
    inputs = published(config, "products", *JUDGED, SEARCH_STUDENT, *logged_queries(config))
    tonight = _facts({name: inputs[name].manifest.details for name in JUDGED})
    for name, fact in (("search_index", "available"), ("search_rankings", "milliseconds")):
        if fact not in tonight:
            raise InputError(
                f"{name} of {config.day} is stale: the gates judge {fact}, which was not measured. Run"
                f" `distilrec {'build-search-index' if name == 'search_index' else 'rank-search'}` first"
            )
    earlier = [
        _facts({name: promotions.manifest_of(config.root, night, name).details for name in JUDGED})
        for night in trailing(config, "search_rankings")
    ]
    compared = _compared(config, inputs)
    found = search_gates(tonight, earlier, compared, **config.gates.model_dump(include=set(BOUNDS)))
    if isinstance(one := compared["search_over_words"], Difference):
        say(
            f"check_search: NDCG@10 {one.ndcg:.4f} on {one.queries:,} clicked queries, {one.other_ndcg:.4f} by words alone"
        )
    versions = {name: inputs[name].version for name in JUDGED}
    record, known, reason = on_record(config, "search_gates")
    conclude(
        config,
        "search_gates",
        found,
        title="check_search: search",
        overruled={gate.gate for gate in record if gate.status == "forced" and known == versions},
        inputs=versions,
        force=force,
        reason=reason,
        details={"compared": {gate: one if isinstance(one, str) else asdict(one) for gate, one in compared.items()}},
    )


def _facts(details: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for one in JUDGED for name, value in details[one].items()}


def _compared(config: RunConfig, inputs: Mapping[str, Input]) -> dict[str, Difference | str]:
    """Gate → the difference from another search on the clicked queries that choose no weights, or why there is none."""
    products = read_products(inputs["products"].folder)
    gains = judging_clicks(inputs, products)
    if len(gains) < LEAST_QUERIES:
        few = f"{len(gains)} clicked queries can judge, and at least {LEAST_QUERIES} are needed"
        return dict.fromkeys(COMPARED, few if logged_queries(config) else "the shop has no search log")
    index = load_index(inputs["search_index"].folder, inputs[SEARCH_STUDENT].folder)
    mine_Q = ndcg_by_query(index, gains)
    by_words_Q = ndcg_by_query(index, gains, Weights(0.0, 0.0))
    in_use_Q = _in_use(config, products, gains)
    others = {"search_over_words": by_words_Q, "search_over_last_night": in_use_Q}
    return {gate: _difference(config, mine_Q, other) for gate, other in others.items()}


def _in_use(config: RunConfig, products: pa.Table, gains: Mapping[str, Mapping[int, float]]) -> np.ndarray | str:
    """NDCG@10 of each query by the search of the last promoted run, with the products that are available now."""
    night = promotions.last_night(config.root, before=config.day, holding="search_index")
    if night is None:
        return "no promoted search of an earlier run to compare with"
    folders = (promotions.folder_of(config.root, night, name) for name in ("search_index", SEARCH_STUDENT))
    try:
        index = load_index(*folders)
    except ModelError as error:
        return f"the search of {night.ds} cannot be compared: {error}"
    ids, then = products["item_id"].to_pylist(), index.products["item_id"].to_pylist()
    sold = {item for item, available in zip(ids, products["available"].to_pylist(), strict=True) if available}
    index.leave_out(item for item in then if item not in sold)
    place = {item: number for number, item in enumerate(then)}
    # a product that the index does not hold yet has a place of its own, below 0
    mapped = {
        query: {place.get(ids[number], -1 - number): gain for number, gain in items.items()}
        for query, items in gains.items()
    }
    return ndcg_by_query(index, mapped)


def _difference(config: RunConfig, mine_Q: np.ndarray, other_Q: np.ndarray | str) -> Difference | str:
    if isinstance(other_Q, str):
        return other_Q
    samples, seed = config.evaluation.bootstrap_samples, config.seed
    low, high = bootstrap_interval(mine_Q - other_Q, samples=samples, seed=seed)
    figures = (float(mine_Q.mean()), float(other_Q.mean()), low, high)
    return Difference(len(mine_Q), *(round(figure, 6) for figure in figures))
