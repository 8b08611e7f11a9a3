"""Stand-ins for the cached teachers. What a student gains from a stand-in is not the teachers' knowledge.

- `permuted`: each training position gets the teachers' prediction for another, random position. The targets keep their
  sharpness and their mean over positions, but no longer fit the history.
- `uniform`: every item is equally likely. This is label smoothing (Yuan et al. 2020, "Revisiting knowledge distillation
  via label smoothing regularization").
- `popularity`: an item's probability is its share of the training interactions.

Shapes: V items, W a teacher's width.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdlib.data.batches import WindowStore
from kdlib.training.module import CachedTeachers

STATELESS = ("uniform", "popularity")
"""Stand-ins that ignore the cached states. They have no hidden state that a student could match."""
COUNT_FLOOR = 0.5
"""Interactions of an item without any, so that its log-probability is finite."""


def stateless_teacher(stand_in: str, counts_V: np.ndarray, *, device: torch.device) -> CachedTeachers | None:
    """The teacher that predicts by itself; None if the stand-in uses the cached states.

    Args:
      stand_in: see `TrainingRun.stand_in`.
      counts_V: training interactions of each item.
      device: the student's.
    """
    if stand_in == "uniform":
        return uniform_teacher(len(counts_V), device=device)
    if stand_in == "popularity":
        return popularity_teacher(counts_V, device=device)
    return None


def permute_teacher_states(store: WindowStore, *, seed: int) -> WindowStore:
    """A store whose teacher states are permuted over the positions; all teachers' states of a position stay together.

    Args:
      store: windows with `hidden` and `scales`; it does not change.
      seed: of the permutation; the same seed gives the same permutation in every epoch.

    Raises:
      ValueError: the store holds no teacher states.
    """
    if store.hidden is None or store.scales is None:
        raise ValueError(
            "the stand-in 'permuted' needs cached teacher states, but the training windows have none. Train on teacher targets"
        )
    order = np.random.default_rng(seed).permutation(len(store.hidden))
    return replace(store, hidden=store.hidden[order], scales=store.scales[order])


def uniform_teacher(num_items: int, *, device: torch.device) -> CachedTeachers:
    """A teacher to whom all items are equally likely at every position and every temperature."""
    return _constant_teacher(torch.zeros(num_items, device=device))


def popularity_teacher(counts_V: np.ndarray, *, device: torch.device) -> CachedTeachers:
    """A teacher whose probabilities at temperature 1 are the items' shares of the training interactions.

    Args:
      counts_V: training interactions of each item, int or float [items].
      device: the student's.

    Raises:
      ValueError: a negative count, or no interactions at all.
    """
    if counts_V.min(initial=0) < 0 or not counts_V.any():
        raise ValueError(
            "the stand-in 'popularity' needs counts of training interactions, none negative and not all 0;"
            f" found {counts_V[:5]} …"
        )
    counts = torch.from_numpy(np.maximum(counts_V.astype(np.float64), COUNT_FLOOR))
    return _constant_teacher((counts / counts.sum()).log().float().to(device))


def _constant_teacher(logits_V: Tensor) -> CachedTeachers:
    """A head that ignores the hidden state: a matrix of zeros of width 1, with the logits as its bias."""
    return CachedTeachers([(logits_V.new_zeros(len(logits_V), 1), logits_V)], [1.0])
