"""Ranking metrics by hand, and the coverage of the bootstrap over users."""

import numpy as np
import pytest

from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.metrics.ranking import all_metrics, weighted_mean


def test_hand_values() -> None:
    """Ranks 0, 2 and 10 at k = 10 give two hits, NDCG 1 and 1/2, and reciprocal ranks 1 and 1/3."""
    values = all_metrics(np.array([0, 2, 10]), (10,))
    assert values["accuracy@1"].tolist() == [1, 0, 0]
    assert values["hr@10"].tolist() == values["recall@10"].tolist() == [1, 1, 0]
    assert values["ndcg@10"].tolist() == [1, 0.5, 0]
    assert values["mrr@10"].tolist() == pytest.approx([1, 1 / 3, 0])


def test_a_weighted_mean_by_hand() -> None:
    """A row counts as often as its weight. Without rows, or without any weight, the mean is 0."""
    values = np.array([1.0, 0.0, 0.5])
    assert weighted_mean(values, None) == 0.5
    assert weighted_mean(values, np.array([3.0, 1.0, 0.0])) == 0.75
    assert weighted_mean(values, np.zeros(3)) == weighted_mean(values[:0], None) == 0.0


def test_interval_covers_the_mean() -> None:
    """About 95% of 200 samples have the known mean inside their interval."""
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(generator.exponential(2.0, 300), samples=200, seed=seed)
        hits += low <= 2.0 <= high
    assert 180 <= hits <= 198


def test_no_users_no_interval() -> None:
    """Without users the bounds are NaN, not an exception."""
    assert np.isnan(bootstrap_interval(np.array([]), samples=10, seed=0)).all()
