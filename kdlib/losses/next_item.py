"""Losses from hidden states, over real positions only and in chunks of positions: the logits of one chunk exist at a time.

Shapes: T real positions, W scoring width, V items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kdlib.losses.distillation import kl_divergence, mixture_log_probs

MAX_CHUNK_LOGITS = 1 << 26
"""Positions × items of one chunk of logits: 256 MiB in float32."""


@dataclass(frozen=True)
class Scored:
    """Hidden states and the matrix that turns them into logits: `hidden_TW @ weight_VW.T + bias_V`."""

    hidden_TW: Tensor
    weight_VW: Tensor
    bias_V: Tensor | None = None

    def logits(self, start: int, stop: int) -> Tensor:
        return F.linear(self.hidden_TW[start:stop], self.weight_VW, self.bias_V).float()


def cross_entropy(student: Scored, targets_T: Tensor) -> tuple[Tensor, Tensor]:
    """Full-softmax cross-entropy.

    Args:
      student: what predicts.
      targets_T: int64 item indices.

    Returns:
      Sum over positions of the cross-entropy in nats, and number of positions whose best item is the target (no gradient).
    """
    total, _, correct = cross_entropy_and_kl(student, targets_T, teachers=(), weights=(), temperature=1.0)
    return total, correct


def cross_entropy_and_kl(
    student: Scored, targets_T: Tensor, *, teachers: Sequence[Scored], weights: Sequence[float], temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and `T²·KL(teachers' mixture_T ‖ student_T)` in one pass over the positions.

    Args:
      student: what predicts; the only one that gets a gradient.
      targets_T: int64 item indices.
      teachers: none, or hidden states at the same positions with each teacher's own head.
      weights: the teachers' shares.
      temperature: T > 0.

    Returns:
      Sums over positions: cross-entropy, KL (0 without teachers), and positions whose best item is the target.
    """

    def chunk(hidden_TW: Tensor, weight_VW: Tensor, bias_V: Tensor | None, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        logits_TV = F.linear(hidden_TW[start:stop], weight_VW, bias_V).float()
        targets = targets_T[start:stop]
        ce = F.cross_entropy(logits_TV, targets, reduction="sum")
        with torch.no_grad():
            correct = (logits_TV.argmax(-1) == targets).sum()
            mixture_TV = (
                mixture_log_probs([teacher.logits(start, stop) for teacher in teachers], weights, temperature=temperature)
                if teachers
                else None
            )
        kl = ce.new_zeros(()) if mixture_TV is None else kl_divergence(logits_TV, mixture_TV, temperature=temperature).sum()
        return ce, kl, correct

    positions = len(targets_T)
    size = max(1, MAX_CHUNK_LOGITS // student.weight_VW.shape[0])
    arguments = (student.hidden_TW, student.weight_VW, student.bias_V)
    if positions <= size:
        return chunk(*arguments, 0, positions)
    sums = [torch.zeros((), device=targets_T.device) for _ in range(3)]
    for start in range(0, positions, size):
        # the chunk's logits are computed again in the backward pass instead of being kept
        parts = checkpoint(chunk, *arguments, start, min(start + size, positions), use_reentrant=False)
        sums = [total + part for total, part in zip(sums, parts, strict=True)]  # type: ignore[arg-type]
    return sums[0], sums[1], sums[2]
