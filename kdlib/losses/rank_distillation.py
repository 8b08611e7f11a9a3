"""Distillation of a teacher's *ranking* of its best items: plain functions of logits, gradient to the student only.

Shapes: as in `kdlib.losses.distillation`: `[..., items]` in, `[...]` out; K a list length.
"""

import torch
from torch import Tensor

from kdlib.losses.distillation import as_float, relative_entropy, top_indices


def rrd_listwise(student_logits: Tensor, teacher_log_probs: Tensor, *, top_items: int) -> Tensor:
    """Relaxed ranking distillation: negative log-likelihood of the teacher's order of its best items, per item.

    `−1/K · Σ_k log( exp(s_k) / (Σ_{j ≥ k} exp(s_j) + Σ_{u uninteresting} exp(s_u)) )`, with the teacher's K best items in
    its order and every other item among the uninteresting: the student shall put the interesting ones above them and in
    the teacher's order; the order of the uninteresting ones does not matter (Kang et al. 2020,
    DE-RRD; with the mean over K and all uninteresting items in place of a sum and a sample).
    A likelihood, not a divergence: ≥ 0, but not 0 where student and teacher agree.

    Args:
      student_logits: float [..., items].
      teacher_log_probs: float [..., items]; only their order counts. No gradient flows there.
      top_items: K ≥ 1, how many items are interesting; at most items − 1 are taken.

    Returns:
      float [...].
    """
    student_logits = as_float(student_logits)
    best = top_indices(teacher_log_probs.detach(), top_items)
    ordered = student_logits.gather(-1, best)
    rest = student_logits.scatter(-1, best, -torch.inf).logsumexp(-1, keepdim=True)
    remaining = torch.cat([ordered, rest], dim=-1).flip(-1).logcumsumexp(-1).flip(-1)[..., :-1]
    return (remaining - ordered).sum(-1) / max(best.shape[-1], 1)  # of a single item there is no order


def margin_mse(student_margins: Tensor, teacher_margins: Tensor) -> Tensor:
    """Mean square error of the margins between pairs of items: `mean((m_student − m_teacher)²)`; 0 at equality and of no pair.

    Margins leave the scores' level free, which teachers of different kinds have different (Hofstätter et al. 2020,
    arXiv 2010.02666, equation 6).

    Args:
      student_margins: float [..., pairs], score of a pair's first item minus that of its second.
      teacher_margins: float [..., pairs] of the same pairs; no gradient flows there.

    Returns:
      float [...].
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

    Cross-entropy on a set of items bounds NDCG only when the set is closed: with an item it holds all that the *student*
    ranks above it. So the teacher's K best items are split into those that are among the student's K best and the rest:

    - `L₁ = KL` on the student's K best items, a closed set;
    - `L₂ = KL` on the rest together with `closure_items`, the sample of `sample_closure` that closes it nearly;
    - `L = (1 − γ)·L₁ + γ·L₂`, `γ = exp(−decay · |teacher's best ∩ student's best| / K)`.

    On each set both distributions are scaled to sum to 1. The sets and γ carry no gradient. The paper has cross-entropies
    in place of the KLs: the same gradient, but not 0 at equality.

    Args:
      student_logits: float [..., items].
      teacher_log_probs: float [..., items], at `temperature`; no gradient flows there.
      closure_items: int64 [..., L], distinct in each row.
      top_items: K ≥ 1.
      temperature: T > 0; the loss is multiplied by T².
      decay: the paper's β ≥ 0: how fast the weight moves from L₂ to L₁ as the two lists come together.

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
    """Draw the items with which `rce_kd` nearly closes the rest of the teacher's list.

    From the student's `pool_items` best, without replacement, with probability ∝ `exp(sharpness · z)`, z the number of
    the rest's items that the student ranks below the drawn one: what stands above many of them is drawn more often.

    Args:
      student_logits, teacher_log_probs, top_items: as in `rce_kd`.
      pool_items: how many of the student's best items may be drawn.
      num_samples: L ≤ pool_items.
      sharpness: the paper's 1/τ, with τ = 10.
      generator: of the random numbers; PyTorch's own by default.

    Returns:
      int64 [..., L].
    """
    if num_samples > pool_items or pool_items > student_logits.shape[-1]:
        raise ValueError(
            f"needs num_samples ≤ pool_items ≤ items, found {num_samples}, {pool_items} and {student_logits.shape[-1]}"
        )
    order = student_logits.detach().argsort(dim=-1, descending=True, stable=True)
    teacher_best = top_indices(teacher_log_probs.detach(), top_items)
    in_rest = torch.zeros_like(order, dtype=torch.bool).scatter(-1, teacher_best, True)
    ranked_rest = in_rest.gather(-1, order)
    ranked_rest[..., : teacher_best.shape[-1]] = False  # these are among the student's best
    below = ranked_rest.flip(-1).cumsum(-1).flip(-1) - ranked_rest.long()
    z = sharpness * below[..., :pool_items].float()
    weights = (z - z.amax(-1, keepdim=True)).exp()
    weights = weights.reshape(-1, pool_items)
    drawn = torch.multinomial(weights, num_samples, replacement=False, generator=generator)
    return order.gather(-1, drawn.view(*order.shape[:-1], num_samples))


def _divergence_on(logits: Tensor, log_probs: Tensor, kept: Tensor) -> Tensor:
    """KL between the two distributions given that the item is in the set; 0 where the teacher rules all of it out."""
    student = torch.log_softmax(logits.masked_fill(~kept, -torch.inf), dim=-1)
    teacher = log_probs.masked_fill(~kept, -torch.inf)
    mass = teacher.logsumexp(-1, keepdim=True)
    teacher = torch.where(mass == -torch.inf, -torch.inf, teacher - mass)
    return relative_entropy(teacher, student)
