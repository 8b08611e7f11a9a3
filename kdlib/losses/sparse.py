"""Distillation from sampled targets: items sampled from the teachers stand for their whole distribution.

A step takes about as long as cross-entropy alone, because it needs no teacher's logits. The gradient with respect to the
student's logits is the student's softmax minus a sparse vector of sampled targets. Loss and gradient are unbiased estimates of
those of the KL over the whole catalogue.

There are two forms. By chunks of positions, the sparse vector is subtracted from the gradient of whole rows of logits. By
tiles, the logits of the samples come from the rows of the scoring matrix that they need.

Shapes: T real positions, t positions of a chunk, W scoring width, V items, S sampled targets a position.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.distillation import sampled_kl_divergence
from kdlib.losses.next_item import at_temperature, in_chunks, softmax_and_logsumexp
from kdlib.losses.scored import Gradients, LossSums, Scored, StudentSide, Teachers, total_of, with_gradient

SAMPLED_POSITIONS = 1024
"""Positions whose samples' rows of the scoring matrix are held at a time."""


class Draws(NamedTuple):
    """Sampled targets: items sampled at each position from what the teachers predict at a temperature. They get no gradient."""

    items_TS: Tensor
    """int32 or int64, sorted along a row. An item that was sampled twice is there twice."""
    mean_log_probs_T: Tensor
    """float; the teachers' log-probability of a sampled target at the temperature, mean over a position's targets."""
    kl_weight: float
    """λ."""
    temperature: float
    """T."""


