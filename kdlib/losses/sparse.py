"""Distillation from items drawn from the teachers, in place of their whole distribution: at the cost of cross-entropy.

No teacher's logits are computed: the gradient with respect to the student's logits is the student's softmax minus a
sparse vector of draws. Value and gradient have the expectation of the KL over the whole catalogue.

Shapes: T real positions, V items, S draws a position.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.distillation import sampled_kl_divergence
from kdlib.losses.next_item import LossSums, Scored, Teachers, at_temperature, in_chunks, softmax_and_log_mass


class Draws(NamedTuple):
    """Items drawn at each position from the teachers' mixture at a temperature; no gradient reaches it."""

    items_TS: Tensor
    """int32 or int64, rising along a row; an item drawn twice stands there twice."""
    mean_log_probs_T: Tensor
    """float; the mixture's log-probability at the temperature, the mean over a position's draws."""
    kl_weight: float
    temperature: float


def cross_entropy_and_sampled_kl(
    student: Scored, targets_T: Tensor, draws: Draws, *, dtype: torch.dtype = torch.float32
) -> LossSums:
    """`CE(student, target) + λ·T²·(mean log p(draws) − mean log q(draws))`, in nats, q the student at the temperature.

    The second term is `sampled_kl_divergence` (Anshumann et al. 2025, random sampling KD): 0 where student and teachers
    are equal, its expectation is the KL; a single position's may be negative.

    Args:
      student: what predicts; gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      draws: whom to learn from besides the data.
      dtype: of logits, probabilities and their gradients, see `cross_entropy_and_kl`.
    """
    weights = Teachers([], [], draws.kl_weight, draws.temperature)
    return in_chunks(student, targets_T, weights, partial(_chunk, draws), dtype=dtype)


def reference(student: Scored, targets_T: Tensor, draws: Draws) -> LossSums:
    """The same from whole logits and the plain functions: to check against, not to train with."""
    logits_TV = student.logits().float()
    ce = F.cross_entropy(logits_TV, targets_T, reduction="sum")
    log_probs_TS = draws.mean_log_probs_T[:, None].expand(draws.items_TS.shape)
    kl = sampled_kl_divergence(logits_TV, draws.items_TS.long(), log_probs_TS, temperature=draws.temperature).sum()
    correct = (logits_TV.gather(1, targets_T[:, None])[:, 0] >= logits_TV.amax(1)).sum()
    return LossSums(ce + draws.kl_weight * kl, ce.detach(), kl.detach(), correct)


def times_in(rising: Tensor, items: Tensor) -> Tensor:
    """How often each item stands in a rising list of items, int64, of the items' shape; rows against rows where both have them."""
    return torch.searchsorted(rising, items, right=True) - torch.searchsorted(rising, items)


def _chunk(
    draws: Draws, student: Scored, targets_T: Tensor, weights: Teachers | None, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Sums (ce, kl, correct) of a chunk and the gradient of its total with respect to the logits, [t, V]."""
    items_TS = draws.items_TS[start:stop].long()
    temperature, pull = draws.temperature, draws.kl_weight * draws.temperature
    z_TV = student.logits(start, stop)
    target_T = z_TV.gather(1, targets_T[:, None])[:, 0].float()
    best_T = z_TV.amax(1).float()
    drawn_T = z_TV.gather(1, items_TS).float().mean(1) / temperature
    slope_TV, log_mass_T = softmax_and_log_mass(z_TV, best_T)
    ce = (log_mass_T - target_T).sum()
    q_TV, log_mass_T = at_temperature(z_TV, best_T, temperature, (slope_TV, log_mass_T))
    slope_TV.add_(q_TV, alpha=pull)
    kl = temperature**2 * (draws.mean_log_probs_T[start:stop].float() - drawn_T + log_mass_T).sum()
    # all draws of an item at once: one at a time, a share less than half of bfloat16's last place would leave no trace
    times_TS = times_in(items_TS, items_TS)
    cells_TS = torch.arange(stop - start, device=items_TS.device)[:, None] * slope_TV.shape[1] + items_TS
    slopes = slope_TV.view(-1)
    slopes[cells_TS] = (slopes[cells_TS].float() - pull / items_TS.shape[1] * times_TS).to(slopes.dtype)
    slope_TV[torch.arange(stop - start, device=targets_T.device), targets_T] -= 1.0
    return torch.stack([ce, kl, (target_T >= best_T).sum().to(ce.dtype)]), slope_TV
