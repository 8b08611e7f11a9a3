"""Ranking losses: what a next-item model learns from the data alone. Plain functions of logits.

Shapes: `[..., items]` logits over the whole catalogue, or a positive logit `[...]` and sampled negatives
`[..., negatives]`; results are `[...]`. Half-precision logits are computed in float32.
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
    """Cross-entropy with the sum over the catalogue estimated from sampled negatives, corrected for how they are drawn.

    `−s₊ + log( exp(s₊) + Σ_n exp(s_n − log E[count of n]) )`

    A negative stands for all the times it could have been drawn, so it is divided by its expected count: the sum is then
    an unbiased estimate of the catalogue's (Bengio & Senécal 2008; Yi et al. 2019). The positive is not drawn, it is
    always there: its expected count is 1 and its logit stays as it is. Correcting it as well, as is often done, is
    biased; the gradient of the form here is the one that Khrylchenko et al. 2025 (RecSys) derive with a weight
    `1 − P(positive)`. With every item once as a negative it is the full cross-entropy.

    Args:
      positive_logits: float [...].
      negative_logits: float [..., negatives].
      log_expected_counts: float, broadcast to [..., negatives]: `log(negatives · q(item))` for draws with replacement
        from q.
      hits: bool [..., negatives], negatives that are the positive itself: they are left out.

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
    """`−log σ(s₊) − Σ_n log(1 − σ(s_n))`: is this the next item or not, one positive and its negatives.

    As SASRec (Kang & McAuley 2018, section III-E) with any number of negatives.

    Args:
      positive_logits: float [...].
      negative_logits: float [..., negatives].
      hits: bool [..., negatives], negatives that are the positive itself: they are left out.

    Returns:
      float [...].
    """
    return _binary(positive_logits, negative_logits, 1.0, hits)


def gbce(
    positive_logits: Tensor,
    negative_logits: Tensor,
    *,
    sampling_rate: float,
    calibration: float,
    hits: Tensor | None = None,
) -> Tensor:
    """Generalised binary cross-entropy: `−1/(N + 1) · (β·log σ(s₊) + Σ_n log(1 − σ(s_n)))`.

    Few negatives make the model think every item too likely; `β = α·(t·(1 − 1/α) + 1/α)`, α the share of the catalogue
    that is drawn, takes that back: t = 0 is the plain binary cross-entropy (β = 1), t = 1 is fully calibrated (β = α)
    (Petrov & Macdonald 2023, gSASRec).

    Args:
      positive_logits: float [...].
      negative_logits: float [..., N], drawn uniformly.
      sampling_rate: α = N / (items − 1), 0 < α ≤ 1.
      calibration: t, 0 ≤ t ≤ 1.
      hits: bool [..., N], negatives that are the positive itself: they are left out.

    Returns:
      float [...].
    """
    if not 0 < sampling_rate <= 1 or not 0 <= calibration <= 1:
        raise ValueError(
            "gbce needs 0 < sampling_rate ≤ 1 (negatives / (items − 1)) and 0 ≤ calibration ≤ 1,"
            f" found {sampling_rate} and {calibration}"
        )
    beta = sampling_rate * (calibration * (1 - 1 / sampling_rate) + 1 / sampling_rate)
    return _binary(positive_logits, negative_logits, beta, hits) / (negative_logits.shape[-1] + 1)


def log_expected_counts(
    item_weights: Tensor | None, items: Tensor, *, num_items: int, draws: int | None = None
) -> Tensor:
    """`log(N · q(item))` of items, where N are drawn with replacement; of the drawn ones as `sampled_softmax` wants it.

    Args:
      item_weights: float [items], q up to a factor; None for the uniform draw.
      items: int64 [...].
      num_items: size of the catalogue.
      draws: N; None: `items` are what was drawn.

    Returns:
      float [...].
    """
    number = len(items) if draws is None else draws
    if item_weights is None:
        return torch.full(items.shape, math.log(number / num_items), device=items.device)
    return (number * item_weights[items] / item_weights.sum()).log()


def _binary(positive_logits: Tensor, negative_logits: Tensor, beta: float, hits: Tensor | None) -> Tensor:
    against = F.softplus(as_float(negative_logits))  # −log(1 − σ(s))
    if hits is not None:
        against = against.masked_fill(hits, 0.0)
    return against.sum(-1) - beta * F.logsigmoid(as_float(positive_logits))
