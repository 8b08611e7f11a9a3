"""Count sequential rules over training windows, and predict the positions of these windows with them.

Shapes: T positions, S items of the windows, V items, N rules.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdlib.data.batches import WindowStore
from kdlib.data.windows import ragged, take_slices
from kdlib.models.rules import Counts, RuleSettings, SequentialRules

POPULARITY_FLOOR = 0.5
"""Training interactions assumed for an item that has none, so that no next item is impossible."""
MERGE_PAIRS = 1 << 22
"""`count_rules` merges pairs into its counts when more than this number wait."""


def count_rules(windows: Iterable[pa.Table], settings: RuleSettings, *, num_train_V: np.ndarray) -> SequentialRules:
    """Count the rules of training windows. Memory grows with the number of distinct pairs, not of windows.

    Args:
      windows: tables with the column `items` of `kdlib.data.windows.training_windows`.
      settings: of the model.
      num_train_V: training interactions of each item, for the popularity prior, [items].
    """
    num_items = len(num_train_V)
    merged = np.zeros(0, np.int64), np.zeros(0)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for table in windows:
        waiting.append(_pairs(table, settings, num_items))
        if sum(len(keys) for keys, _ in waiting) > max(len(merged[0]), MERGE_PAIRS):  # keeps merges few at any size
            merged, waiting = _merge([merged, *waiting]), []
    keys, weights = _merge([merged, *waiting])
    popularity = np.maximum(num_train_V.astype(np.float64), POPULARITY_FLOOR)
    return SequentialRules(
        settings,
        offsets_V1=torch.from_numpy(np.searchsorted(keys, np.arange(num_items + 1) * num_items).astype(np.int64)),
        consequents_N=torch.from_numpy((keys % num_items).astype(np.int32)),
        weights_N=torch.from_numpy(weights.astype(np.float32)),
        popularity_V=torch.from_numpy((popularity / popularity.sum()).astype(np.float32)),
    )


def _pairs(table: pa.Table, settings: RuleSettings, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Rules as keys `antecedent · items + consequent`, and their weights."""
    items, offsets = ragged(table["items"])
    first, second, weights = _weighted_pairs(offsets, settings)
    return _merge([(items[first].astype(np.int64) * num_items + items[second], weights)])


def _weighted_pairs(offsets: np.ndarray, settings: RuleSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of places in the same sequence within the largest distance: antecedents, consequents, weights.

    Args:
      offsets: sequence i has the places `offsets[i]:offsets[i + 1]`.
      settings: largest distance and weights.
    """
    ends = np.repeat(offsets[1:], np.diff(offsets))
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for distance in range(1, settings.max_distance + 1):
        first = np.flatnonzero(np.arange(len(ends)) + distance < ends)
        for pair, weight in (
            ((first, first + distance), settings.pair_weight(distance)),
            ((first + distance, first), settings.pair_weight(-distance)),
        ):
            if weight > 0:
                parts.append((*pair, np.full(len(first), weight)))
    first, second, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return first, second, weights


def _merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys in rising order, and the sum of each key's weights."""
    keys, place = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    weights = np.concatenate([weights for _, weights in parts])
    return keys, np.bincount(place, weights=weights, minlength=len(keys))


class RulesAtPositions:
    """Predictions of rules at the positions of some training windows, with the interface of `kdlib.losses.scored.Scored`.

    Positions are numbered from 0, window after window. Each position is predicted without the counts of its own window.

    Args:
      rules: counted over windows that include these.
      store: all windows.
      windows: numbers of the chosen windows.
    """

    def __init__(self, rules: SequentialRules, store: WindowStore, windows: np.ndarray) -> None:
        self._rules, device = rules, rules.popularity_V.device
        lengths = np.diff(store.offsets)[windows]
        flat = take_slices(store.offsets[windows], lengths)
        place = take_slices(np.zeros(len(windows), np.int64), lengths)
        # the items of a window are its inputs and its last target
        offsets = np.concatenate(([0], np.cumsum(lengths + 1)))
        items = np.empty(offsets[-1], np.int64)
        last = np.arange(len(flat)) + np.repeat(np.arange(len(windows)), lengths)
        items[last] = store.inputs[flat]
        items[offsets[1:] - 1] = store.targets[store.offsets[windows + 1] - 1]
        self._items_S, self._last_T, self._before_T = (torch.from_numpy(x).to(device) for x in (items, last, place))
        self._own = _own_counts(rules, items, offsets, device)

    def logits(self, start: int, stop: int) -> Tensor:
        """Log-probabilities at positions `start` to `stop`: float32 [positions, items]."""
        return self.logits_at(slice(start, stop))

    def logits_at(self, which: slice | Tensor) -> Tensor:
        """Log-probabilities at positions given by number: float32 [positions, items]."""
        return self._rules.logits(self._items_S, self._last_T[which], self._before_T[which], without=self._own)


def _own_counts(rules: SequentialRules, items: np.ndarray, offsets: np.ndarray, device: torch.device) -> Counts:
    """Each window's own share of the counts. Antecedents are numbered by window and item."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    _, antecedents = np.unique(owner * rules.num_items + items, return_inverse=True)
    first, second, weights = _weighted_pairs(offsets, rules.settings)
    order = np.argsort(antecedents[first], kind="stable")
    num_rules = np.bincount(antecedents[first], minlength=antecedents.max(initial=-1) + 1)
    parts = (
        antecedents,
        np.concatenate(([0], np.cumsum(num_rules))),
        items[second[order]],
        weights[order].astype(np.float32),
    )
    return Counts(*(torch.from_numpy(part).to(device) for part in parts))
