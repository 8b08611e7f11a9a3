"""Users in folds, for cross-fitted teachers: a teacher's targets for a user come from a model that never saw that user."""

import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa


def fold_of(user_ids: Iterable[str], folds: int) -> np.ndarray:
    """Each user's fold, int64 in [0, folds): a hash of the id alone, so the same in every job, on every night."""
    return np.fromiter((zlib.crc32(user.encode()) % folds for user in user_ids), np.int64)


def outside_fold(rows: pa.Table, *, fold: int, folds: int) -> pa.Table:
    """The rows of all users who are not in the fold, in their order.

    Args:
      rows: any table with `user_id`.
      fold: whom to leave out, 0 ≤ fold < folds.
      folds: at least 2.
    """
    kept = fold_of(rows["user_id"].to_pylist(), folds) != fold
    return rows.filter(pa.array(kept))
