"""From scored pairs to the rows of a table of lists, and the checks of the written table.

Shapes: N pairs of a list's owner and an item.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.errors import ContractError
from kdlib.store.contract import Table


class Lists(NamedTuple):
    """Lists of items, one owner after the other, best first."""

    owners_N: np.ndarray
    """int64, ascending: whose list the item is in, a number."""
    items_N: np.ndarray
    """int64 item indices."""
    scores_N: np.ndarray
    """float32."""


def best_of_each(owners_N: np.ndarray, items_N: np.ndarray, scores_N: np.ndarray, *, k: int) -> Lists:
    """The k items with the highest score of each owner; equal scores by the smaller item index.

    Args:
      owners_N: int; the pairs of owner and item are distinct, in any order.
      items_N: int item indices.
      scores_N: float.
      k: length of the lists.
    """
    order = np.lexsort((items_N, -scores_N, owners_N))
    owners_N = owners_N[order]
    place_N = np.arange(len(order)) - np.searchsorted(owners_N, owners_N)
    kept = order[place_N < k]
    return Lists(
        owners_N[place_N < k].astype(np.int64), items_N[kept].astype(np.int64), scores_N[kept].astype(np.float32)
    )


def near_the_top(scores_N: np.ndarray, offsets: np.ndarray, *, k: int) -> np.ndarray:
    """Which pairs have one of their owner's k highest scores, equal scores included: bool [N].

    It makes `best_of_each` fast where an owner has far more than k pairs.

    Args:
      scores_N: float, owner after owner.
      offsets: owner i has the pairs `offsets[i]:offsets[i + 1]`.
      k: length of the lists.
    """
    near_N = np.ones(len(scores_N), bool)
    for start, end in pairwise(offsets.tolist()):
        if end - start > k:
            of_owner = scores_N[start:end]
            near_N[start:end] = of_owner >= np.partition(of_owner, -k)[-k]
    return near_N


def rows_of(
    lists: Lists, table: Table, owners: Mapping[str, pa.Array | pa.ChunkedArray], *, item_ids: pa.Array, **same: Any
) -> pa.Table:
    """One row of the table for each owner that has a list.

    Args:
      lists: the lists.
      table: the contract.
      owners: the key's columns of all owners, in the order of their numbers.
      item_ids: string [items], in index order.
      same: columns with the same value in each row.
    """
    numbers, lengths = np.unique(lists.owners_N, return_counts=True)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    columns = {name: column.take(pa.array(numbers)) for name, column in owners.items()}
    columns["item_ids"] = pa.ListArray.from_arrays(offsets, item_ids.take(pa.array(lists.items_N)))
    columns["scores"] = pa.ListArray.from_arrays(offsets, pa.array(lists.scores_N))
    columns |= {name: pa.repeat(pa.scalar(value), len(numbers)) for name, value in same.items()}
    return pa.table(columns).select(table.schema.names).cast(table.schema)


def check_lists(table: Table, folder: Path, *, k: int, unavailable: frozenset[str]) -> None:
    """Check a written table of lists row by row.

    Args:
      table: the contract, with the columns `item_ids` and `scores`.
      folder: its Parquet files.
      k: length of the longest list.
      unavailable: item ids that must be in no list.

    Raises:
      ContractError: a key occurs twice. Or a list is empty or too long, repeats an item, holds an unavailable item or
        the item that the list is about, or has a score that is not finite.
    """
    rows = pq.read_table(folder)
    lists, scores = (rows[name].combine_chunks() for name in ("item_ids", "scores"))
    lengths = lists.value_lengths().to_numpy()
    owners = np.repeat(np.arange(len(rows)), lengths)
    codes = lists.flatten().dictionary_encode()
    pairs = owners * max(1, len(codes.dictionary)) + codes.indices.to_numpy()
    faults = {
        "the same key twice": rows.group_by(list(table.key)).aggregate([]).num_rows < len(rows),
        f"a list without an item, or with more than {k}": len(rows) and not 1 <= lengths.min() <= lengths.max() <= k,
        "a list without one score for each item": not np.array_equal(scores.value_lengths().to_numpy(), lengths),
        "the same item twice in a list": len(np.unique(pairs)) < len(pairs),
        "a score that is not a finite number": not np.isfinite(scores.flatten().to_numpy()).all(),
        "an item that is not available": unavailable.intersection(codes.dictionary.to_pylist()),
    }
    if "item_id" in table.key:
        own = rows["item_id"].take(pa.array(owners)).to_numpy()
        faults["an item in its own list"] = (own == lists.flatten().to_numpy(zero_copy_only=False)).any()
    for fault, found in faults.items():
        if found:
            raise ContractError(f"table {table.name} at {folder} has {fault}. Run `distilrec recommend-lists` again")
