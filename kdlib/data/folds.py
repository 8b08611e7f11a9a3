"""Folds of users, for cross-fitted teachers: the targets for a user come from a model that never saw this user."""

import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from kdlib.data.windows import ragged, take_slices


def fold_of(user_ids: Iterable[str], folds: int) -> np.ndarray:
    """Each user's fold, int64 in [0, folds). It is a hash of the id alone, so it is the same in every job and run."""
    return np.fromiter((zlib.crc32(user.encode()) % folds for user in user_ids), np.int64)


def outside_fold(rows: pa.Table, *, fold: int, folds: int) -> pa.Table:
    """The rows of all users outside the fold, in their order.

    Args:
      rows: any table with `user_id`.
      fold: the fold to leave out, 0 ≤ fold < folds.
      folds: at least 2.
    """
    kept = fold_of(rows["user_id"].to_pylist(), folds) != fold
    return rows.filter(pa.array(kept))


def training_counts(files: Sequence[str], change: Callable[[pa.Table], pa.Table], *, num_items: int) -> np.ndarray:
    """Training interactions of each item in changed histories: all of them, and those inside training windows.

    Args:
      files: Parquet files of `tables.HISTORIES`.
      change: rows with `user_id`, `item_indices` and `num_train` → the rows to count, such as `outside_fold` with its
        fold, or `whole_histories`.
      num_items: size of the vocabulary.

    Returns:
      int64 [2, items]: `num_train` and `num_in_windows` of `tables.ITEM_STATISTICS`.
    """
    counts = np.zeros((2, num_items), np.int64)
    columns = ["user_id", "item_indices", "num_train"]
    for batch in pads.dataset(list(files), format="parquet").to_batches(columns=columns):
        rows = change(pa.Table.from_batches([batch]))
        items, offsets = ragged(rows["item_indices"])
        num_train = rows["num_train"].to_numpy().astype(np.int64)
        for kind, lengths in enumerate((num_train, np.where(num_train >= 2, num_train, 0))):
            counts[kind] += np.bincount(items[take_slices(offsets[:-1], lengths)], minlength=num_items)
    return counts
