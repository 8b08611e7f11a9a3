"""The metrics of RecTools and LensKit on made-up lists, written to `list_metrics.json`, for `tests/metrics/test_peers.py`.

RecTools 0.19 needs an older NumPy than this project, so each library runs in an environment of its own:

    python -m venv rectools && rectools/bin/pip install rectools==0.19.0
    rectools/bin/python tests/benchmarks/peers/list_metrics.py
    python -m venv lenskit && lenskit/bin/pip install lenskit==2025.8.1
    lenskit/bin/python tests/benchmarks/peers/list_metrics.py

Each call writes the values of the library that it finds, and keeps those of the other. Values are of each user, in the
order of the lists, or one for all users. A user with an empty list gets no value from RecTools' novelty, popularity and
diversity (null).
"""

# pyright: reportMissingImports=false
# the peers' packages are not in this project's environment

import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("list_metrics.json")
KS = (1, 5, 10)
USERS, ITEMS, EVENTS, TOP, WIDTH = 60, 40, 900, 12, 6


def made_up() -> dict[str, Any]:
    """Lists of 0 to 12 items, a target for each user, earlier events and item vectors.

    About half of the targets are in the list. Some items have no event, and some are in no list.
    """
    generator = np.random.default_rng(7)
    lengths = generator.integers(0, TOP + 1, USERS)
    lengths[:20] = TOP
    lengths[20:23] = 0, 1, 2
    chances = np.arange(ITEMS, 0, -1.0) ** 3
    lists = [generator.choice(ITEMS, length, replace=False, p=chances / chances.sum()).tolist() for length in lengths]
    found = generator.random(USERS) < 0.5
    popular = generator.geometric(0.15, 4 * EVENTS) - 1
    return {
        "num_items": ITEMS,
        "lists": lists,
        "targets": [
            one[generator.integers(len(one))] if hit and one else int(generator.integers(ITEMS))
            for one, hit in zip(lists, found, strict=True)
        ],
        "events": [
            [int(user), int(item)]
            for user, item in zip(generator.integers(0, USERS, EVENTS), popular[popular < ITEMS - 5], strict=False)
        ],
        "vectors": generator.normal(size=(ITEMS, WIDTH)).round(3).tolist(),
    }


def by_rectools(case: dict[str, Any]) -> dict[str, Any]:
    """Its metrics of each user, and its coverage."""
    import pandas as pd
    from rectools import Columns
    from rectools.metrics import (
        MRR,
        NDCG,
        AvgRecPopularity,
        CatalogCoverage,
        HitRate,
        IntraListDiversity,
        MeanInvUserFreq,
        Recall,
    )
    from rectools.metrics.distances import PairwiseDistanceCalculator

    vectors = np.array(case["vectors"])

    class Cosine(PairwiseDistanceCalculator):
        def _get_distances_for_item_pairs(self, items_0, items_1):
            left, right = vectors[np.asarray(items_0, int)], vectors[np.asarray(items_1, int)]
            norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
            return 1 - (left * right).sum(1) / norms

    rows = [(user, item, rank) for user, one in enumerate(case["lists"]) for rank, item in enumerate(one, 1)]
    users, items, ranks = zip(*rows, strict=True)
    lists = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Rank: ranks})
    targets = pd.DataFrame({Columns.User: range(USERS), Columns.Item: case["targets"]})
    people, touched = zip(*case["events"], strict=True)
    events = pd.DataFrame({Columns.User: people, Columns.Item: touched})
    found: dict[str, Any] = {}
    for k in KS:
        of_users = {
            "hr": HitRate(k).calc_per_user(lists, targets),
            "recall": Recall(k).calc_per_user(lists, targets),
            "ndcg": NDCG(k, divide_by_achievable=True).calc_per_user(lists, targets),
            "mrr": MRR(k).calc_per_user(lists, targets),
            "novelty": MeanInvUserFreq(k).calc_per_user(lists, events),
            "popularity": AvgRecPopularity(k).calc_per_user(lists, events),
            "diversity": IntraListDiversity(k, Cosine()).calc_per_user(lists),
        }
        for metric, values in of_users.items():
            found[f"{metric}@{k}"] = [None if np.isnan(one) else one for one in values.reindex(range(USERS))]
        found[f"coverage@{k}"] = CatalogCoverage(k, normalize=True).calc(lists, range(ITEMS))
    return found


def by_lenskit(case: dict[str, Any]) -> dict[str, Any]:
    """Its ranking metrics of each user, and its Gini coefficient."""
    from lenskit.data import ItemList
    from lenskit.metrics import NDCG, Hit, ListGini, Recall, RecipRank
    from lenskit.metrics.ranking import LogRankWeight

    lists = [ItemList(item_ids=np.array(one, np.int64), ordered=True) for one in case["lists"]]
    targets = [ItemList(item_ids=np.array([one])) for one in case["targets"]]
    found: dict[str, Any] = {}
    for k in KS:
        # by default its NDCG gives the first two places the same weight, as the paper of 2002 does
        ndcg = NDCG(k, weight=LogRankWeight(offset=1))
        measures = {"hr": Hit(k), "recall": Recall(k), "ndcg": ndcg, "mrr": RecipRank(k)}
        for metric, measure in measures.items():
            values = [measure.measure_list(one, target) for one, target in zip(lists, targets, strict=True)]
            found[f"{metric}@{k}"] = [float(one) for one in values]
        gini = ListGini(k, items=ITEMS)
        # it fails on an empty list, which counts for nothing
        parts = [gini.compute_list_data(one, target) for one, target in zip(lists, targets, strict=True) if len(one)]
        found[f"gini@{k}"] = float(gini.global_aggregate(parts))
    return found


LIBRARIES = {"rectools": by_rectools, "lenskit": by_lenskit}


def main() -> None:
    """Write the values of each library that this environment has."""
    case = made_up()
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    peers = before.get("peers", {}) if before.get("case") == case else {}
    for name, measure in LIBRARIES.items():
        if importlib.util.find_spec(name):
            versions = {one: importlib.metadata.version(one) for one in (name, "numpy")}
            peers[name] = {"versions": versions | {"python": platform.python_version()}, "values": measure(case)}
            print(f"{name} {versions[name]}: {len(peers[name]['values'])} metrics")
    FILE.write_text(json.dumps({"case": case, "peers": peers}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
