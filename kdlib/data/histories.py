"""Histories of some users in memory, one after the other. The recommender reads them.

Shapes: B users, N positions of all histories, U features of the users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kdlib.data.windows import Marks, marks_of, ragged, take_slices


@dataclass(frozen=True)
class Histories:
    """The interactions of B users, each user's oldest first."""

    user_ids: Sequence[str | None] | pa.ChunkedArray
    items_N: NDArray
    """int64, indices into the vocabulary."""
    marks: Marks
    """Of the same positions. `owners` are rows of `user_ids`."""

    @classmethod
    def of(cls, table: pa.Table) -> "Histories":
        """The rows of a table HISTORIES. The columns of the split are not read."""
        return cls(table["user_id"], ragged(table["item_indices"])[0].astype(np.int64), marks_of(table))

    def __len__(self) -> int:
        return len(self.user_ids)

    @cached_property
    def lengths_B(self) -> NDArray:
        """Number of interactions of each user, int64."""
        return np.bincount(self.marks.owners, minlength=len(self))

    def take(self, rows: NDArray) -> "Histories":
        """The histories of some users: int64 [rows]."""
        lengths = self.lengths_B[rows]
        places = take_slices((np.cumsum(self.lengths_B) - self.lengths_B)[rows], lengths)
        user_ids = [self.user_ids[int(row)] for row in rows]
        owners = np.repeat(np.arange(len(rows)), lengths)
        return Histories(list(map(str, user_ids)), self.items_N[places], self.marks.take(places, owners))
