"""The metrics beyond accuracy, by hand and by brute force, and their rows in the table of metrics."""

import math
from datetime import date
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlib.metrics.beyond import (
    Items,
    beyond_table,
    coverage,
    diversity,
    first_seen_lately,
    gini,
    inverse_user_frequency,
    list_means,
)
from kdlib.metrics.table import format_metrics, metrics_table
from kdlib.store import tables

EMPTY = [-1, -1, -1]
VECTORS = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]], np.float32)
ITEMS = Items(
    num_users=np.array([4, 2, 1, 0, 0]),
    num_interactions=np.array([10, 2, 1, 0, 0]),
    vectors=VECTORS,
    is_new=np.array([False, False, True, True, False]),
    total_users=4,
)


def _rows(lists, items=ITEMS, segments=None, **options):
    found = beyond_table(lists, items, k=2, segments=segments or {}, samples=200, seed=0, **options)
    tables.check_schema(tables.METRICS, found.schema, where="test")
    return {(row["model"], row["metric"]): row for row in found.to_pylist()}


def test_a_mean_leaves_out_the_padding() -> None:
    """A short list is averaged over its own items, and an empty list has no mean."""
    found = list_means(np.array([[0, 1, 2], [2, -1, -1], EMPTY]), np.array([3.0, 6.0, 9.0]))
    np.testing.assert_array_equal(found, [6.0, 9.0, np.nan])


def test_novelty_by_hand() -> None:
    """All users know an item: 0 bits. Half of them know it: 1 bit. An item that nobody knows counts as one user's."""
    np.testing.assert_allclose(inverse_user_frequency(np.array([4, 2, 1, 0]), 4), [0.0, 1.0, 2.0, 2.0])


def test_diversity_by_hand() -> None:
    """Same direction 0, right angle 1, opposite 2, a vector of zeros 1; one item 0; an empty list has no value."""
    pairs = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [3, -1], [-1, -1]])
    np.testing.assert_allclose(diversity(pairs, VECTORS), [0.0, 1.0, 2.0, 1.0, 0.0, np.nan], atol=1e-12)


