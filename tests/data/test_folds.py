"""Folds of users, for cross-fitted teachers."""

import numpy as np
import pyarrow as pa

from kdlib.data.folds import fold_of, outside_fold

USERS = [f"user{number}" for number in range(3_000)]


def test_folds_are_even_and_the_same_every_time() -> None:
    """A user's fold depends on the id alone, and each fold gets about its share of the users."""
    folds = fold_of(USERS, 3)
    assert (fold_of(USERS[::-1], 3) == folds[::-1]).all()
    assert fold_of(["zebra", "Ärmel", ""], 5).tolist() == [3, 1, 0]  # a stored target depends on these
    assert np.bincount(folds, minlength=3).min() > 900
    assert (fold_of(USERS, 1) == 0).all()


def test_every_user_is_left_out_once() -> None:
    """The tables without each fold hold every row in all but one of them, in the old order."""
    rows = pa.table({"user_id": USERS, "row": range(len(USERS))})
    held = [outside_fold(rows, fold=fold, folds=3) for fold in range(3)]
    counts = np.bincount(np.concatenate([part["row"].to_numpy() for part in held]), minlength=len(USERS))
    assert (counts == 2).all()
    for fold, part in enumerate(held):
        assert (fold_of(part["user_id"].to_pylist(), 3) != fold).all()
        assert (np.diff(part["row"].to_numpy()) > 0).all()


def test_a_table_without_rows_stays_one() -> None:
    """An empty block of a stream passes through."""
    assert len(outside_fold(pa.table({"user_id": pa.array([], pa.string())}), fold=0, folds=2)) == 0
