"""Any distillation loss over a whole catalogue, chunk by chunk of positions, with the gradient from autograd.

`kdlib.losses.next_item` has the gradient of cross-entropy and KL worked out by hand. Here autograd differentiates a plain
function of logits. This takes more time and a few more chunks of logits, but works for every loss. As there, no logits
outlive their chunk.

**A new loss** is one function of the form `Divergence`, in a file of this folder:

1. Add the function to `DIVERGENCES` or `LOSSES` in `tests/losses/test_distillation.py`: all shared laws then test it.
2. Pass it to training: `NextItemTraining(divergence=my_loss)`.

Shapes: T real positions, t positions of a chunk, V items.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.next_item import in_chunks
from kdlib.losses.scored import LossSums, Scored, Teachers


class Divergence(Protocol):
    """What a student minimises to follow its teachers, for instance `kdlib.losses.distillation.kl_divergence`."""

    def __call__(self, student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float) -> Tensor:
        """The loss, float [...]; gradient to the student only.

        Args:
          student_logits: float [..., items].
          teacher_log_probs: float [..., items], log-probabilities already taken at `temperature`.
          temperature: T > 0.
        """
        ...


def chunked(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers,
    *,
    divergence: Divergence,
    cross_entropy: bool = True,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`CE(student, target) + λ·divergence(student, teachers)`, summed over positions.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      teachers: whom to learn from, with λ and the temperature.
      divergence: it gets one chunk of positions at a time.
      cross_entropy: False leaves the first term out, and its sum is 0. For students that learn the data by another loss.
      weights_T: float32, the weight of each position. None: all are 1.
      dtype: of the matrix products. The losses are always float32.

    Returns:
      Sums; `kl` is the sum of the divergence.
    """
    chunk = partial(_autograd_chunk, divergence=divergence, cross_entropy=cross_entropy)
    return in_chunks(student, targets_T, teachers, chunk, weights_T=weights_T, dtype=dtype)


def _autograd_chunk(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | None,
    start: int,
    stop: int,
    *,
    divergence: Divergence,
    cross_entropy: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A `kdlib.losses.next_item.Chunk` function."""
    assert teachers is not None
    logits_TV = student.logits(start, stop)
    teacher_TV = torch.log_softmax(teachers.scored.logits(start, stop).float() / teachers.temperature, 1)
    with torch.enable_grad():
        z_TV = logits_TV.detach().float().requires_grad_()
        apart_T = divergence(z_TV, teacher_TV, temperature=teachers.temperature)
        ce_T = F.cross_entropy(z_TV, targets_T, reduction="none") if cross_entropy else torch.zeros_like(apart_T)
        (gradient_TV,) = torch.autograd.grad((ce_T + teachers.kl_weight * apart_T).sum(), z_TV)
    correct_T = z_TV.detach().gather(1, targets_T[:, None])[:, 0] >= z_TV.detach().amax(1)
    return (ce_T.detach(), apart_T.detach(), correct_T), gradient_TV.to(logits_TV.dtype)
