"""The table of metrics: slices of the users beside the whole."""

import numpy as np
import pytest

from kdlib import tables
from kdlib.metrics.table import format_metrics, metrics_table

RANKS = {
    "student": np.array([0, 2, 20, 0]),
    "control": np.array([0, 20, 20, 2]),
    "popularity": np.array([20, 20, 0, 20]),
}
SLICES = {"ndcg@10": {"head": np.array([True, True, False, False]), "tail": np.array([False, False, True, True])}}


def _table(slices=None):
    return metrics_table(RANKS, {}, (5, 10), pairs=[("student", "control")], samples=50, seed=0, slices=slices)


def test_slices_are_means_over_their_users() -> None:
    """Every model and pair has the metric of each slice, over the slice's users alone, with an interval."""
    found = _table(SLICES)
    tables.check_schema(tables.METRICS, found.schema, where="test")
    rows = {(row["model"], row["metric"]): row for row in found.to_pylist()}
    assert rows["student", "ndcg@10/head"]["value"] == pytest.approx(0.75)
    assert rows["student", "ndcg@10/tail"]["value"] == pytest.approx(0.5)
    assert rows["student - control", "ndcg@10/head"]["value"] == pytest.approx(0.25)
    assert rows["popularity", "ndcg@10/tail"]["num_users"] == 2
    assert rows["student", "ndcg@10/head"]["low"] == 0.5
    assert rows["student", "ndcg@10/head"]["high"] == 1.0
    assert ("student", "ndcg@5/head") not in rows


def test_slices_leave_the_rest_as_it_is() -> None:
    """The rows of the whole, and so what is printed, are the same with and without slices."""
    whole = [row for row in _table(SLICES).to_pylist() if "/" not in row["metric"]]
    assert whole == _table().to_pylist()
    assert format_metrics(_table(SLICES), k=10) == format_metrics(_table(), k=10)


def test_a_difference_is_told_only_where_the_interval_leaves_no_doubt() -> None:
    """An interval on both sides of 0 is no clear difference; one above it is higher, one below lower."""
    ranks = {
        "a": np.array([0, 30] * 25),
        "b": np.array([30, 0] * 25),
        "good": np.zeros(50, int),
        "bad": np.full(50, 30),
    }
    pairs = [("a", "b"), ("good", "bad"), ("bad", "good")]
    text = format_metrics(metrics_table(ranks, {}, (10,), pairs=pairs, samples=50, seed=0), k=10)
    told = [line.split("] ")[-1] for line in text.splitlines()[-3:]]
    assert told == ["no clear difference", "higher", "lower"]
