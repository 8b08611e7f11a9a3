"""Distillation of a teacher's *ranking*, as plain functions of scores. Only the student gets a gradient.

Shapes: `[..., items]` in and `[...]` out, as in `kdlib.losses.distillation`. K is a list length.
"""

import torch
from torch import Tensor

from kdlib.losses.distillation import as_float, relative_entropy, top_indices


def margin_mse(student_margins: Tensor, teacher_margins: Tensor) -> Tensor:
    """Mean square error of the margins between pairs of items: `mean((m_student − m_teacher)²)`. It is 0 at equality.

    Margins do not depend on the level of the scores, which differs between kinds of teachers (Hofstätter et al. 2020,
    arXiv 2010.02666, equation 6).

    Args:
      student_margins: float [..., pairs], score of a pair's first item minus that of its second.
      teacher_margins: float [..., pairs] of the same pairs. They get no gradient.

    Returns:
      float [...]; 0 without pairs.
    """
    squares = (as_float(student_margins) - as_float(teacher_margins.detach())).square()
    return squares.sum(-1) / max(squares.shape[-1], 1)


def rce_kd(
    student_logits: Tensor,
    teacher_log_probs: Tensor,
    closure_items: Tensor,
    *,
    top_items: int,
    temperature: float = 1.0,
    decay: float = 1.0,
) -> Tensor:
    """Rejuvenated cross-entropy (Zhu & Zhang 2025, arXiv 2509.20989), as a divergence: 0 at equality.

    Cross-entropy on a set of items bounds NDCG only if the set is closed. A set is closed if it holds, for each of its items,
    all items that the *student* ranks above it. So the loss has two parts:

    - `L₁ = KL` on the student's K best items. This set is closed.
    - `L₂ = KL` on the rest: those of the teacher's K best items that are not among the student's K best. The
      `closure_items` are added to the rest and nearly close it, see `sample_closure`.
    - `L = (1 − γ)·L₁ + γ·L₂`, `γ = exp(−decay · |teacher's best ∩ student's best| / K)`.

    On each set both distributions are scaled to sum to 1. The sets and γ carry no gradient. The paper uses cross-entropies
    instead of the KLs. They have the same gradient, but are not 0 at equality.

    Args:
      student_logits: float [..., items].
      teacher_log_probs: float [..., items], at `temperature`. They get no gradient.
      closure_items: int64 [..., L], distinct in each row.
      top_items: K ≥ 1.
      temperature: T > 0. The loss is multiplied by T².
      decay: the paper's β ≥ 0: how fast the weight moves from L₂ to L₁ as the two lists become alike.

    Returns:
      float [...].
    """
    student_logits, teacher_log_probs = as_float(student_logits) / temperature, as_float(teacher_log_probs.detach())
    teacher_best, student_best = top_indices(teacher_log_probs, top_items), top_indices(student_logits, top_items)
    none = torch.zeros_like(student_logits, dtype=torch.bool)
    in_student = none.scatter(-1, student_best, True)
    in_second = none.scatter(-1, teacher_best, True) & ~in_student
    num_rest = in_second.sum(-1)
    in_second = in_second.scatter(-1, closure_items, True)
    first = _divergence_on(student_logits, teacher_log_probs, in_student)
    second = _divergence_on(student_logits, teacher_log_probs, in_second)
    gamma = torch.exp(-decay * (1.0 - num_rest.to(first.dtype) / max(teacher_best.shape[-1], 1)))
    return temperature**2 * ((1.0 - gamma) * first + gamma * second)


def sample_closure(
    student_logits: Tensor,
    teacher_log_probs: Tensor,
    *,
    top_items: int,
    pool_items: int,
    num_samples: int,
    sharpness: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample the items with which `rce_kd` nearly closes the rest of the teacher's list.

    They are sampled from the student's `pool_items` best items without replacement, with probability ∝ `exp(sharpness · z)`.
    Here z is the number of items of the rest that the student ranks below the sampled item. For the
    first three arguments see `rce_kd`.

    Args:
      pool_items: how many of the student's best items may be sampled.
      num_samples: L ≤ pool_items.
      sharpness: the paper's 1/τ, with τ = 10.
      generator: of the random numbers. PyTorch's default generator when None.

    Returns:
      int64 [..., L].

    Raises:
      ValueError: not `num_samples ≤ pool_items ≤ items`.
    """
    if num_samples > pool_items or pool_items > student_logits.shape[-1]:
        raise ValueError(
            "sample_closure needs num_samples ≤ pool_items ≤ items,"
            f" found {num_samples}, {pool_items} and {student_logits.shape[-1]}"
        )
    order = student_logits.detach().argsort(dim=-1, descending=True, stable=True)
    teacher_best = top_indices(teacher_log_probs.detach(), top_items)
    in_rest = torch.zeros_like(order, dtype=torch.bool).scatter(-1, teacher_best, True)
    ranked_rest = in_rest.gather(-1, order)
    ranked_rest[..., : teacher_best.shape[-1]] = False  # these items are among the student's best
    below = ranked_rest.flip(-1).cumsum(-1).flip(-1) - ranked_rest.long()
    z = sharpness * below[..., :pool_items].float()
    weights = (z - z.amax(-1, keepdim=True)).exp()
    weights = weights.reshape(-1, pool_items)
    drawn = torch.multinomial(weights, num_samples, replacement=False, generator=generator)
    return order.gather(-1, drawn.view(*order.shape[:-1], num_samples))


def _divergence_on(logits: Tensor, log_probs: Tensor, kept: Tensor) -> Tensor:
    """KL between the two distributions, each scaled to sum to 1 on the set. 0 where the teacher rules the whole set out."""
    student = torch.log_softmax(logits.masked_fill(~kept, -torch.inf), dim=-1)
    teacher = log_probs.masked_fill(~kept, -torch.inf)
    total = teacher.logsumexp(-1, keepdim=True)
    teacher = torch.where(total == -torch.inf, -torch.inf, teacher - total)
    return relative_entropy(teacher, student)
