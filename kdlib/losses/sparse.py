"""Distillation from sampled targets: items sampled from the teachers stand for their whole distribution.

A step takes as long as cross-entropy alone, because it needs no teacher's logits. The gradient with respect to the student's
logits is the student's softmax minus a sparse vector of sampled targets. Loss and gradient are unbiased estimates of those of
the KL over the whole catalogue.

Shapes: T real positions, t positions of a chunk, V items, S sampled targets a position.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.distillation import sampled_kl_divergence
from kdlib.losses.next_item import at_temperature, in_chunks, softmax_and_logsumexp
from kdlib.losses.scored import LossSums, Scored, Teachers, total_of


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
      dtype: of logits, probabilities and their gradients, see `kdlib.losses.dispatch.cross_entropy_and_kl`.
    """
    # the samples stand for the teachers' logits
    nothing = Scored(student.hidden_TW.new_zeros(0, 1), student.weight_VW.new_zeros(0, 1))
    pull = Teachers(nothing, draws.kl_weight, draws.temperature)
    return in_chunks(student, targets_T, pull, partial(_chunk, draws), weights_T=weights_T, dtype=dtype)


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
    draws: Draws, student: Scored, targets_T: Tensor, teachers: Teachers | None, start: int, stop: int
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
