"""Folds of users, for cross-fitted teachers."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.data.folds import fold_of, outside_fold, training_counts
from kdlib.data.windows import whole_histories
from tests.data.test_windows import histories

USERS = [f"user{number}" for number in range(3_000)]


def test_folds_are_even_and_the_same_every_time() -> None:
    """A user's fold depends on the id alone, and each fold gets about its share of the users."""
    folds = fold_of(USERS, 3)
    assert (fold_of(USERS[::-1], 3) == folds[::-1]).all()
    assert fold_of(["zebra", "Ärmel", ""], 5).tolist() == [3, 1, 0]  # stored targets depend on these
    assert np.bincount(folds, minlength=3).min() > 900
    assert (fold_of(USERS, 1) == 0).all()


def test_every_user_is_left_out_once() -> None:
    """There is one table without each fold. All of them but one hold a given row, and rows keep their order."""
    rows = pa.table({"user_id": USERS, "row": range(len(USERS))})
    held = [outside_fold(rows, fold=fold, folds=3) for fold in range(3)]
    counts = np.bincount(np.concatenate([part["row"].to_numpy() for part in held]), minlength=len(USERS))
    assert (counts == 2).all()
    for fold, part in enumerate(held):
        assert (fold_of(part["user_id"].to_pylist(), 3) != fold).all()
        assert (np.diff(part["row"].to_numpy()) > 0).all()


def test_a_table_without_rows_stays_one() -> None:
    """An empty block of a stream stays an empty table."""
    assert len(outside_fold(pa.table({"user_id": pa.array([], pa.string())}), fold=0, folds=2)) == 0


def test_counts_outside_a_fold_are_of_training_items_of_the_others(tmp_path: Path) -> None:
    """Each training interaction is counted for all folds but one. Validation and test items are never counted."""
    rows = [([0, 1, 2, 3], [0] * 4, 2, 2, 3), ([1, 1, 4], [0] * 3, 3, None, None), ([4], [0], 1, None, None)] * 20
    pq.write_table(histories(rows), tmp_path / "a.parquet")
    files = [str(tmp_path / "a.parquet")]
    counts = [training_counts(files, partial(outside_fold, fold=fold, folds=3), num_items=6) for fold in range(3)]
    of_users, of_windows = np.sum(counts, axis=0)
    assert of_users.tolist() == [2 * 20, 2 * 60, 0, 0, 2 * 40, 0]
    assert of_windows.tolist() == [2 * 20, 2 * 60, 0, 0, 2 * 20, 0], "an item of a history of one is in no window"
    mine = fold_of([f"u{number}" for number in range(60)], 3) != 1
    assert counts[1][0][0] == mine[::3].sum()


def test_counts_of_whole_histories_have_the_held_out_items(tmp_path: Path) -> None:
    """Validation and test items count as training items. An item of a history of one is in no window."""
    rows = [([0, 1, 2, 3], [0] * 4, 2, 2, 3), ([1, 1, 4], [0] * 3, 3, None, None), ([4], [0], 1, None, None)]
    pq.write_table(histories(rows), tmp_path / "a.parquet")
    counts, in_windows = training_counts([str(tmp_path / "a.parquet")], whole_histories, num_items=6)
    assert counts.tolist() == [1, 3, 1, 1, 2, 0]
    assert in_windows.tolist() == [1, 3, 1, 1, 1, 0]
