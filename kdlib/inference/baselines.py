"""The first-order Markov baseline, counted on training positions.

Shapes: B rows, V items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.dataset as pads
import torch
from torch import Tensor

from kdlib.data.windows import ragged, take_slices


@dataclass(frozen=True)
class Markov:
    """How often each item followed another item. The followers of item i are `items[offsets[i]:offsets[i + 1]]`."""

    offsets: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    popularity: np.ndarray
    """float64 [items]. Orders items with equal counts, and items that never followed."""

    def scores(self, last_items: np.ndarray) -> Tensor:
        """How often each item followed the row's last item, equal counts by popularity: float64 [rows, items]."""
        scores = np.broadcast_to(
            self.popularity / (self.popularity.max() + 1.0), (len(last_items), len(self.popularity))
        ).copy()
        lengths = np.diff(self.offsets)[last_items]
        flat = take_slices(self.offsets[last_items], lengths)
        scores[np.repeat(np.arange(len(last_items)), lengths), self.items[flat]] += self.counts[flat]
        return torch.from_numpy(scores)


MERGE_PAIRS = 1 << 22
"""`count_transitions` merges pairs into its counts when more than this number wait."""


def _merged(keys: np.ndarray, counts: np.ndarray, waiting: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and their counts: each waiting key adds 1 to its count so far."""
    found, place = np.unique(np.concatenate([keys, *waiting]), return_inverse=True)
    weights = np.concatenate([counts, np.ones(sum(map(len, waiting)), np.int64)])
    return found, np.bincount(place, weights=weights, minlength=len(found)).astype(np.int64)


def count_transitions(files: Sequence[str], popularity: np.ndarray) -> Markov:
    """Count neighbouring pairs of items at training positions.

    Args:
      files: Parquet files of `tables.HISTORIES`.
      popularity: training interactions of each item [items].
    """
    num_items = len(popularity)
    keys, counts, waiting = np.zeros(0, np.int64), np.zeros(0, np.int64), []
    for batch in pads.dataset(list(files), format="parquet").to_batches(columns=["item_indices", "num_train"]):
        if not len(batch):
            continue
        items, offsets = ragged(batch["item_indices"])
        pairs = np.maximum(batch["num_train"].to_numpy().astype(np.int64) - 1, 0)
        first = take_slices(offsets[:-1], pairs)
        waiting.append(items[first].astype(np.int64) * num_items + items[first + 1])
        if sum(map(len, waiting)) > max(len(keys), MERGE_PAIRS):  # keeps merges few at any size
            keys, counts, waiting = *_merged(keys, counts, waiting), []
    keys, counts = _merged(keys, counts, waiting)
    offsets = np.searchsorted(keys // num_items, np.arange(num_items + 1))
    return Markov(offsets, keys % num_items, counts, popularity.astype(np.float64))
