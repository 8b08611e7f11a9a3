"""The two baselines every report shows: popularity and a first-order Markov chain, counted on training positions.

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
    """How often each item followed another: row i's followers are `items[offsets[i]:offsets[i + 1]]`."""

    offsets: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    popularity: np.ndarray
    """float64 [V]: breaks ties, and scores what never followed."""

    def scores(self, last_items: np.ndarray) -> Tensor:
        """float64 [B, V]: the count of each item after the row's last item; ties by popularity."""
        scores = np.broadcast_to(
            self.popularity / (self.popularity.max() + 1.0), (len(last_items), len(self.popularity))
        ).copy()
        lengths = np.diff(self.offsets)[last_items]
        flat = take_slices(self.offsets[last_items], lengths)
        scores[np.repeat(np.arange(len(last_items)), lengths), self.items[flat]] += self.counts[flat]
        return torch.from_numpy(scores)


MERGE_PAIRS = 1 << 22
"""At least so many pairs wait before they are counted."""


def _merged(keys: np.ndarray, counts: np.ndarray, waiting: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, sorted, and how often each was found: so often before, and once each time that it waits."""
    found, place = np.unique(np.concatenate([keys, *waiting]), return_inverse=True)
    weights = np.concatenate([counts, np.ones(sum(map(len, waiting)), np.int64)])
    return found, np.bincount(place, weights=weights, minlength=len(found)).astype(np.int64)


def count_transitions(files: Sequence[str], popularity: np.ndarray) -> Markov:
    """Count adjacent pairs at training positions.

    Args:
      files: Parquet files of `tables.HISTORIES`.
      popularity: training interactions an item [V].
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
        if sum(map(len, waiting)) > max(len(keys), MERGE_PAIRS):  # few merges, whatever the size
            keys, counts, waiting = *_merged(keys, counts, waiting), []
    keys, counts = _merged(keys, counts, waiting)
    offsets = np.searchsorted(keys // num_items, np.arange(num_items + 1))
    return Markov(offsets, keys % num_items, counts, popularity.astype(np.float64))
