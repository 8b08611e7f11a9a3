"""The best of each owner against a sort, and the checks of a written table."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import ContractError
from kdlib.lists.rows import best_of_each, check_lists, near_the_top, rows_of
from kdlib.store.list_tables import BOUGHT_TOGETHER, BUY_AGAIN
from tests.lists.histories import FIRST_DAY

ITEM_IDS = pa.array(["i0", "i1", "i2", "i3"])


@settings(max_examples=60, deadline=None)
@given(pairs=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 9))), levels=st.integers(1, 4), k=st.integers(1, 12))
def test_equals_a_sort(pairs, levels, k):
    """Each owner keeps its k highest scores; equal scores are in the order of the items."""
    draw = np.random.default_rng(len(pairs))
    rows = [(owner, item, int(draw.integers(-levels, levels + 1))) for owner, item in pairs]
    expected = []
    for owner in range(5):
        expected += sorted((row for row in rows if row[0] == owner), key=lambda row: (-row[2], row[1]))[:k]
    owners, items, scores = np.array(sorted(rows), np.int64).reshape(-1, 3).T
    lists = best_of_each(owners, items, scores, k=k)
    assert list(zip(*(column.tolist() for column in lists), strict=True)) == expected
    near = near_the_top(scores, np.searchsorted(owners, np.arange(6)), k=k)
    again = best_of_each(owners[near], items[near], scores[near], k=k)
    assert all(np.array_equal(one, other) for one, other in zip(lists, again, strict=True))


def test_tiny_scores_keep_their_order():
    """Scores that float32 cannot tell from 0 are still compared."""
    lists = best_of_each(np.zeros(3, int), np.array([1, 2, 3]), np.array([1e-60, 3e-60, 2e-60]), k=3)
    assert lists.items_N.tolist() == [2, 3, 1]


def write(folder, table, key, item_ids, scores):
    rows = {table.key[0]: key, "item_ids": item_ids, "scores": scores, "generated_at": [FIRST_DAY] * len(key)}
    pq.write_table(pa.table(rows).cast(table.schema), folder / "part.parquet")


def test_rows_of_owners_with_a_list(tmp_path):
    """An owner without a list has no row, and the written rows pass the checks."""
    lists = best_of_each(np.array([2, 0, 2]), np.array([1, 3, 3]), np.array([0.5, 1.0, 2.0]), k=2)
    table = rows_of(lists, BUY_AGAIN, {"user_id": pa.array(["a", "b", "c"])}, item_ids=ITEM_IDS, generated_at=FIRST_DAY)
    assert table.select(["user_id", "item_ids", "scores"]).to_pylist() == [
        {"user_id": "a", "item_ids": ["i3"], "scores": [1.0]},
        {"user_id": "c", "item_ids": ["i3", "i1"], "scores": [2.0, 0.5]},
    ]
    pq.write_table(table, tmp_path / "part.parquet")
    check_lists(BUY_AGAIN, tmp_path, k=2, unavailable=frozenset({"i0"}))


def test_no_rows_pass_the_checks(tmp_path):
    """A table without rows breaks no rule of lists."""
    write(tmp_path, BUY_AGAIN, [], [], [])
    check_lists(BUY_AGAIN, tmp_path, k=2, unavailable=frozenset({"i0"}))


@pytest.mark.parametrize(
    ("key", "item_ids", "scores", "fault"),
    [
        (["i0", "i0"], [["i1"], ["i2"]], [[1.0], [1.0]], "the same key twice"),
        (["i0", "i1"], [["i1"], []], [[1.0], []], "a list without an item, or with more than 2"),
        (["i0"], [["i1", "i2", "i3"]], [[1.0, 1.0, 1.0]], "a list without an item, or with more than 2"),
        (["i0"], [["i1", "i2"]], [[1.0]], "a list without one score for each item"),
        (["i0"], [["i1", "i1"]], [[1.0, 1.0]], "the same item twice in a list"),
        (["i0"], [["i1"]], [[float("nan")]], "a score that is not a finite number"),
        (["i0"], [["i9"]], [[1.0]], "an item that is not available"),
        (["i0"], [["i0"]], [[1.0]], "an item in its own list"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, key, item_ids, scores, fault):
    """The error names table and fault, and says what to run."""
    write(tmp_path, BOUGHT_TOGETHER, key, item_ids, scores)
    with pytest.raises(ContractError, match=f"bought_together at .* has {fault}. Run `distilrec recommend-lists`"):
        check_lists(BOUGHT_TOGETHER, tmp_path, k=2, unavailable=frozenset({"i9"}))
