"""Expected metrics against a plain sum over all items."""

import numpy as np
import pytest

from kdlib.metrics.expected import expected_metrics
from kdlib.metrics.ranking import all_metrics


def test_the_expectation_is_the_mean_over_all_next_items() -> None:
    """The expected metric is the mean of the items' metrics, weighted by their probabilities."""
    probabilities = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    lists = np.array([2, 0, 3, 4])  # item 1 was seen, so it is in no list and counts as a miss
    ranks = np.full(5, 99)
    ranks[lists] = np.arange(4)
    realised = all_metrics(ranks, (2, 4))
    found = expected_metrics(probabilities[lists][None], (2, 4))
    for metric in ("accuracy@1", "hr@2", "hr@4", "ndcg@2", "ndcg@4", "mrr@4"):
        assert found[f"expected_{metric}"] == pytest.approx((probabilities * realised[metric]).sum()), metric


def test_a_short_list_ends_where_it_ends() -> None:
    """Places after the end of a list have probability 0 and add nothing."""
    found = expected_metrics(np.array([[0.5, 0.0, 0.0], [0.5, 0.2, 0.1]]), (1, 3))
    assert found["expected_hr@3"].tolist() == pytest.approx([0.5, 0.8])
    assert found["expected_ndcg@1"].tolist() == [0.5, 0.5]
    assert found["expected_ndcg@3"][0] == 0.5
