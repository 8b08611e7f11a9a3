"""Losses with which a next-item model learns from the data, as plain functions of logits.

Half-precision logits are computed in float32.

Shapes: logits over the whole catalogue are `[..., items]`. A positive logit is `[...]`, and its sampled negatives are
`[..., negatives]`. Results are `[...]`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.distillation import as_float


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`−log softmax(logits)[target]` over the whole catalogue, in nats.

    Args:
      logits: float [..., items].
      targets: int64 [...].

    Returns:
      float [...].
    """
    log_probs = torch.log_softmax(as_float(logits), dim=-1)
    return -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def sampled_softmax(
    positive_logits: Tensor, negative_logits: Tensor, *, log_expected_counts: Tensor, hits: Tensor | None = None
) -> Tensor:
    """Cross-entropy whose sum over the catalogue is estimated from sampled negatives.

    `−s₊ + log( exp(s₊) + Σ_n exp(s_n − log E[count of n]) )`

    A negative's term is divided by its expected count. The sum is then an unbiased estimate of the sum over the catalogue
    (Bengio & Senécal 2008; Yi et al. 2019). The positive is always there, not sampled: its expected count is 1 and its logit
    is not corrected. Many implementations correct it too, which is biased. The gradient here is the one that Khrylchenko et
    al. 2025 (RecSys) derive, with a weight `1 − P(positive)`. With every item once as a negative, the loss is the full
    cross-entropy.

    Args:
      positive_logits: float [...].
      negative_logits: float [..., negatives].
      log_expected_counts: float, broadcast to [..., negatives]: `log(negatives · q(item))` for negatives that are sampled
        with replacement from q.
      hits: bool [..., negatives], the negatives that are the positive item. They are left out.

    Returns:
      float [...]; 0 where all negatives are hits.
    """
    positive_logits, negative_logits = as_float(positive_logits), as_float(negative_logits)
    corrected = negative_logits - log_expected_counts
    if hits is not None:
        corrected = corrected.masked_fill(hits, -torch.inf)
    everything = torch.cat([positive_logits.unsqueeze(-1), corrected], dim=-1)
    return everything.logsumexp(-1) - positive_logits


def binary_cross_entropy(positive_logits: Tensor, negative_logits: Tensor, *, hits: Tensor | None = None) -> Tensor:
    """`−log σ(s₊) − Σ_n log(1 − σ(s_n))`: one positive and its negatives, each a yes-or-no question.

    The loss of SASRec (Kang & McAuley 2018, section III-E), with any number of negatives.

    Args:
      positive_logits: float [...].
      negative_logits: float [..., negatives].
      hits: bool [..., negatives], the negatives that are the positive item. They are left out.

    Returns:
      float [...].
    """
    against = F.softplus(as_float(negative_logits))  # −log(1 − σ(s))
    if hits is not None:
        against = against.masked_fill(hits, 0.0)
    return against.sum(-1) - F.logsigmoid(as_float(positive_logits))


def log_expected_counts(
    item_weights: Tensor | None, items: Tensor, *, num_items: int, draws: int | None = None
) -> Tensor:
    """`log(N · q(item))`: log of the expected count of items among N that are sampled with replacement from q.

    Args:
      item_weights: float [items], q up to a factor. None: q is uniform.
      items: int64 [...].
      num_items: size of the catalogue.
      draws: N. None: N is the number of `items`.

    Returns:
      float [...].
    """
    number = len(items) if draws is None else draws
    if item_weights is None:
        return torch.full(items.shape, math.log(number / num_items), device=items.device)
    return (number * item_weights[items] / item_weights.sum()).log()
