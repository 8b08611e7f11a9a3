"""The ranking losses that score a few negatives in place of the whole catalogue, straight from hidden states.

Shapes: T real positions, W scoring width, V items, N negatives, shared by all positions of a step.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.next_item import LossSums, Scored
from kdlib.losses.ranking import binary_cross_entropy, gbce, log_expected_counts, sampled_softmax


def draw_negatives(
    num_negatives: int, *, num_items: int, item_weights_V: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """Draw items with replacement, uniformly or by weight, with PyTorch's own random numbers.

    Args:
      num_negatives: N.
      num_items: V, at most 2²⁴ with weights.
      item_weights_V: float [items]; None draws uniformly.
      device: of the result.

    Returns:
      int64 [N].
    """
    if item_weights_V is None:
        return torch.randint(num_items, (num_negatives,), device=device)
    return torch.multinomial(item_weights_V, num_negatives, replacement=True)


def sampled_ranking(
    student: Scored,
    targets_T: Tensor,
    negatives_N: Tensor,
    *,
    loss: str,
    item_weights_V: Tensor | None = None,
    calibration: float | None = None,
) -> LossSums:
    """A sampled ranking loss, summed over positions; only the rows of targets and negatives are read.

    Args:
      student: what predicts; gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      negatives_N: int64 item indices; where one is a position's target, it is left out there.
      loss: `sampled_softmax`, `gbce` or `binary_cross_entropy`.
      item_weights_V: what the negatives were drawn by, None for uniformly; `sampled_softmax` corrects for it.
      calibration: of `gbce`.

    Returns:
      Sums, with the loss in `ce` and 0 in `kl`; `correct` counts targets that no negative outscores.
    """
    rows_TW = F.embedding(targets_T, student.weight_VW)
    positive_T = (student.hidden_TW * rows_TW).sum(-1)
    bias_V = student.bias_V
    if bias_V is not None:
        positive_T = positive_T + bias_V[targets_T]
    negative_TN = F.linear(
        student.hidden_TW, student.weight_VW[negatives_N], None if bias_V is None else bias_V[negatives_N]
    )
    hits_TN = negatives_N == targets_T[:, None]
    num_items = len(student.weight_VW)
    if loss == "sampled_softmax":
        counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=num_items)
        values_T = sampled_softmax(positive_T, negative_TN, log_expected_counts=counts_N, hits=hits_TN)
    elif loss == "gbce":
        assert calibration is not None
        rate = len(negatives_N) / (num_items - 1)
        values_T = gbce(positive_T, negative_TN, sampling_rate=rate, calibration=calibration, hits=hits_TN)
    elif loss == "binary_cross_entropy":
        values_T = binary_cross_entropy(positive_T, negative_TN, hits=hits_TN)
    else:
        raise ValueError(f"loss must be sampled_softmax, gbce or binary_cross_entropy, found {loss!r}")
    total = values_T.sum()
    correct = ((positive_T[:, None] >= negative_TN) | hits_TN).all(1).sum()
    return LossSums(total, total.detach(), torch.zeros_like(total.detach()), correct)
