"""Cross-entropy and distillation over a whole catalogue, straight from hidden states, chunk by chunk of positions.

The loss and the gradient of a chunk are computed together, so no logits outlive their chunk. Memory holds one chunk of
logits, and the gradients of the hidden states and of the scoring matrix. `reference` computes the same loss from plain
functions.

Shapes: T real positions, t positions of a chunk, W scoring width, V items.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.distillation import kl_divergence
from kdlib.losses.scored import Gradients, LossSums, Scored, StudentSide, Teachers, add_product, total_of, with_gradient

CHUNK_BYTES = {"cpu": 6 << 20, "cuda": 512 << 20}
"""Size of one chunk's logits. With 16 MiB on a CPU, a loss over 12,000 items takes a quarter longer; with half of this size,
a tenth longer."""
LEAST_POSITIONS = 64
"""Fewest positions of a chunk. With fewer, the products with the scoring matrix are slow."""

Chunk = Callable[[Scored, Tensor, Any, int, int], tuple[tuple[Tensor, Tensor, Tensor], Tensor]]
"""(student, the chunk's targets, teachers, the chunk's first position, its end) → (ce, kl, correct) [t] each, gradient.

The gradient is that of `ce + kl_weight · kl` with respect to the chunk's logits: [t, V], in the dtype of the matrix. A loss
is a sum over positions, so the caller can multiply the rows of the gradient by weights."""


def cross_entropy_and_kl(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | None = None,
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`kdlib.losses.dispatch.cross_entropy_and_kl` by chunks of positions. See there for the inputs.

    Args:
      dtype: of logits, probabilities and their gradients.
    """
    return in_chunks(student, targets_T, teachers, _chunk, weights_T=weights_T, dtype=dtype)


def in_chunks(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    chunk: Chunk,
    *,
    weights_T: Tensor | None,
    dtype: torch.dtype,
) -> LossSums:
    """Any loss of the logits over all items, one chunk of positions at a time. For the arguments see `with_gradient`."""
    compute = partial(_sum_chunks, chunk=chunk, weights_T=weights_T)
    return with_gradient(student, targets_T, teachers, compute, dtype=dtype)


def reference(
    student: Scored, targets_T: Tensor, teachers: Teachers | None = None, *, weights_T: Tensor | None = None
) -> LossSums:
    """The same loss from whole logits and plain functions. Tests compare with it; it needs too much memory to train."""
    logits_TV = student.to(torch.float32).logits()
    ce = total_of(F.cross_entropy(logits_TV, targets_T, reduction="none"), weights_T)
    kl = torch.zeros_like(ce)
    total = ce
    if teachers is not None:
        teacher_TV = torch.log_softmax(teachers.scored.to(torch.float32).logits() / teachers.temperature, 1)
        kl = total_of(kl_divergence(logits_TV, teacher_TV, temperature=teachers.temperature), weights_T)
        total = ce + teachers.kl_weight * kl
    correct = (logits_TV.gather(1, targets_T[:, None])[:, 0] >= logits_TV.amax(1)).sum()
    return LossSums(total, ce.detach(), kl.detach(), correct)


def _sum_chunks(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    gradients: Gradients,
    *,
    chunk: Chunk,
    weights_T: Tensor | None,
) -> Tensor:
    """A `Compute` function: the sums over all chunks. It fills the gradients."""
    sums = torch.zeros(3, device=targets_T.device)
    for part in chunks_of(len(targets_T), student.weight_VW):
        start, stop = part.start, part.stop
        (ce_T, kl_T, correct_T), gradient_TV = chunk(student, targets_T[start:stop], teachers, start, stop)
        own_T = None if weights_T is None else weights_T[start:stop]
        if own_T is not None:
            gradient_TV.mul_(own_T[:, None])
        sums += torch.stack([total_of(ce_T, own_T), total_of(kl_T, own_T), correct_T.sum().to(ce_T.dtype)])
        if gradients.hidden_TW is not None:
            gradients.hidden_TW[start:stop] = gradient_TV @ student.weight_VW
        if gradients.weight_VW is not None:
            add_product(gradients.weight_VW, gradient_TV.T, student.hidden_TW[start:stop])
        if gradients.bias_V is not None:
            gradients.bias_V.add_(gradient_TV.sum(0, dtype=torch.float32))
    return sums


def chunks_of(positions: int, weight_VW: Tensor) -> Iterator[slice]:
    """Slices of positions whose logits over the rows of the matrix have about `CHUNK_BYTES`."""
    row_bytes = weight_VW.shape[0] * weight_VW.element_size()
    size = max(LEAST_POSITIONS, CHUNK_BYTES.get(weight_VW.device.type, 256 << 20) // row_bytes)
    return (slice(start, min(start + size, positions)) for start in range(0, positions, size))


def _chunk(
    student: Scored, targets_T: Tensor, teachers: Teachers | None, start: int, stop: int
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """A `Chunk` function: the gradient of cross-entropy and KL, worked out by hand."""
    z_TV = student.logits(start, stop)
    target_T = z_TV.gather(1, targets_T[:, None])[:, 0].float()
    best_T = z_TV.amax(1).float()
    gradient_TV, logsumexp_T = softmax_and_logsumexp(z_TV, best_T)
    ce_T = logsumexp_T - target_T
    kl_T = torch.zeros_like(ce_T)
    if teachers is not None:
        temperature, pull = teachers.temperature, teachers.kl_weight * teachers.temperature
        y_TV = teachers.scored.logits(start, stop, temperature=temperature)
        p_TV, teacher_logsumexp_T = softmax_and_logsumexp(y_TV, y_TV.amax(1).float())
        negative_entropy_T = torch.linalg.vecdot(p_TV, y_TV).float() - teacher_logsumexp_T
        agreement_T = torch.linalg.vecdot(p_TV, z_TV).float() / temperature
        q_TV, logsumexp_T = at_temperature(z_TV, best_T, temperature, (gradient_TV, logsumexp_T))
        # subtract first: bfloat16 holds the difference of nearly equal numbers exactly
        gradient_TV.add_(torch.sub(q_TV, p_TV, out=p_TV), alpha=pull)
        kl_T = temperature**2 * (negative_entropy_T - agreement_T + logsumexp_T)
    gradient_TV[torch.arange(stop - start, device=targets_T.device), targets_T] -= 1.0
    return (ce_T, kl_T, target_T >= best_T), gradient_TV


def softmax_and_logsumexp(z_TV: Tensor, best_T: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [t, V] and logsumexp of the logits, float [t].

    The largest probability is `exp(largest logit − logsumexp)`, so the logsumexp follows from it. This is faster than
    `logsumexp`: PyTorch's softmax is vectorised and passes once through the cache, and its exp on a CPU takes six times
    as long.

    Args:
      z_TV: logits.
      best_T: the largest logit of each position.
    """
    p_TV = torch.softmax(z_TV, 1)
    return p_TV, best_T - p_TV.amax(1).float().log()


def at_temperature(
    z_TV: Tensor, best_T: Tensor, temperature: float, at_one: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """`softmax_and_logsumexp` of `z_TV / temperature`. It overwrites the logits, except at temperature 1.

    Args:
      z_TV: logits.
      best_T: the largest logit of each position.
      temperature: T > 0.
      at_one: the result at temperature 1, which the caller has already.
    """
    if temperature == 1.0:
        return at_one
    return softmax_and_logsumexp(z_TV.div_(temperature), best_T / temperature)
