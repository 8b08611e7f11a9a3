"""Histories to the hidden state after their last item, from which a next-item model predicts.

Shapes: B histories, L length, W width of the hidden state, N positions of all histories together, C columns of the context.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kdlib.models.function import ScoringFunction
from kdlib.models.rules import SequentialRules
from kdlib.models.sequence import SequenceModel

Scorer = Callable[[NDArray, NDArray, NDArray], Tensor]
"""(items, context, lengths) of some histories, in the form of `last_hidden` → logits of the next item, float32 [users, items]."""
CELLS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""About how many scores are computed at a time if no batch size is given. On a CPU, 4 MiB of float32 fit its cache."""
ENCODE_ROWS = 64
"""Histories that are encoded at a time on a CPU. They are sorted by length first, so there is little padding."""


@torch.inference_mode()
def last_hidden(
    model: SequenceModel, items_N: NDArray, context_NC: NDArray, lengths: NDArray, *, device: torch.device
) -> Tensor:
    """The hidden state after the last item of each history: float [users, width] on the device.

    Args:
      model: in evaluation mode, on the device.
      items_N: int64, all histories one after the other. The model reads the last `model.max_length` items of each.
      context_NC: int8, rows like `items_N`, see `kdlib.data.windows.context_of`.
      lengths: int64 [users], at least 1 each.
      device: where to compute.
    """
    ends = np.cumsum(lengths)
    lengths = np.minimum(lengths, model.max_length)
    order = np.argsort(lengths, kind="stable")
    rows = ENCODE_ROWS if device.type == "cpu" else len(order)
    parts = []
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        length = lengths[chosen][:, None]
        step = np.arange(length.max())
        real = step < length
        place = np.where(real, ends[chosen][:, None] - length + step, 0)
        hidden_BLW = model(
            torch.from_numpy(np.where(real, items_N[place], 0)).to(device),
            torch.from_numpy(np.where(real[..., None], context_NC[place], 0)).to(device),
            lengths_B=torch.from_numpy(length[:, 0]).to(device),
        )
        last = torch.from_numpy(length[:, 0] - 1).to(device)
        parts.append(hidden_BLW[torch.arange(len(chosen), device=device), last])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return torch.cat(parts)[torch.from_numpy(back).to(device)]


def rows_at_a_time(num_items: int, device: torch.device) -> int:
    """Number of rows whose scores of all items fit the cache, but at least 16."""
    return max(16, CELLS[device.type] // num_items)


def scorer(model: SequenceModel | SequentialRules | ScoringFunction, *, device: torch.device) -> Scorer:
    """The function that scores all items after each history, for any kind of model. It makes the item matrix once.

    Args:
      model: in evaluation mode, on the device.
      device: where to compute.
    """
    if isinstance(model, SequentialRules):

        def by_rules(items_N: NDArray, context_NC: NDArray, lengths: NDArray) -> Tensor:
            parts = items_N, np.cumsum(lengths) - 1, lengths - 1
            return model.logits(*(torch.from_numpy(part).to(device) for part in parts))

        return by_rules
    if isinstance(model, ScoringFunction):

        def by_function(items_N: NDArray, context_NC: NDArray, lengths: NDArray) -> Tensor:
            ends = np.cumsum(lengths)
            starts = ends - np.minimum(lengths, model.max_length)
            return model.logits([items_N[start:end].tolist() for start, end in zip(starts, ends, strict=True)])

        return by_function
    matrix_VW, bias_V = model.head()

    def by_vectors(items_N: NDArray, context_NC: NDArray, lengths: NDArray) -> Tensor:
        return F.linear(last_hidden(model, items_N, context_NC, lengths, device=device), matrix_VW, bias_V).float()

    return by_vectors
