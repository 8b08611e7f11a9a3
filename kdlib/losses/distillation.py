"""Distillation losses as plain functions of logits: gradient to the student only; divergences are 0 at equality.

Shapes: `[..., items]` are logits or log-probabilities over the catalogue (or over the classes of any other problem);
results drop the last axis. Teachers come as log-probabilities at the temperature (`mixture_log_probs`), where −inf
means that the teacher rules an item out. Half-precision logits are computed in float32. Student logits are finite.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_LOG_PROBABILITY = -100.0
"""`reverse_kl_divergence` takes a teacher's probability for at least e⁻¹⁰⁰, about the smallest that float32 can write."""


def kl_divergence(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`T² · KL(teacher_T ‖ softmax(student / T))`, in nats; ≥ 0, and 0 where the student equals the teacher.

    The factor T² keeps the gradient's size when the temperature changes (Hinton, Vinyals & Dean 2015, section 2).

    Args:
      student_logits: float [..., items].
      teacher_log_probs: float [..., items], log-probabilities already taken at `temperature`; no gradient flows there.
      temperature: T > 0.

    Returns:
      float [...].
    """
    teacher_log_probs = as_float(teacher_log_probs.detach())
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    return temperature**2 * relative_entropy(teacher_log_probs, student_log_probs)


def reverse_kl_divergence(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`T² · KL(softmax(student / T) ‖ teacher_T)`, in nats; 0 at equality; seeks the teacher's modes.

    Mode seeking as in Gu et al. 2024 (MiniLLM), section 2.1. Where the student gives mass to an item that the teacher
    rules out, the divergence is infinite; here the teacher's log-probabilities are cut at `SMALLEST_LOG_PROBABILITY`.

    Args and returns: as `kl_divergence`.
    """
    teacher_log_probs = as_float(teacher_log_probs.detach()).clamp_min(SMALLEST_LOG_PROBABILITY)
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    # the same cut for the student, so that two equal distributions keep the divergence 0
    terms = student_log_probs.exp() * (student_log_probs.clamp_min(SMALLEST_LOG_PROBABILITY) - teacher_log_probs)
    return temperature**2 * terms.sum(-1)


def jensen_shannon(
    student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """Generalised Jensen–Shannon divergence, times T²: bounded, 0 at equality.

    `T² · (β·KL(teacher ‖ M) + (1 − β)·KL(student ‖ M))` with `M = β·teacher + (1 − β)·student`; β = 1/2 is Lin's
    (1991); divided by β it tends to the forward KL for β → 0, and divided by 1 − β to the reverse KL for β → 1
    (Agarwal et al. 2024, GKD). At most `T² · H(β) ≤ T² · ln 2`, H the entropy of a coin.

    Args:
      student_logits, teacher_log_probs, temperature: as in `kl_divergence`.
      beta: 0 < β < 1, the teacher's share of M.

    Returns:
      float [...].

    Raises:
      ValueError: β is not inside (0, 1).
    """
    if not 0 < beta < 1:
        raise ValueError(f"jensen_shannon needs 0 < beta < 1 (the teacher's share of the mixture), found {beta}")
    teacher_log_probs = as_float(teacher_log_probs.detach())
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    log_beta, log_rest = torch.tensor([beta, 1 - beta], dtype=torch.float64).log().tolist()
    middle_log_probs = torch.logaddexp(teacher_log_probs + log_beta, student_log_probs + log_rest)
    return temperature**2 * (
        beta * relative_entropy(teacher_log_probs, middle_log_probs)
        + (1 - beta) * relative_entropy(student_log_probs, middle_log_probs)
    )


def tail_bucket_kl(
    student_logits: Tensor, teacher_log_probs: Tensor, *, top_items: int, temperature: float = 1.0
) -> Tensor:
    """`T² · KL` over the teacher's `top_items` best items and one bucket that holds all the others.

    A divergence of two coarser distributions: ≥ 0, 0 at equality, and never above `kl_divergence` (log-sum inequality,
    Cover & Thomas, theorem 2.7.1). Unlike top-K targets scaled to sum to 1 it does not pull the tail's mass upwards.

    Args:
      student_logits, teacher_log_probs, temperature: as in `kl_divergence`.
      top_items: K ≥ 1; K ≥ items − 1 is the full KL.

    Returns:
      float [...].
    """
    teacher_log_probs = as_float(teacher_log_probs.detach())
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    best = top_indices(teacher_log_probs, top_items)
    return temperature**2 * relative_entropy(_with_tail(teacher_log_probs, best), _with_tail(student_log_probs, best))


def sampled_kl_divergence(
    student_logits: Tensor, sampled_items: Tensor, sampled_log_probs: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Unbiased estimate of `kl_divergence` from items drawn from the teacher: `T² · mean(log p(i) − log q(i))`.

    The counts of the draws, divided by their number, stand for the teacher's whole distribution: value and gradient
    have the expectation of the full KL's, which top-K targets have not (Anshumann et al. 2025, random sampling KD).
    0 at equality, for every sample; a single estimate can be negative.

    Args:
      student_logits: float [..., items].
      sampled_items: int64 [..., samples], drawn with replacement by `sample_teacher`.
      sampled_log_probs: float [..., samples], the teacher's log-probabilities of the draws at `temperature`.
      temperature: T > 0.

    Returns:
      float [...].
    """
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    terms = as_float(sampled_log_probs.detach()) - student_log_probs.gather(-1, sampled_items)
    return temperature**2 * terms.mean(-1)


def sample_teacher(
    teacher_log_probs: Tensor, *, num_samples: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw items from the teacher with replacement, to be stored in place of its whole distribution.

    Args:
      teacher_log_probs: float [..., items]; at most 2²⁴ items.
      num_samples: draws for each distribution.
      generator: of the random numbers; PyTorch's own by default.

    Returns:
      int64 [..., samples] items and float [..., samples], their log-probabilities.
    """
    flat = as_float(teacher_log_probs).exp().reshape(-1, teacher_log_probs.shape[-1])
    drawn = torch.multinomial(flat, num_samples, replacement=True, generator=generator)
    items = drawn.view(*teacher_log_probs.shape[:-1], num_samples)
    return items, teacher_log_probs.gather(-1, items)


def hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """`1 − cos(student, teacher)`: 0 where the states have one direction, 2 where they are opposite.

    Args:
      student_hidden: float [..., width], the student's state projected to the teacher's width.
      teacher_hidden: float [..., width]; no gradient flows there. A state of zeros costs 1 and pulls nowhere.

    Returns:
      float [...].
    """
    return 1.0 - F.cosine_similarity(as_float(student_hidden), as_float(teacher_hidden.detach()), dim=-1)


def mixture_log_probs(
    teacher_logits: Sequence[Tensor], weights: Sequence[float], *, temperature: float = 1.0
) -> Tensor:
    """Log of the weighted mean of the teachers' *probabilities* at a temperature.

    Args:
      teacher_logits: one float [..., items] a teacher.
      weights: one positive number a teacher; scaled to sum to 1.
      temperature: T > 0.

    Returns:
      float [..., items] log-probabilities.
    """
    if len(teacher_logits) != len(weights) or not weights or min(weights) <= 0:
        raise ValueError(
            f"needs one positive weight a teacher, found {len(teacher_logits)} teachers and weights {list(weights)}"
        )
    logs = [torch.log_softmax(as_float(logits) / temperature, dim=-1) for logits in teacher_logits]
    if len(logs) == 1:
        return logs[0]
    log_weights = torch.tensor(list(weights), dtype=torch.float64).div(sum(weights)).log().tolist()
    mixed = logs[0] + log_weights[0]
    for log, log_weight in zip(logs[1:], log_weights[1:], strict=True):
        mixed = torch.logaddexp(mixed, log + log_weight)
    return mixed


def top_indices(scores: Tensor, top_items: int) -> Tensor:
    """int64 [..., K] indices of the best items, best first; at least one item is always left over."""
    if top_items < 1:
        raise ValueError(f"top_items must be at least 1, found {top_items}")
    return scores.topk(min(top_items, scores.shape[-1] - 1), dim=-1).indices


def _with_tail(log_probs: Tensor, kept: Tensor) -> Tensor:
    """[..., K + 1]: the kept items' log-probabilities, and that of all others together, by log-sum-exp over them:
    `1 − Σp` would be lost to rounding."""
    tail = log_probs.scatter(-1, kept, -torch.inf)
    return torch.cat([log_probs.gather(-1, kept), tail.logsumexp(-1, keepdim=True)], dim=-1)


def relative_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p ‖ q)` in nats, float [...], from log-probabilities float [..., items]; −inf in q needs −inf in p."""
    # 0 · (−inf − x) is 0 in the limit: an item that p rules out adds nothing
    return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(-1)


def as_float(values: Tensor) -> Tensor:
    """Half precision as float32; wider types as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
