"""Any distillation loss over a whole catalogue, chunk by chunk of positions, with the gradient from autograd.

As in `kdlib.losses.next_item`, no logits outlive their chunk; but where that module has the gradient of cross-entropy and
KL worked out by hand, here autograd takes it, through a plain function of `kdlib.losses.distillation`: for everything
but the KL, at 1.3 (reverse KL) to 2.2 times (Jensen–Shannon) the time and a few chunks of logits more.

Shapes: T real positions, V items.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.distillation import (
    jensen_shannon,
    kl_divergence,
    mixture_log_probs,
    reverse_kl_divergence,
    tail_bucket_kl,
)
from kdlib.losses.next_item import LossSums, Scored, Teachers, in_chunks
from kdlib.losses.rank_distillation import rrd_listwise

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(student logits float [..., items], teacher log-probabilities at the temperature) → float [...]."""


def divergences(*, temperature: float, top_items: int, beta: float) -> dict[str, Divergence]:
    """Name in the run config → the loss with its options.

    Args:
      temperature: T of the student's softmax; the teachers' log-probabilities are taken at the same. RRD has none.
      top_items: K of the losses over the teachers' best items.
      beta: the teachers' share of the mixture in `jensen_shannon`.
    """
    return {
        "kl": partial(kl_divergence, temperature=temperature),
        "reverse_kl": partial(reverse_kl_divergence, temperature=temperature),
        "jensen_shannon": partial(jensen_shannon, temperature=temperature, beta=beta),
        "tail_bucket_kl": partial(tail_bucket_kl, temperature=temperature, top_items=top_items),
        "rrd_listwise": partial(rrd_listwise, top_items=top_items),
    }


def chunked(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers,
    *,
    divergence: Divergence,
    cross_entropy: bool = True,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`CE(student, target) + λ·divergence(student, teachers' mixture)`, summed over positions.

    Args:
      student: what predicts; gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      teachers: whom to learn from, with λ and the temperature of their mixture.
      divergence: see `divergences`; it gets one chunk of positions at a time.
      cross_entropy: False leaves the first term out (its sum is then 0), where the data is learnt from otherwise.
      dtype: of the matrix products; the losses are float32 whatever it is.

    Returns:
      Sums; `kl` is the divergence's, whichever it is.
    """
    chunk = partial(_autograd_chunk, divergence=divergence, cross_entropy=cross_entropy)
    return in_chunks(student, targets_T, teachers, chunk, dtype=dtype)


def _autograd_chunk(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | None,
    start: int,
    stop: int,
    *,
    divergence: Divergence,
    cross_entropy: bool,
) -> tuple[Tensor, Tensor]:
    """Sums (ce, divergence, correct) of a chunk and the gradient of its total with respect to the logits, [t, V]."""
    assert teachers is not None
    logits_TV = student.logits(start, stop)
    mixture_TV = mixture_log_probs(
        [scored.logits(start, stop).float() for scored in teachers.scored],
        teachers.weights,
        temperature=teachers.temperature,
    )
    with torch.enable_grad():
        z_TV = logits_TV.detach().float().requires_grad_()
        apart = divergence(z_TV, mixture_TV).sum()
        ce = F.cross_entropy(z_TV, targets_T, reduction="sum") if cross_entropy else torch.zeros_like(apart)
        (slope_TV,) = torch.autograd.grad(ce + teachers.kl_weight * apart, z_TV)
    correct = (z_TV.detach().gather(1, targets_T[:, None])[:, 0] >= z_TV.detach().amax(1)).sum()
    return torch.stack([ce.detach(), apart.detach(), correct.to(ce.dtype)]), slope_TV.to(logits_TV.dtype)
