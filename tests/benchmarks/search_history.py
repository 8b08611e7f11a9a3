"""What a user's history brings to product search → results/search_history.json: `python -m tests.benchmarks.search_history`

On the simulated shop, in this process, without Spark, Ray and training. A shopper's last search is judged: the one product
that was clicked is right. The history is what the shopper viewed in earlier sessions. Queries and products have the vectors of
the pretrained encoder, which the search student learns to reproduce.

The first `RERANKED` products of the search are ranked again by

    score + weight · cos(product, mean vector of the last `RECENT` products of the history)

One half of the shoppers chooses the weight by NDCG@10 and the other half judges, and the other way round. So no shopper helps
to choose the weight that judges this shopper. Two controls stand in for the history: the history of another shopper, and how
often a product is viewed. The best possible ranking knows the shop's true model and what the query means.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.benchmark.provenance import package_versions, processor
from kdlib.config.data import SimulateConfig
from kdlib.config.operations import SearchConfig
from kdlib.data.queries import normalise_query
from kdlib.encoders.hugging_face import TextEncoder, encode_texts, encoder_folder, load_tokeniser
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.search.fusion import Weights, cluster, fuse, intent
from kdlib.search.index import product_texts
from kdlib.search.lexical import build_lexical
from kdlib.search.words import in_first_half
from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.events import Plan, block_steps, human_users, user_id_of
from kdlib.simulation.names import BRANDS, category_names, noun_of
from kdlib.simulation.oracle import Oracle
from kdlib.simulation.searches import search_rows
from kdlib.simulation.steps import DAY_MS
from kdlib.simulation.world import World

RESULTS = Path(__file__).parent / "results" / "search_history.json"
LAST_DAY = date(2026, 11, 22)
SHOP = SimulateConfig(num_events=375_000, num_items=1_000, num_days=45, events_per_user=30, search_fraction=0.2)
"""The shop of `cluster/runs/search.yaml`."""
JUDGED_DAYS, RERANKED, RECENT, LEAST_VIEWS = 15, 100, 20, 3
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
SAMPLES, SEED, BATCH = 10_000, 1, 64


@dataclass(frozen=True)
class Search:
    """A shopper's last search with a click, and the views of earlier sessions as arrays."""

    user: str
    query: str
    clicked: int
    """The world's number of the product."""
    day: int
    items: np.ndarray
    outcomes: np.ndarray
    sessions: np.ndarray
    days: np.ndarray


