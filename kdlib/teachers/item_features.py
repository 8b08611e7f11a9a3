"""`tables.ITEM_FEATURES` → what a model reads about the items.

Shapes: V items, E width of all vectors together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch
from torch import Tensor

from kdlib.models.item_values import ItemValues

LEAST_ITEMS = 2
"""A value that fewer items have tells nothing that an item's own embedding does not."""
KNOTS = 16
"""Most knots of a number: quantiles over the items, so that each stretch has equally many."""


class ItemFeatures(NamedTuple):
    """What a model reads about the items beside titles."""

    values: ItemValues | None
    """Categories and numbers; None where there are none."""
    vectors_VE: Tensor | None
    """float32, the features of kind `vector` side by side, each scaled to length 1; zeros where an item has none."""


def read_item_features(folder: Path, names: Sequence[str], *, num_items: int) -> ItemFeatures:
    """Read some features of the items.

    Args:
      folder: of `tables.ITEM_FEATURES`.
      names: the features to read.
      num_items: V. Items from V on are left out.
    """
    table = pads.dataset(folder, format="parquet").to_table(
        filter=pads.field("feature").isin(list(names)) & (pads.field("item_index") < num_items)
    )
    entries, vectors, num_values = [], [], 0
    for name in names:
        rows = table.filter(pc.call_function("equal", [table["feature"], pa.scalar(name)])).sort_by("item_index")
        items = rows["item_index"].to_numpy()
        if rows["vector"].null_count < len(rows):
            vectors.append(_unit_vectors(items, rows["vector"].combine_chunks(), num_items))
            continue
        numbers = rows["number"].null_count < len(rows)
        one = (
            _numbers(items, rows["number"].to_numpy())
            if numbers
            else _categories(items, rows["values"].combine_chunks())
        )
        entries.append((one[0], one[1] + num_values, one[2]))
        num_values += 1 + one[1].max(initial=-1)
    return ItemFeatures(
        _item_values(entries, num_values, num_items) if num_values else None,
        torch.cat(vectors, 1) if vectors else None,
    )


Entries = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Items, values and weights of entries: int, int from 0, float."""


def _categories(items: np.ndarray, lists: pa.ListArray) -> Entries:
    """An entry for each value of an item that enough items have. A value's number follows the alphabet."""
    owners = np.repeat(items, lists.value_lengths().to_numpy())
    texts = lists.flatten().dictionary_encode()
    in_order = pc.call_function("array_sort_indices", [texts.dictionary]).to_numpy()
    counts = np.bincount(texts.indices.to_numpy(), minlength=len(in_order))
    number_of = np.full(len(in_order), -1)
    often = in_order[counts[in_order] >= LEAST_ITEMS]
    number_of[often] = np.arange(len(often))
    values = number_of[texts.indices.to_numpy()]
    owners, values = owners[values >= 0], values[values >= 0]
    return owners, values, 1.0 / np.bincount(owners, minlength=1)[owners] if len(owners) else np.zeros(0)


def _numbers(items: np.ndarray, numbers: np.ndarray) -> Entries:
    """Two entries for each number: the knots below and above it, with weights by the distance."""
    knots = np.unique(np.quantile(numbers, np.linspace(0, 1, KNOTS)))
    if len(knots) == 1:
        return items, np.zeros(len(items), np.int64), np.ones(len(items))
    below = np.clip(np.searchsorted(knots, numbers, side="right") - 1, 0, len(knots) - 2)
    share = (numbers - knots[below]) / (knots[below + 1] - knots[below])
    weights = np.concatenate([1 - share, share])
    kept = weights > 0
    return np.tile(items, 2)[kept], np.concatenate([below, below + 1])[kept], weights[kept]


def _unit_vectors(items: np.ndarray, lists: pa.ListArray, num_items: int) -> Tensor:
    vectors_VE = torch.zeros(num_items, len(lists[0]))
    read = torch.from_numpy(lists.flatten().to_numpy().reshape(len(items), -1).copy())
    vectors_VE[torch.from_numpy(items.astype(np.int64))] = torch.nn.functional.normalize(read.float(), dim=1)
    return vectors_VE


def _item_values(entries: Sequence[Entries], num_values: int, num_items: int) -> ItemValues:
    items, values, weights = (np.concatenate([one[part] for one in entries]) for part in range(3))
    order = np.argsort(items, kind="stable")
    counts_V = np.bincount(items, minlength=num_items)
    return ItemValues(
        torch.from_numpy(values[order].astype(np.int64)),
        torch.from_numpy(np.cumsum(counts_V) - counts_V),
        torch.from_numpy(weights[order].astype(np.float32)),
        torch.from_numpy(np.bincount(values, minlength=num_values).astype(np.float32)).clamp_min(1.0),
    )
