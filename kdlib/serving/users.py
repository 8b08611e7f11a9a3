"""What a run knows of its users, held in memory: the codes that models read, and the segments of the policy.

Shapes: U features of the users.
"""

from bisect import bisect_left
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from kdlib.data.windows import ragged


class Users:
    """The users of a run, sorted by id, so that looking one up needs no files and no dictionary of all users.

    Args:
      histories: HISTORIES, where the student reads features of users. None: it reads none.
      num_values: U, the number of codes of a user.
      user_features: USER_FEATURES, where the policy has segments. None: it has none.
      segment_feature: the feature that names the segment.
    """

    def __init__(
        self, histories: Path | None, num_values: int, user_features: Path | None, segment_feature: str | None
    ) -> None:
        self._num_values = num_values
        self._ids, self._values = pa.array([], pa.string()), np.zeros((0, num_values), np.int8)
        self._with_segment, self._segments = pa.array([], pa.string()), pa.array([], pa.string())
        if histories is not None:
            table = _sorted(pads.dataset(histories, format="parquet").to_table(["user_id", "user_values"]))
            self._ids = table["user_id"].combine_chunks()
            self._values = ragged(table["user_values"])[0].reshape(len(table), num_values)
        if user_features is not None:
            rows = pads.dataset(user_features, format="parquet")
            table = _sorted(rows.to_table(["user_id", "values"], filter=pads.field("feature") == segment_feature))
            self._with_segment = table["user_id"].combine_chunks()
            # few texts for many users
            self._segments = pc.call_function("list_element", [table["values"], pa.scalar(0)]).combine_chunks()
            self._segments = self._segments.dictionary_encode()

    def values(self, user_id: str | None) -> np.ndarray:
        """The codes of a user, int8 [U]; zeros for an unknown user."""
        place = _place(self._ids, user_id)
        return np.zeros(self._num_values, np.int8) if place is None else self._values[place]

    def segment(self, user_id: str | None) -> str | None:
        """The segment of a user; None for a user without one."""
        place = _place(self._with_segment, user_id)
        return None if place is None else self._segments[place].as_py()


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by("user_id")


def _place(ids: pa.Array, user_id: str | None) -> int | None:
    """Where an id stands in sorted ids. Arrow sorts by bytes of UTF-8, which is Python's order of texts."""
    if user_id is None:
        return None
    place = bisect_left(ids, user_id, key=lambda one: one.as_py())
    return place if place < len(ids) and ids[place].as_py() == user_id else None
