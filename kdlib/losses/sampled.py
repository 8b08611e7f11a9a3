"""Losses that score a few items instead of the whole catalogue, straight from hidden states.

Shapes: T real positions, t positions of a part, W scoring width, V items, N negatives, which all positions of a step share,
S sampled targets a position.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kdlib.losses.chunked import Divergence, chunked
from kdlib.losses.next_item import chunks_of, softmax_and_logsumexp
from kdlib.losses.ranking import log_expected_counts
from kdlib.losses.scored import Gradients, LossSums, Scored, StudentSide, Teachers, add_product, total_of, with_gradient
from kdlib.losses.sparse import Draws, times_in

GATHERED = 1 << 24
"""Size of the item rows that are held at a time while positions are scored against their own items: 64 MiB of float32."""

NEVER = -1e30
"""Logit of a negative that is left out. With −inf a position without other negatives would have no softmax."""


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
    teachers: Teachers | None = None,
    *,
    item_weights_V: Tensor | None = None,
    num_items: int | None = None,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`kdlib.losses.ranking.sampled_softmax + λ·sampled_divergence` with the KL, summed over positions.

    It reads only the rows of targets and negatives. Loss and gradient are computed together, chunk by chunk of positions.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      negatives_N: int64 item indices. A negative that is a position's target is left out there in the first term.
      teachers: whom to learn from besides the data. None: the second term is 0.
      item_weights_V: the weights that the negatives were sampled by. None: uniformly.
      num_items: of how many items the negatives were sampled uniformly. None: of all.
      weights_T: float32, the weight of each position in both terms. None: all are 1.
      dtype: of logits, probabilities and their gradients.

    Returns:
      Sums, with the sampled softmax in `ce`. `correct` counts the targets that no negative outscores.
    """
    counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=num_items or len(student.weight_VW))
    if teachers is not None:
        teachers = teachers._replace(
            scored=_offset(on_items(teachers.scored, negatives_N), counts_N, teachers.temperature)
        )
    rows = on_items(student, torch.cat([targets_T, negatives_N]))  # gathered together, for one gradient of the matrix
    compute = partial(_against_negatives, negatives_N=negatives_N.int(), counts_N=counts_N, weights_T=weights_T)
    return with_gradient(rows, targets_T, teachers, compute, dtype=dtype)


def _against_negatives(
    rows: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    gradients: Gradients,
    *,
    negatives_N: Tensor,
    counts_N: Tensor,
    weights_T: Tensor | None,
) -> Tensor:
    """A `Compute` function. The first rows of the matrix are each position's target, and the others are the negatives."""
    assert not isinstance(teachers, StudentSide)
    positions = len(targets_T)
    own_TW, among = rows.weight_VW[:positions].float(), rows._replace(weight_VW=rows.weight_VW[positions:])
    positive_T = (rows.hidden_TW.float() * own_TW).sum(1)
    if rows.bias_V is not None:
        positive_T += rows.bias_V[:positions]
        among = among._replace(bias_V=rows.bias_V[positions:])
    targets_T, counts_N = targets_T.int(), counts_N.to(rows.weight_VW.dtype)
    against_T = torch.empty_like(positive_T)  # how much each position pulls its target up
    sums = torch.zeros(3, device=positive_T.device)
    for t in chunks_of(positions, among.weight_VW):
        z_TN = among.logits(t.start, t.stop)
        hits_TN = targets_T[t, None] == negatives_N
        best_T = z_TN.masked_fill(hits_TN, NEVER).amax(1).float()
        corrected_TN = (z_TN - counts_N).masked_fill_(hits_TN, NEVER)
        gradient_TN, logsumexp_T = softmax_and_logsumexp(corrected_TN, corrected_TN.amax(1).float())
        ahead_T = logsumexp_T - positive_T[t]
        against_T[t] = ahead_T.sigmoid()
        gradient_TN.mul_(against_T[t, None])
        kl_T = torch.zeros_like(ahead_T)
        if teachers is not None:
            kl_T, apart_TN = _kl_and_gradient(z_TN, counts_N, teachers, t)
            gradient_TN.add_(apart_TN, alpha=teachers.kl_weight)
        weights_t = None if weights_T is None else weights_T[t]
        if weights_t is not None:
            against_T[t] *= weights_t
            gradient_TN.mul_(weights_t[:, None])
        correct = (positive_T[t] >= best_T).sum().float()
        sums += torch.stack([total_of(F.softplus(ahead_T), weights_t), total_of(kl_T, weights_t), correct])
        if gradients.hidden_TW is not None:
            gradients.hidden_TW[t] = gradient_TN @ among.weight_VW
        if gradients.weight_VW is not None:
            add_product(gradients.weight_VW[positions:], gradient_TN.T, among.hidden_TW[t])
        if gradients.bias_V is not None:
            gradients.bias_V[positions:] += gradient_TN.sum(0, dtype=torch.float32)
    if gradients.hidden_TW is not None:
        gradients.hidden_TW.sub_(against_T[:, None] * own_TW)
    if gradients.weight_VW is not None:
        gradients.weight_VW[:positions] = -against_T[:, None] * rows.hidden_TW
    if gradients.bias_V is not None:
        gradients.bias_V[:positions] = -against_T
    return sums


def _kl_and_gradient(z_TN: Tensor, counts_N: Tensor, teachers: Teachers, t: slice) -> tuple[Tensor, Tensor]:
    """T²·KL over the negatives at some positions, float [t], and its gradient [t, N] with respect to the student's logits.

    Args:
      z_TN: the student's logits there.
      counts_N: what is subtracted from the logits, after the temperature.
      teachers: they predict the negatives alone, with the same subtracted.
      t: the positions.
    """
    temperature = teachers.temperature
    y_TN = teachers.scored.logits(t.start, t.stop, temperature=temperature)
    z_TN = z_TN / temperature - counts_N
    q_TN, logsumexp_T = softmax_and_logsumexp(z_TN, z_TN.amax(1).float())
    p_TN, teacher_logsumexp_T = softmax_and_logsumexp(y_TN, y_TN.amax(1).float())
    kl_T = torch.linalg.vecdot(p_TN, y_TN.sub_(z_TN)).float() + logsumexp_T - teacher_logsumexp_T
    return temperature**2 * kl_T, q_TN.sub_(p_TN).mul_(temperature)


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
    """
    counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=num_items or len(student.weight_VW))
    targets_T = negatives_N.new_zeros(len(student.hidden_TW))  # only for `correct`, which is thrown away
    taught = teachers._replace(
        scored=_offset(on_items(teachers.scored, negatives_N), counts_N, teachers.temperature), kl_weight=1.0
    )
    return chunked(
        _offset(on_items(student, negatives_N), counts_N, teachers.temperature),
        targets_T,
        taught,
        divergence=divergence,
        cross_entropy=False,
        weights_T=weights_T,
        dtype=dtype,
    ).total


def _offset(scored: Scored, counts_N: Tensor, temperature: float) -> Scored:
    """The same, with the counts subtracted from the logits after they are divided by the temperature."""
    offset_N = counts_N.to(scored.weight_VW) * temperature
    return scored._replace(bias_V=-offset_N if scored.bias_V is None else scored.bias_V - offset_N)


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
    data = sampled_ranking(student, targets_T, negatives_N, item_weights_V=item_weights_V, weights_T=weights_T)
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
    return Scored(scored.hidden_TW, F.embedding(items_N, scored.weight_VW), bias_N)


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
