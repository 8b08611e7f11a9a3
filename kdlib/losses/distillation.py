"""Distillation losses as plain functions of logits.

Only the student gets a gradient. A divergence is 0 where student and teacher are equal. Half-precision logits are computed
in float32. Student logits must be finite. Teachers are given as log-probabilities at the temperature, see
`pooled_log_probs`; −inf means that the teacher rules an item out.

Shapes: `[..., items]` are logits or log-probabilities over the catalogue, or over the classes of any other problem. Results
drop the last axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_divergence(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`T² · KL(teacher_T ‖ softmax(student / T))`, in nats. It is ≥ 0, and 0 where student and teacher are equal.

    The factor T² keeps the size of the gradient when the temperature changes (Hinton, Vinyals & Dean 2015, section 2).

    Args:
      student_logits: float [..., items].
      teacher_log_probs: float [..., items], log-probabilities already taken at `temperature`. They get no gradient.
      temperature: T > 0.

    Returns:
      float [...].
    """
    teacher_log_probs = as_float(teacher_log_probs.detach())
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    return temperature**2 * relative_entropy(teacher_log_probs, student_log_probs)


def sampled_kl_divergence(
    student_logits: Tensor, sampled_items: Tensor, sampled_log_probs: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Unbiased estimate of `kl_divergence` from items sampled from the teacher: `T² · mean(log p(i) − log q(i))`.

    The frequencies of the sampled items stand for the teacher's whole distribution. Value and gradient have the expectation of
    the full KL's (Anshumann et al. 2025, random sampling KD); those of top-K targets do not. At equality every estimate
    is 0. Elsewhere a single estimate can be negative.

    Args:
      student_logits: float [..., items].
      sampled_items: int64 [..., samples], sampled with replacement from the teacher at `temperature`.
      sampled_log_probs: float [..., samples], the teacher's log-probabilities of these items at `temperature`.
      temperature: T > 0.

    Returns:
      float [...].
    """
    student_log_probs = torch.log_softmax(as_float(student_logits) / temperature, dim=-1)
    terms = as_float(sampled_log_probs.detach()) - student_log_probs.gather(-1, sampled_items)
    return temperature**2 * terms.mean(-1)


def hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """`1 − cos(student, teacher)`: 0 where the hidden states have the same direction, 2 where they are opposite.

    Args:
      student_hidden: float [..., width], the student's state projected to the teacher's width.
      teacher_hidden: float [..., width]. It gets no gradient. A state of zeros costs 1 and gives no gradient.

    Returns:
      float [...].
    """
    return 1.0 - F.cosine_similarity(as_float(student_hidden), as_float(teacher_hidden.detach()), dim=-1)


def pooled_log_probs(teacher_logits: Sequence[Tensor], weights: Sequence[float], *, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of several teachers together: the weighted mean of their logits, as one distribution.

    This is the logarithmic opinion pool (Genest & Zidek 1986): the normalised, weighted geometric mean of the teachers'
    probabilities. An item that one teacher holds very unlikely stays unlikely.

    Args:
      teacher_logits: one float [..., items] a teacher.
      weights: one positive number a teacher. They are scaled to sum to 1.
      temperature: T > 0.

    Returns:
      float [..., items] log-probabilities.

    Raises:
      ValueError: the weights do not match the teachers, or one is not positive.
    """
    if len(teacher_logits) != len(weights) or not weights or min(weights) <= 0:
        raise ValueError(
            "several teachers need one positive weight each,"
            f" found {len(teacher_logits)} teachers and weights {list(weights)}"
        )
    scale = 1.0 / (sum(weights) * temperature)
    weighted = [as_float(logits) * (weight * scale) for logits, weight in zip(teacher_logits, weights, strict=True)]
    return torch.log_softmax(torch.stack(weighted).sum(0), dim=-1)


def top_indices(scores: Tensor, top_items: int) -> Tensor:
    """Indices of the best items, best first, int64 [..., K]. K is `top_items`, but at most items − 1."""
    if top_items < 1:
        raise ValueError(f"top_items must be at least 1, found {top_items}")
    return scores.topk(min(top_items, scores.shape[-1] - 1), dim=-1).indices


def relative_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p ‖ q)` in nats, float [...], from log-probabilities float [..., items]. Where q is −inf, p must be too."""
    # an item that p rules out adds nothing: 0 · (−inf − x) is 0 in the limit
    return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(-1)


def as_float(values: Tensor) -> Tensor:
    """Half precision as float32. Other dtypes stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
