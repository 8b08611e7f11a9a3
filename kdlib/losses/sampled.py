"""Losses that score a few items instead of the whole catalogue, straight from hidden states.

Shapes: T real positions, t positions of a part, W scoring width, V items, N negatives, which all positions of a step share,
S sampled targets a position.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kdlib.losses.chunked import Divergence, chunked
from kdlib.losses.ranking import log_expected_counts, sampled_softmax
from kdlib.losses.scored import LossSums, Scored, Teachers, total_of
from kdlib.losses.sparse import Draws, times_in

GATHERED = 1 << 24
"""Size of the item rows that are held at a time while positions are scored against their own items: 64 MiB of float32."""


def draw_negatives(
    num_negatives: int, *, num_items: int, item_weights_V: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """Sample items with replacement, uniformly or by weight, with PyTorch's default generator.

    Args:
      num_negatives: N.
      num_items: V.
      item_weights_V: float [items]. None: uniformly.
      device: of the result.

    Returns:
      int64 [N].
    """
    if item_weights_V is None:
        return torch.randint(num_items, (num_negatives,), device=device)
    # in float64: `torch.multinomial` sums float32 weights, and past 2²⁴ an item with one interaction adds nothing
    upto_V = item_weights_V.double().cumsum(0)
    points_N = torch.rand(num_negatives, dtype=torch.float64, device=item_weights_V.device) * upto_V[-1]
    return torch.searchsorted(upto_V, points_N, right=True).clamp_(max=len(upto_V) - 1)


def sampled_ranking(
    student: Scored,
    targets_T: Tensor,
    negatives_N: Tensor,
    *,
    item_weights_V: Tensor | None = None,
    num_items: int | None = None,
    weights_T: Tensor | None = None,
    among: Scored | None = None,
) -> LossSums:
    """`kdlib.losses.ranking.sampled_softmax`, summed over positions. It reads only the rows of targets and negatives.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      negatives_N: int64 item indices. A negative that is a position's target is left out there.
      item_weights_V: the weights that the negatives were sampled by. None: uniformly.
      num_items: of how many items the negatives were sampled uniformly. None: of all.
      weights_T: float32, the weight of each position. None: all are 1.
      among: `on_items(student, negatives_N)`, where it is there already.

    Returns:
      Sums, with the loss in `ce` and 0 in `kl`. `correct` counts the targets that no negative outscores.
    """
    scores_TN = (among or on_items(student, negatives_N)).logits()
    return _ranking(student, targets_T, negatives_N, scores_TN, item_weights_V, num_items, weights_T)


def _ranking(
    student: Scored,
    targets_T: Tensor,
    negatives_N: Tensor,
    negative_TN: Tensor,
    item_weights_V: Tensor | None,
    num_items: int | None,
    weights_T: Tensor | None,
) -> LossSums:
    """`sampled_ranking` for given scores of the negatives."""
    rows_TW = F.embedding(targets_T, student.weight_VW)
    positive_T = (student.hidden_TW * rows_TW).sum(-1)
    if student.bias_V is not None:
        positive_T = positive_T + student.bias_V[targets_T]
    hits_TN = negatives_N == targets_T[:, None]
    counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=num_items or len(student.weight_VW))
    loss_T = sampled_softmax(positive_T, negative_TN, log_expected_counts=counts_N, hits=hits_TN)
    total = total_of(loss_T, weights_T)
    correct = ((positive_T[:, None] >= negative_TN) | hits_TN).all(1).sum()
    return LossSums(total, total.detach(), torch.zeros_like(total.detach()), correct)


def sampled_divergence(
    student: Scored,
    negatives_N: Tensor,
    teachers: Teachers,
    *,
    divergence: Divergence,
    item_weights_V: Tensor | None = None,
    num_items: int | None = None,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    among: Scored | None = None,
) -> Tensor:
    """The divergence from the teachers over sampled items, which stand for the catalogue; summed over positions.

    Student and teachers are compared on the items alone, each item divided by its expected count, as in
    `kdlib.losses.ranking.sampled_softmax`. Both are then estimates of the distributions over the catalogue at the
    temperature. With every item once, the result is the divergence over the catalogue.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      negatives_N: int64 item indices, sampled with replacement. The same item may be there several times.
      teachers: whom to learn from. Their λ is not applied.
      divergence: for instance `kdlib.losses.distillation.kl_divergence`.
      item_weights_V: the weights that the items were sampled by. None: uniformly.
      num_items: of how many items they were sampled uniformly. None: of all.
      weights_T: float32, the weight of each position. None: all are 1.
      dtype: of the matrix products.
      among: `on_items(student, negatives_N)`, where it is there already.
    """
    counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=num_items or len(student.weight_VW))
    offset_N = counts_N.to(student.weight_VW) * teachers.temperature  # logits are divided by the temperature later

    def corrected(scored: Scored) -> Scored:
        return scored._replace(bias_V=-offset_N if scored.bias_V is None else scored.bias_V - offset_N)

    targets_T = negatives_N.new_zeros(len(student.hidden_TW))  # only for `correct`, which is thrown away
    taught = teachers._replace(scored=corrected(on_items(teachers.scored, negatives_N)), kl_weight=1.0)
    return chunked(
        corrected(among or on_items(student, negatives_N)),
        targets_T,
        taught,
        divergence=divergence,
        cross_entropy=False,
        weights_T=weights_T,
        dtype=dtype,
    ).total


def sampled_softmax_and_sampled_kl(
    student: Scored,
    targets_T: Tensor,
    negatives_N: Tensor,
    draws: Draws,
    *,
    item_weights_V: Tensor | None = None,
    weights_T: Tensor | None = None,
) -> LossSums:
    """`CE + λ·T²·KL(teachers_T ‖ student_T)`, where neither student nor teacher scores all items.

    The data term is `sampled_softmax`. The teacher term is the same loss at the temperature, with the sampled targets as
    positives: the mean over a position's targets i of `log p(i) + sampled_softmax(i, negatives)`. A negative that is
    the sampled target is left out there. With every item once as a negative, the loss is `cross_entropy_and_sampled_kl`.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      negatives_N: int64 item indices, for both terms.
      draws: what to learn from besides the data.
      item_weights_V: the weights that the negatives were sampled by. None: uniformly.
      weights_T: float32, the weight of each position in both terms. None: all are 1.

    Returns:
      Sums, with `correct` as in `sampled_ranking`.
    """
    negative_TN = on_items(student, negatives_N).logits()
    data = _ranking(student, targets_T, negatives_N, negative_TN, item_weights_V, None, weights_T)
    temperature, items_TS = draws.temperature, draws.items_TS.long()
    num_items, sorted_N = len(student.weight_VW), negatives_N.sort().values
    with torch.autocast(
        student.hidden_TW.device.type, enabled=False
    ):  # the backward pass of `_OwnScores` runs outside of autocast
        drawn_TS = _OwnScores.apply(student.hidden_TW.float(), student.weight_VW.float(), items_TS)
    if student.bias_V is not None:
        drawn_TS = drawn_TS + student.bias_V[items_TS]
    drawn_TS = drawn_TS.float() / temperature
    counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=num_items)
    logsumexp_T1 = (negative_TN.float() / temperature - counts_N).logsumexp(1, keepdim=True)
    times_TS = times_in(sorted_N, items_TS)
    expected_TS = log_expected_counts(item_weights_V, items_TS, num_items=num_items, draws=len(negatives_N))
    # share of the sampled target itself in the sum over the negatives: 0 where it is no negative
    apart_TS = (drawn_TS - logsumexp_T1 - expected_TS).masked_fill(times_TS == 0, -torch.inf)
    own_TS = (times_TS * apart_TS.exp()).clamp(max=1 - 1e-6)
    loss_TS = torch.logaddexp(drawn_TS, logsumexp_T1 + torch.log1p(-own_TS)) - drawn_TS
    kl = temperature**2 * total_of(draws.mean_log_probs_T.float() + loss_TS.mean(1), weights_T)
    return LossSums(data.total + draws.kl_weight * kl, data.ce, kl.detach(), data.correct)


def on_items(scored: Scored, items_N: Tensor) -> Scored:
    """What predicts, for these items alone. Gradients reach its whole matrix and bias."""
    bias_N = None if scored.bias_V is None else scored.bias_V[items_N]
    return Scored(scored.hidden_TW, scored.weight_VW[items_N], bias_N)


class _OwnScores(torch.autograd.Function):
    """Scores of each position against its own items, [T, S]. It does not keep their rows [T, S, W] for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_TW: Tensor, weight_VW: Tensor, items_TS: Tensor) -> Tensor:
        ctx.save_for_backward(hidden_TW, weight_VW, items_TS)
        parts = [
            torch.einsum("tw,tsw->ts", hidden_tW, weight_VW[items_tS])
            for hidden_tW, items_tS in _parts(hidden_TW, items_TS)
        ]
        return torch.cat(parts) if parts else hidden_TW.new_zeros(items_TS.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TS: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_TW, weight_VW, items_TS = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden_TW), torch.zeros_like(weight_VW)
        start = 0
        for hidden_tW, items_tS in _parts(hidden_TW, items_TS):
            stop = start + len(hidden_tW)
            grad_tS = grad_TS[start:stop]
            grad_hidden[start:stop] = torch.einsum("ts,tsw->tw", grad_tS, weight_VW[items_tS])
            rows = (grad_tS[:, :, None] * hidden_tW[:, None, :]).flatten(0, 1)
            grad_weight.index_add_(0, items_tS.flatten(), rows)
            start = stop
        return grad_hidden, grad_weight, None


def _parts(hidden_TW: Tensor, items_TS: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both tensors in parts of positions whose item rows have at most about `GATHERED` numbers."""
    size = max(1, GATHERED // max(items_TS.shape[1] * hidden_TW.shape[1], 1))
    return zip(hidden_TW.split(size), items_TS.split(size), strict=True)
