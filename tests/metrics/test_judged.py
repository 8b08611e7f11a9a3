"""NDCG and recall over graded judgements."""

import numpy as np
import pytest

from kdlib.metrics.judged import judged_metrics, ndcg_of


def test_ndcg_by_hand() -> None:
    """Gains 0 and 3 in the wrong order give 3/log2(3) divided by 3/log2(2)."""
    assert ndcg_of(np.array([0.0, 3.0]), np.array([3.0, 0.0]), k=10) == pytest.approx(1 / np.log2(3))
    assert ndcg_of(np.array([3.0, 1.0]), np.array([1.0, 3.0]), k=10) == 1.0


def test_unjudged_products_count_nothing_and_are_left_out_among_the_judged() -> None:
    """Product 0 leads without a judgement. It takes a place among all products, but not among the judged ones."""
    found = judged_metrics(np.array([9.0, 5.0, 7.0, 1.0]), {2: 2, 1: 0}, k=10)
    assert found["ndcg_all"] == pytest.approx(1 / np.log2(3))
    assert found["ndcg_judged"] == 1.0
    assert found["recall100"] == 1.0


def test_recall_counts_the_first_hundred() -> None:
    """One of two relevant products has place 101, so the recall is 0.5."""
    scores = np.arange(200, 0, -1, dtype=float)
    assert judged_metrics(scores, {0: 1, 100: 3})["recall100"] == 0.5
