"""Distillation losses as plain functions of logits: zero at equality, gradient to the student only.

Shapes: `[..., items]` are logits or log-probabilities over the catalogue; results drop the last axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


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
    teacher_log_probs = teacher_log_probs.detach()
    student_log_probs = torch.log_softmax(student_logits / temperature, dim=-1)
    terms = teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)
    # 0 · (−inf − x) is 0 in the limit: an item the teacher rules out adds nothing
    terms = torch.where(teacher_log_probs == -torch.inf, 0.0, terms)
    return temperature**2 * terms.sum(-1)


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
    logs = [torch.log_softmax(logits / temperature, dim=-1) for logits in teacher_logits]
    if len(logs) == 1:
        return logs[0]
    log_weights = torch.tensor(list(weights), dtype=torch.float64).div(sum(weights)).log().tolist()
    mixed = logs[0] + log_weights[0]
    for log, log_weight in zip(logs[1:], log_weights[1:], strict=True):
        mixed = torch.logaddexp(mixed, log + log_weight)
    return mixed
