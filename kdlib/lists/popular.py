"""Popular items: what people do most with lately, for visitors without a history.

An event counts half as much for each half-life of its age. There is a list over all items and users, one for each value
of an item feature (a category), and one for each value of a user feature (a segment).

Shapes: V items, G groups, M members of all groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from scipy.sparse import coo_array, csr_array

from kdlib.data.windows import ragged
from kdlib.lists.rows import Lists, best_of_each
from kdlib.store.days import MICROSECONDS_A_DAY

COLUMNS = ["user_id", "item_indices", "event_times"]


class Groups(NamedTuple):
    """Items or users by the values of their features."""

    names: pa.Table
    """`feature` and `value`, string [groups]."""
    groups_M: np.ndarray
    """int64, the number of the group."""
    members: pa.ChunkedArray
    """int32 item indices or string user ids [M]."""


def groups_of(features: pa.Table, *, key: str) -> Groups:
    """The groups of a table of features.

    Args:
      features: the columns `key`, `feature` and `values` (list of string, null or empty: no group).
      key: `item_index` or `user_id`.
    """
    values = features["values"].combine_chunks()
    rows = values.value_parent_indices()
    flat = pa.table({"feature": features["feature"].take(rows), "value": values.flatten()})
    names = (
        flat.group_by(["feature", "value"]).aggregate([]).sort_by([("feature", "ascending"), ("value", "ascending")])
    )
    numbered = names.append_column("group", pa.array(np.arange(len(names))))
    flat = flat.append_column("member", features[key].take(rows)).join(numbered, ["feature", "value"])
    return Groups(names, flat["group"].to_numpy(), flat["member"])


def recent_events(
    files: Sequence[str], *, until: int, half_life_days: float, num_items: int, segments: Groups | None = None
) -> tuple[np.ndarray, csr_array]:
    """The decayed events of each item: of all users, float64 [items], and of each segment, sparse [segments, items].

    Args:
      files: Parquet files of `tables.HISTORIES`.
      until: the end of the data's last day, in microseconds since 1970.
      half_life_days: an event of this age counts half.
      num_items: V.
      segments: groups of users.
    """
    all_V = np.zeros(num_items)
    num_segments = len(segments.names) if segments else 0
    by_segment = csr_array((num_segments, num_items))
    for batch in pads.dataset(list(files), format="parquet").to_batches(columns=COLUMNS):
        items, offsets = ragged(batch["item_indices"])
        ages = until - ragged(batch["event_times"])[0].astype("datetime64[us]").astype(np.int64)
        weights = 0.5 ** (ages / (half_life_days * MICROSECONDS_A_DAY))
        all_V += np.bincount(items, weights, minlength=num_items)
        if segments:
            by_user = csr_array((weights, items, offsets), shape=(len(batch), num_items))
            users = pc.SetLookupOptions(value_set=batch["user_id"])
            rows = pc.call_function("index_in", [segments.members], users)
            here = rows.is_valid().to_numpy()
            cells = (np.ones(int(here.sum())), (segments.groups_M[here], rows.drop_null().to_numpy()))
            by_segment = by_segment + csr_array(cells, shape=(num_segments, len(batch))) @ by_user
    return all_V, by_segment


def popular_items(
    all_V: np.ndarray, by_segment: csr_array, categories: Groups | None, *, allowed_V: np.ndarray, k: int
) -> Lists:
    """The k items with the most decayed events: of all, then in each category, then in each segment.

    Owner 0 is the list of all. The categories follow in their order, then the segments in theirs.

    Args:
      all_V: from `recent_events`.
      by_segment: likewise.
      categories: groups of items.
      allowed_V: bool [items]: the item may be in a list.
      k: length of the lists. A list holds only items with an event.
    """
    items_V = np.arange(len(all_V))
    owners, items, scores = [np.zeros(len(all_V), np.int64)], [items_V], [all_V]
    first = 1
    if categories:
        members = categories.members.to_numpy().astype(np.int64)
        owners.append(categories.groups_M + first)
        items.append(members)
        scores.append(all_V[members])
        first += len(categories.names)
    of_segment = coo_array(by_segment)
    owners_N = np.concatenate([*owners, of_segment.row.astype(np.int64) + first])
    items_N = np.concatenate([*items, of_segment.col.astype(np.int64)])
    scores_N = np.concatenate([*scores, of_segment.data])
    kept = allowed_V[items_N] & (scores_N > 0)
    return best_of_each(owners_N[kept], items_N[kept], scores_N[kept], k=k)


def owners_of(categories: Groups | None, segments: Groups | None) -> dict[str, pa.Array]:
    """The key's columns of POPULAR_ITEMS for the owners of `popular_items`."""
    columns: dict[str, list[str]] = {"of": ["all"], "feature": [""], "value": [""]}
    for of, groups in (("items", categories), ("users", segments)):
        if groups:
            columns["of"] += [of] * len(groups.names)
            columns["feature"] += groups.names["feature"].to_pylist()
            columns["value"] += groups.names["value"].to_pylist()
    return {name: pa.array(values, pa.string()) for name, values in columns.items()}