def test_diversity_is_the_mean_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It equals the mean of 1 − cosine, pair by pair, whatever the number of lists at a time."""
    monkeypatch.setattr("kdlib.metrics.beyond._ROWS", 7)
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(30, 5)).astype(np.float32)
    lists = np.array([generator.permutation(30)[:8] for _ in range(20)])
    lists[np.arange(8) >= generator.integers(2, 9, (20, 1))] = -1

    def cosine(left, right):
        return left @ right / math.sqrt((left @ left) * (right @ right))

    wide = vectors.astype(np.float64)
    expected = [np.mean([1 - cosine(wide[a], wide[b]) for a, b in combinations(one[one >= 0], 2)]) for one in lists]
    np.testing.assert_allclose(diversity(lists, vectors), expected, atol=1e-12)


@given(st.lists(st.lists(st.integers(-1, 5), min_size=3, max_size=3), min_size=1, max_size=8))
def test_coverage_and_gini_by_brute_force(lists: list[list[int]]) -> None:
    """Gini is the mean absolute difference of all pairs of items over twice the mean, also with ties and unused items."""
    times = [sum(one.count(item) for one in lists) for item in range(6)]
    found = np.array(lists)
    assert coverage(found, 6) == sum(time > 0 for time in times) / 6
    if sum(times):
        differences = sum(abs(a - b) for a in times for b in times)
        assert gini(found, 6) == pytest.approx(differences / (2 * 6 * sum(times)))
    else:
        assert math.isnan(gini(found, 6))


def test_gini_ends() -> None:
    """Lists that share the items equally have 0. If one of V items fills all lists, Gini is 1 − 1/V."""
    assert gini(np.array([[0, 1], [2, 3]]), 4) == 0
    assert gini(np.array([[2, -1], [2, -1]]), 4) == 0.75


def test_new_items_by_day() -> None:
    """The last `days` days count, `last_day` included. Items of the first run are never new."""
    seen, last = ["2026-11-01", "2026-11-15", "2026-11-16", "2026-11-22"], date(2026, 11, 22)
    for first_seen, days, expected in (
        (seen, 7, [False, False, True, True]),
        (seen, 100, [False, True, True, True]),
        (seen[2:], 7, [False, True]),
    ):
        np.testing.assert_array_equal(first_seen_lately(first_seen, last_day=last, days=days), expected)
    assert first_seen_lately(["2026-11-22"] * 2, last_day=last, days=7) is None


def test_the_rows_of_a_model() -> None:
    """Means are of the first k items and have intervals. Coverage is of the whole lists, and Gini has no interval."""
    rows = _rows({"student": np.array([[0, 1, 2], [2, -1, -1], [0, 1, 3]])})
    values = {metric: row["value"] for (_, metric), row in rows.items()}
    assert values == pytest.approx(
        {
            "novelty@2": (0.5 + 2.0 + 0.5) / 3,
            "popularity@2": (6 + 1 + 6) / 3,
            "diversity@2": 0.0,
            "new_items@2": 1 / 3,
            "coverage@3": 4 / 5,
            "gini@2": gini(np.array([[0, 1], [2, -1], [0, 1]]), 5),
        },
        abs=1e-12,
    )
    assert rows["student", "new_items@2"]["low"] < 1 / 3 < rows["student", "new_items@2"]["high"]
    assert rows["student", "gini@2"]["low"] is None
    assert {row["num_users"] for row in rows.values()} == {3}


def test_a_segment_has_its_own_rows() -> None:
    """`<metric>/<segment>` is over the users of the segment only, and the rows of all users stay the same."""
    lists = {"student": np.array([[0, 1], [2, 3], [2, 3]])}
    rows = _rows(lists, segments={"few": np.array([True, False, False]), "many": np.array([False, True, True])})
    assert {key: row for key, row in rows.items() if "/" not in key[1]} == _rows(lists)
    assert (rows["student", "popularity@2/few"]["value"], rows["student", "popularity@2/few"]["num_users"]) == (6, 1)
    assert rows["student", "new_items@2/many"]["value"] == 1.0
    assert (rows["student", "coverage@2/many"]["value"], rows["student", "gini@2/many"]["num_users"]) == (0.4, 2)


def test_one_user_has_an_interval_without_width() -> None:
    """With one user all resamples are the same."""
    row = _rows({"student": np.array([[0, 1]])})["student", "novelty@2"]
    assert (row["value"], row["low"], row["high"], row["num_users"]) == (0.5, 0.5, 0.5, 1)


def test_a_user_with_an_empty_list_is_left_out_for_all_models() -> None:
    """All models are compared on the same users: those to whom each model gives at least one item."""
    rows = _rows({"student": np.array([[0, 1], [2, 3]]), "old": np.array([[0, 1], [-1, -1]])})
    for name in ("student", "old"):
        assert (rows[name, "novelty@2"]["value"], rows[name, "novelty@2"]["num_users"]) == (0.5, 1)
    assert (rows["student", "coverage@2"]["value"], rows["student", "coverage@2"]["num_users"]) == (0.8, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lists", [np.zeros((0, 3), int), np.array([EMPTY])])
def test_without_lists_the_means_are_not_a_number(lists: np.ndarray) -> None:
    """Without a list, means and Gini are NaN, coverage is 0, and nothing fails."""
    rows = _rows({"student": lists})
    assert all(math.isnan(rows["student", metric]["value"]) for metric in ("novelty@2", "diversity@2", "gini@2"))
    assert rows["student", "novelty@2"]["num_users"] == 0
    assert rows["student", "coverage@3"]["value"] == 0


def test_without_days_there_are_no_new_items() -> None:
    """If nobody knows which items are new, the metric is missing, not 0."""
    rows = _rows({"student": np.array([[0, 1]])}, ITEMS._replace(is_new=None))
    assert ("student", "new_items@2") not in rows
    assert ("student", "novelty@2") in rows


def test_the_printed_coverage_is_of_all_users() -> None:
    """A segment's coverage is not printed in place of the coverage of all users."""
    lists = {"student": np.array([[0, 1], [2, 3]])}
    accuracy = metrics_table({"student": np.array([0, 1])}, (2,), pairs=[], samples=5, seed=0)
    beyond = beyond_table(lists, ITEMS, k=2, segments={"few": np.array([True, False])}, samples=5, seed=0)
    assert "80.0%" in format_metrics(pa.concat_tables([accuracy, beyond]), k=2)