def cross_entropy_and_sampled_kl(
    student: Scored,
    targets_T: Tensor,
    draws: Draws,
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`CE(student, target) + λ·T²·(mean log p(i) − mean log q(i))`, in nats, over the sampled targets i of a position.

    p is the teachers' distribution and q the student's, both at the temperature. The second term is `sampled_kl_divergence`
    (Anshumann et al. 2025, random sampling KD). It is 0 where student and teachers are equal, and its expectation is the KL.
    At a single position it may be negative.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      draws: what to learn from besides the data.
      weights_T: float32, the weight of each position. None: all are 1.
      dtype: of logits, probabilities and their gradients, see `kdlib.losses.dispatch`.
    """
    pull = StudentSide(draws.kl_weight, draws.temperature)
    return in_chunks(student, targets_T, pull, partial(_chunk, draws), weights_T=weights_T, dtype=dtype)


def by_tiles(
    student: Scored,
    targets_T: Tensor,
    draws: Draws,
    tiles: Callable[..., Tensor],
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """The loss of `cross_entropy_and_sampled_kl` over a large catalogue, where rows of logits are too long.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      draws: what to learn from besides the data.
      tiles: a `Compute` function with the argument `weights_T`. It computes the cross-entropy and the student's side of the KL.
      weights_T: float32, the weight of each position. None: all are 1.
      dtype: of the factors of every matrix product.
    """
    pull = StudentSide(draws.kl_weight, draws.temperature)
    compute = partial(_with_samples, draws=draws, tiles=tiles, weights_T=weights_T)
    return with_gradient(student, targets_T, pull, compute, dtype=dtype)


def _with_samples(
    student: Scored,
    targets_T: Tensor,
    pull: Teachers | StudentSide | None,
    gradients: Gradients,
    *,
    draws: Draws,
    tiles: Callable[..., Tensor],
    weights_T: Tensor | None,
) -> Tensor:
    """A `Compute` function: the sums of the tiles, and what the samples add to loss and gradients."""
    sums = tiles(student, targets_T, pull, gradients, weights_T=weights_T)
    for start in range(0, len(targets_T), SAMPLED_POSITIONS):
        t = slice(start, start + SAMPLED_POSITIONS)
        items_TS, hidden_TW = draws.items_TS[t].long(), student.hidden_TW[t].float()
        weights_t = torch.ones_like(hidden_TW[:, 0]) if weights_T is None else weights_T[t]
        mean_TW = F.embedding(items_TS, student.weight_VW).float().mean(1)
        drawn_T = (hidden_TW * mean_TW).sum(1)
        if student.bias_V is not None:
            drawn_T = drawn_T + student.bias_V[items_TS].float().mean(1)
        constant_T = draws.mean_log_probs_T[t].float() - drawn_T / draws.temperature
        sums[1] += draws.temperature**2 * (weights_t * constant_T).sum()
        pull_T = draws.kl_weight * draws.temperature * weights_t
        if gradients.hidden_TW is not None:
            gradients.hidden_TW[t] -= (pull_T[:, None] * mean_TW).to(gradients.hidden_TW.dtype)
        each_T = -pull_T / items_TS.shape[1]
        if gradients.weight_VW is not None:
            _add_rows(gradients.weight_VW, items_TS, each_T[:, None] * hidden_TW)
        if gradients.bias_V is not None:
            _add_rows(gradients.bias_V, items_TS, each_T)
    return sums


def _add_rows(total: Tensor, rows_TS: Tensor, values: Tensor) -> None:
    """`total[row] += values[t]` for each of the rows of t."""
    each = values[:, None].expand(*rows_TS.shape, *values.shape[1:]).flatten(0, 1)
    if total.is_cuda:  # the sum is then in the same order each time
        total.index_put_((rows_TS.flatten(),), each, accumulate=True)
    else:
        total.index_add_(0, rows_TS.flatten(), each)


def reference(student: Scored, targets_T: Tensor, draws: Draws, *, weights_T: Tensor | None = None) -> LossSums:
    """The same loss from whole logits and plain functions. Tests compare with it; it needs too much memory to train."""
    logits_TV = student.logits().float()
    ce = total_of(F.cross_entropy(logits_TV, targets_T, reduction="none"), weights_T)
    log_probs_TS = draws.mean_log_probs_T[:, None].expand(draws.items_TS.shape)
    kl_T = sampled_kl_divergence(logits_TV, draws.items_TS.long(), log_probs_TS, temperature=draws.temperature)
    kl = total_of(kl_T, weights_T)
    correct = (logits_TV.gather(1, targets_T[:, None])[:, 0] >= logits_TV.amax(1)).sum()
    return LossSums(ce + draws.kl_weight * kl, ce.detach(), kl.detach(), correct)


def times_in(rising: Tensor, items: Tensor) -> Tensor:
    """How often each item occurs in a list: int64, shape of `items`.

    Args:
      rising: sorted items, [N] or one list a row, [T, N].
      items: the items to count, of any shape, or [T, S] where `rising` has rows.
    """
    return torch.searchsorted(rising, items, right=True) - torch.searchsorted(rising, items)


def _chunk(
    draws: Draws, student: Scored, targets_T: Tensor, _: StudentSide, start: int, stop: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A `kdlib.losses.next_item.Chunk` function, after its first argument."""
    items_TS = draws.items_TS[start:stop].long()
    temperature, pull = draws.temperature, draws.kl_weight * draws.temperature
    z_TV = student.logits(start, stop)
    target_T = z_TV.gather(1, targets_T[:, None])[:, 0].float()
    best_T = z_TV.amax(1).float()
    drawn_T = z_TV.gather(1, items_TS).float().mean(1) / temperature
    gradient_TV, logsumexp_T = softmax_and_logsumexp(z_TV, best_T)
    ce_T = logsumexp_T - target_T
    q_TV, logsumexp_T = at_temperature(z_TV, best_T, temperature, (gradient_TV, logsumexp_T))
    gradient_TV.add_(q_TV, alpha=pull)
    kl_T = temperature**2 * (draws.mean_log_probs_T[start:stop].float() - drawn_T + logsumexp_T)
    # add all samples of an item at once: bfloat16 would round each single one away beside a large probability
    times_TS = times_in(items_TS, items_TS)
    cells_TS = torch.arange(stop - start, device=items_TS.device)[:, None] * gradient_TV.shape[1] + items_TS
    flat = gradient_TV.view(-1)
    flat[cells_TS] = (flat[cells_TS].float() - pull / items_TS.shape[1] * times_TS).to(flat.dtype)
    gradient_TV[torch.arange(stop - start, device=targets_T.device), targets_T] -= 1.0
    return (ce_T, kl_T, target_T >= best_T), gradient_TV
