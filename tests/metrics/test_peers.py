"""RecTools and LensKit give the same numbers on the same lists. `tests/benchmarks/peers/list_metrics.py` recorded theirs."""

import json
from pathlib import Path

import numpy as np
import pytest

from kdlib.metrics.beyond import coverage, diversity, gini, inverse_user_frequency, list_means
from kdlib.metrics.ranking import all_metrics

RECORDED = json.loads((Path(__file__).parents[1] / "benchmarks" / "peers" / "list_metrics.json").read_text())
CASE = RECORDED["case"]
KS = (1, 5, 10)
MEASURED = {"hr", "recall", "ndcg", "mrr", "novelty", "popularity", "diversity", "coverage", "gini"}


def ours() -> dict[str, np.ndarray | float]:
    """Our metrics of the recorded lists, by name: float64 [users], or one number for all users."""
    num_items, events = CASE["num_items"], np.array(CASE["events"])
    width = max(map(len, CASE["lists"]))
    lists_UK = np.array([one + [-1] * (width - len(one)) for one in CASE["lists"]])
    hits_UK = lists_UK == np.array(CASE["targets"])[:, None]
    ranks = np.where(hits_UK.any(1), hits_UK.argmax(1), num_items)
    pairs = np.unique(events, axis=0)
    novelty_V = inverse_user_frequency(
        np.bincount(pairs[:, 1], minlength=num_items), total_users=len(np.unique(events[:, 0]))
    )
    popularity_V = np.bincount(events[:, 1], minlength=num_items)
    found: dict[str, np.ndarray | float] = dict(all_metrics(ranks, KS))
    for k in KS:
        first_UK = lists_UK[:, :k]
        found[f"novelty@{k}"] = list_means(first_UK, novelty_V)
        found[f"popularity@{k}"] = list_means(first_UK, popularity_V)
        found[f"diversity@{k}"] = diversity(first_UK, np.array(CASE["vectors"]))
        found[f"coverage@{k}"] = coverage(first_UK, num_items)
        found[f"gini@{k}"] = gini(first_UK, num_items)
    return found


@pytest.mark.parametrize("peer", ["rectools", "lenskit"])
def test_the_peers_find_the_same(peer: str) -> None:
    """Each user's value differs by less than 1e-6, and both leave out the same users, those with an empty list."""
    found = ours()
    for metric, theirs in RECORDED["peers"][peer]["values"].items():
        np.testing.assert_allclose(
            np.array(found[metric], float), np.array(theirs, float), rtol=0, atol=1e-6, err_msg=f"{peer}: {metric}"
        )


def test_every_metric_has_a_peer() -> None:
    """Each metric is recorded from at least one library, and the lists tell good from bad: no value is 0 or 1 for all."""
    recorded = {name: one for peer in RECORDED["peers"].values() for name, one in peer["values"].items()}
    assert {name.partition("@")[0] for name in recorded} == MEASURED
    means = {name: np.nanmean(np.array(one, float)) for name, one in recorded.items() if name != "diversity@1"}
    assert [name for name, mean in means.items() if mean in (0, 1)] == []