def searches(plan: Plan, world: World) -> Iterator[Search]:
    """The last search of each shopper in the last `JUDGED_DAYS` days, after at least `LEAST_VIEWS` views."""
    midnight = np.datetime64(plan.first_day, "ms")
    for block in range(plan.num_blocks):
        steps, numbers = block_steps(plan, block)[0], human_users(plan, block)
        ends = np.searchsorted(steps.users, np.arange(len(numbers) + 1))
        row_of = {user_id_of(number): row for row, number in enumerate(numbers.tolist())}
        rows = search_rows(plan, block)[0].to_pylist()
        last = {row["user_id"]: row for row in rows if row["event_type"] == "click"}
        for user, row in last.items():
            time = (np.datetime64(row["event_time"].removesuffix("Z"), "ms") - midnight).astype(int)
            own = slice(ends[row_of[user]], ends[row_of[user] + 1])
            earlier = slice(own.start, own.start + int(np.searchsorted(steps.times[own], time)))
            day = int(time // DAY_MS)
            if day >= plan.num_days_written - JUDGED_DAYS and earlier.stop - earlier.start >= LEAST_VIEWS:
                parts = (values[earlier] for values in (steps.items, steps.outcomes, steps.sessions, steps.days))
                yield Search(user, normalise_query(row["query"]), world.number_of(row["item_id"]), day, *parts)


def vectors_of(texts: list[str]) -> Tensor:
    """The pretrained encoder's unit vectors, float32 [texts, E]."""
    settings = SearchConfig().text
    folder = encoder_folder(settings.encoder)
    encoder, tokenise = TextEncoder(folder).eval(), load_tokeniser(folder, max_tokens=settings.max_tokens)
    return encode_texts(encoder, texts, tokenise, batch_size=BATCH, device="cpu")


def ranks_of(scores_SV: np.ndarray, right_S: np.ndarray) -> np.ndarray:
    """The rank of each search's right product, from 1. Of equal scores the smaller index ranks first."""
    own_S1 = np.take_along_axis(scores_SV, right_S[:, None], axis=1)
    before_SV = (scores_SV == own_S1) & (np.arange(scores_SV.shape[1]) < right_S[:, None])
    return 1 + (scores_SV > own_S1).sum(1) + before_SV.sum(1)


def reranked(scores_SV: np.ndarray, extra_SV: np.ndarray) -> np.ndarray:
    """The scores with `extra` added to the first `RERANKED` products of each search. They stay before all others."""
    cut_S1 = -np.partition(-scores_SV, RERANKED - 1, axis=1)[:, RERANKED - 1 : RERANKED]
    first_SV = scores_SV >= cut_S1
    span = 1 + np.abs(extra_SV).max()
    return np.where(first_SV, scores_SV + extra_SV + 2 * span, scores_SV)


def figures(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """NDCG@10 and reciprocal rank of each search."""
    return {"ndcg@10": np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0), "mrr": 1 / ranks}


def cross_fitted(
    scores_SV: np.ndarray, extra_SV: np.ndarray, right_S: np.ndarray, first_S: np.ndarray
) -> tuple[np.ndarray, dict[str, object]]:
    """Ranks with the weight that the other half of the shoppers chose; the two weights, and NDCG@10 with each weight."""
    by_weight = {weight: ranks_of(reranked(scores_SV, weight * extra_SV), right_S) for weight in WEIGHTS}
    ndcg = {weight: figures(ranks)["ndcg@10"] for weight, ranks in by_weight.items()}
    chosen = [max(WEIGHTS, key=lambda weight: ndcg[weight][half].mean()) for half in (first_S, ~first_S)]
    by_all = {str(weight): round(float(values.mean()), 4) for weight, values in ndcg.items()}
    return np.where(first_S, by_weight[chosen[1]], by_weight[chosen[0]]), {
        "weights": chosen,
        "ndcg@10 by weight": by_all,
    }


def meanings(world: World, items: pa.Table) -> list[tuple[str, str, str]]:
    """The three queries that lead to each product: noun, category, brand with noun."""
    names = category_names(len(world.first_items))
    numbers = [world.number_of(item) for item in items["item_id"].to_pylist()]
    found = ((names[world.categories[one]], BRANDS[world.brands[one]]) for one in numbers)
    return [(noun_of(name), name, normalise_query(f"{brand} {noun_of(name)}")) for name, brand in found]


def best_possible(world: World, found: list[Search], numbers_V: np.ndarray, meant: list[tuple[str, ...]]) -> np.ndarray:
    """P(product | history) by the true model, for the products that the query means; others get 0: float64 [searches, V]."""
    place = {number: row for row, number in enumerate(numbers_V.tolist())}
    chances_SV = np.zeros((len(found), len(numbers_V)))
    for day in sorted({one.day for one in found}):
        rows = [row for row, one in enumerate(found) if one.day == day]
        parts = zip(*((found[r].items, found[r].outcomes, found[r].sessions, found[r].days) for r in rows), strict=True)
        chances_SV[rows] = Oracle(world, target_day=day).scores(*map(list, parts))[:, numbers_V]
    for row, one in enumerate(found):
        own = meant[place[one.clicked]]
        kind = min(range(3), key=lambda kind: (sorted(own[kind]) != sorted(one.query), kind))  # a slip swaps letters
        chances_SV[row, [meaning[kind] != own[kind] for meaning in meant]] = 0.0
    return chances_SV


def measure() -> dict[str, object]:
    """All figures of the results file."""
    plan = Plan(**SHOP.model_dump(exclude={"first_day"}), first_day=SHOP.period(LAST_DAY)[0], until=LAST_DAY)
    world = plan.world()
    items = catalogue(world, seed=plan.seed, until_day=plan.num_days_written)
    items = items.filter(items["available"])
    numbers_V = np.array([world.number_of(item) for item in items["item_id"].to_pylist()])
    place = {number: row for row, number in enumerate(numbers_V.tolist())}
    found = [one for one in searches(plan, world) if one.clicked in place]
    right_S = np.array([place[one.clicked] for one in found])
    first_S = np.array([in_first_half(one.user) for one in found])
    seen_S = np.array([one.clicked in one.items for one in found])

    settings = SearchConfig()
    texts = product_texts(items.append_column("description", pa.nulls(len(items), pa.string())))
    vectors_VE, lexical = vectors_of(texts), build_lexical(texts, language=settings.language)
    queries = sorted({one.query for one in found})
    mended = [lexical.mended(query, lambda word: False) for query in queries]
    lexical_QV = torch.from_numpy(np.stack([lexical.scores(query) for query in mended]))
    cosines_QV = vectors_of(mended) @ vectors_VE.T
    clusters_RV = cluster(vectors_VE, seed=SEED)
    weights = Weights(settings.vector_weight, settings.intent_weight)
    scores_QV = fuse(lexical_QV, cosines_QV, intent(cosines_QV, clusters_RV), weights).double().numpy()
    row_of = {query: row for row, query in enumerate(queries)}
    scores_SV = scores_QV[[row_of[one.query] for one in found]]

    known = [[place[item] for item in one.items[-RECENT:].tolist() if item in place] for one in found]
    profiles_SE = torch.stack([F.normalize(vectors_VE[rows].sum(0), dim=0) for rows in known])
    history_SV = (profiles_SE @ vectors_VE.T).double().numpy()
    views_V = np.zeros(world.num_items)
    for one in found:
        np.add.at(views_V, one.items, 1)
    popularity_V = np.log1p(views_V[numbers_V])
    others = np.random.default_rng(SEED).permutation(len(found))
    extras = {
        "history": history_SV,
        "history of another shopper": history_SV[others],
        "popularity": np.broadcast_to(popularity_V / popularity_V.max(), scores_SV.shape),
    }
    plain = figures(ranks_of(scores_SV, right_S))
    results: dict[str, object] = {"search": {name: float(values.mean()) for name, values in plain.items()}}
    for extra, values_SV in extras.items():
        ranks, chosen = cross_fitted(scores_SV, values_SV, right_S, first_S)
        results[extra] = chosen | _against(plain, figures(ranks))
        if extra == "history":
            for name, some_S in (("product is new to the shopper", ~seen_S), ("product was viewed before", seen_S)):
                parts = ({metric: values[some_S] for metric, values in one.items()} for one in (plain, figures(ranks)))
                results[f"history, {name}"] = {"shoppers": int(some_S.sum())} | _against(*parts)
    best = ranks_of(best_possible(world, found, numbers_V, meanings(world, items)), right_S)
    results["best possible"] = _against(plain, figures(best))
    return {"shoppers": len(found), "queries": len(queries), "products": len(items), "results": results}


def _against(plain: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, values in other.items():
        low, high = bootstrap_interval(values - plain[name], samples=SAMPLES, seed=SEED)
        gain = float((values - plain[name]).mean())
        bounds = [round(float(low), 4), round(float(high), 4)]
        found[name] = {"value": round(float(values.mean()), 4), "gain": [round(gain, 4), bounds]}
    return found


if __name__ == "__main__":
    measured = measure()
    print(json.dumps(measured, indent=1))
    if "--dry-run" not in sys.argv:
        about = {
            "command": "python -m tests.benchmarks.search_history",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": SEED,
            "hardware": processor(),
            "versions": package_versions(),
            "shop": SHOP.model_dump(mode="json"),
            "settings": {"reranked": RERANKED, "recent": RECENT, "judged_days": JUDGED_DAYS, "weights": WEIGHTS},
        }
        RESULTS.write_text(json.dumps(about | measured, indent=1) + "\n")
