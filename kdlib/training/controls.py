"""Stand-ins for the cached teachers: what a student gains with one of these is not the teachers' knowledge.

- `permuted`: each training position gets the teachers' prediction for another, random position. The targets keep their
  sharpness and their mean over positions, but say nothing about *this* history any more.
- `uniform`: every item equally likely, which is label smoothing (Yuan et al. 2020, "Revisiting knowledge distillation
  via label smoothing regularization").
- `popularity`: items as likely as they are frequent in training.

Shapes: V items, W a teacher's width.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdlib.data.batches import WindowStore
from kdlib.training.module import CachedTeachers

STATELESS = ("uniform", "popularity")
"""Controls that predict by themselves, whatever the teachers say; they have no hidden states that a student could match."""
COUNT_FLOOR = 0.5
"""An item without training interactions counts as half a one, so that its log-probability is finite."""


def permute_teacher_states(store: WindowStore, *, seed: int) -> WindowStore:
    """The store with its positions' teacher states exchanged at random; all teachers' states move together.

    Args:
      store: windows with `hidden` and `scales`; it is left as it is.
      seed: of the permutation; the same seed gives the same exchange in every epoch.

    Raises:
      ValueError: the store holds no teacher states.
    """
    if store.hidden is None or store.scales is None:
        raise ValueError(
            "the control 'permuted' needs cached teacher states, found training windows without: give teacher targets"
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
            f"the control 'popularity' needs counts of training interactions, none negative and not all 0; found {counts_V[:5]} …"
        )
    counts = torch.from_numpy(np.maximum(counts_V.astype(np.float64), COUNT_FLOOR))
    return _constant_teacher((counts / counts.sum()).log().float().to(device))


def _constant_teacher(logits_V: Tensor) -> CachedTeachers:
    """A head that ignores the hidden state: a matrix of zeros, as narrow as one may be, and the logits as its bias."""
    return CachedTeachers([(logits_V.new_zeros(len(logits_V), 1), logits_V)], [1.0])
