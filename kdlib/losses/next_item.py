"""Cross-entropy and distillation over a whole catalogue, straight from hidden states, chunk by chunk of positions.

The gradient is computed together with the loss, so no logits outlive their chunk: memory is one chunk of logits plus
the gradients of the hidden states and of the scoring matrix. `reference` says the same in plain functions.

Shapes: T real positions, W scoring width, V items.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kdlib.losses.distillation import kl_divergence, mixture_log_probs

CHUNK_LOGITS = {"cpu": 3 << 19, "cuda": 1 << 27}
"""Positions × items of one chunk. On a CPU 6 MiB of float32: over 12,000 items a loss takes a quarter longer with 16. 512 MiB on a GPU."""
LEAST_POSITIONS = 64
"""Of a chunk: with fewer the products with the matrix are slow."""
LARGE_CATALOGUE = 100_000
"""From so many items on, `cross_entropy_and_kl` goes by tiles of positions and items (`kdlib.losses.blocked`)."""


class Scored(NamedTuple):
    """Hidden states and the matrix that turns them into logits: `hidden_TW @ weight_VW.T + bias_V`."""

    hidden_TW: Tensor
    weight_VW: Tensor
    bias_V: Tensor | None = None

    def logits(self, start: int = 0, stop: int | None = None, *, temperature: float = 1.0) -> Tensor:
        """[positions, items] of a slice of positions, over the temperature, in the type of the matrix."""
        if temperature == 1.0:
            return F.linear(self.hidden_TW[start:stop], self.weight_VW, self.bias_V)
        # divided where it is small
        bias_V = None if self.bias_V is None else self.bias_V / temperature
        return F.linear(self.hidden_TW[start:stop] / temperature, self.weight_VW, bias_V)

    def to(self, dtype: torch.dtype) -> "Scored":
        return Scored(*(None if part is None else part.to(dtype) for part in self))  # type: ignore[arg-type]


class Teachers(NamedTuple):
    """Teachers' predictions at the student's positions, mixed by weight; no gradient reaches them."""

    scored: Sequence[Scored]
    weights: Sequence[float]
    kl_weight: float
    temperature: float


class LossSums(NamedTuple):
    """Sums over positions. `total = ce + kl_weight · kl` carries the gradient, the others do not."""

    total: Tensor
    ce: Tensor
    kl: Tensor
    correct: Tensor
    """Positions whose target has the best score."""


Chunk = Callable[[Scored, Tensor, Teachers | None, int, int], tuple[Tensor, Tensor]]
"""(student, a chunk's targets, teachers, the chunk's first position, its end) → sums (ce, kl, correct) and the gradient
of `ce + kl_weight · kl` with respect to the chunk's logits, [t, V], in the type of the matrix."""


class Gradients(NamedTuple):
    """Of `ce + kl_weight · kl` with respect to the student's parts; None where none is asked for."""

    hidden_TW: Tensor | None
    """Not initialised: to be written. The type of the hidden states."""
    weight_VW: Tensor | None
    """float32 zeros: to be added to; so is the bias."""
    bias_V: Tensor | None


Compute = Callable[[Scored, Tensor, Teachers | None, Gradients], Tensor]
"""(student, targets, teachers, gradients to fill) → float32 [3], the sums (ce, kl, correct) over all positions."""


def cross_entropy_and_kl(
    student: Scored, targets_T: Tensor, teachers: Teachers | None = None, *, dtype: torch.dtype = torch.float32
) -> LossSums:
    """`CE(student, target) + λ·T²·KL(teachers' mixture_T ‖ student_T)`, in nats, over all items.

    From `LARGE_CATALOGUE` items on by `kdlib.losses.blocked`, which says what that saves; below by chunks of positions.

    Args:
      student: what predicts; gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      teachers: whom to learn from besides the data.
      dtype: of logits, probabilities and their gradients; sums over positions are float32 whatever it is. bfloat16
        takes half the time where the processor multiplies it (AVX-512 BF16, AMX, GPUs), for a rounding of 2⁻⁹ a logit.
    """
    if student.weight_VW.shape[0] >= LARGE_CATALOGUE:
        from kdlib.losses import blocked  # it stands on this module

        return blocked.cross_entropy_and_kl(student, targets_T, teachers, dtype=dtype)
    return in_chunks(student, targets_T, teachers, _chunk, dtype=dtype)


def in_chunks(
    student: Scored, targets_T: Tensor, teachers: Teachers | None, chunk: Chunk, *, dtype: torch.dtype
) -> LossSums:
    """A loss of logits over all items, one chunk of positions at a time; `cross_entropy_and_kl` says the arguments."""
    return with_gradient(student, targets_T, teachers, partial(_sum_chunks, chunk=chunk), dtype=dtype)


def with_gradient(
    student: Scored, targets_T: Tensor, teachers: Teachers | None, compute: Compute, *, dtype: torch.dtype
) -> LossSums:
    """A loss whose gradient is computed together with it, in one node of autograd's graph."""
    return LossSums(*_WithGradient.apply(*student, targets_T, teachers, dtype, compute))


def reference(student: Scored, targets_T: Tensor, teachers: Teachers | None = None) -> LossSums:
    """The same from whole logits and the plain functions: to check against, not to train with."""
    logits_TV = student.to(torch.float32).logits()
    ce = F.cross_entropy(logits_TV, targets_T, reduction="sum")
    kl = torch.zeros_like(ce)
    total = ce
    if teachers is not None:
        mixture_TV = mixture_log_probs(
            [t.to(torch.float32).logits() for t in teachers.scored], teachers.weights, temperature=teachers.temperature
        )
        kl = kl_divergence(logits_TV, mixture_TV, temperature=teachers.temperature).sum()
        total = ce + teachers.kl_weight * kl
    correct = (logits_TV.gather(1, targets_T[:, None])[:, 0] >= logits_TV.amax(1)).sum()
    return LossSums(total, ce.detach(), kl.detach(), correct)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TW: Tensor,
        weight_VW: Tensor,
        bias_V: Tensor | None,
        targets_T: Tensor,
        teachers: Teachers | None,
        dtype: torch.dtype,
        compute: Compute,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        student = Scored(hidden_TW, weight_VW, bias_V).to(dtype)
        if teachers is not None:
            teachers = teachers._replace(scored=[_with_finite_bias(scored.to(dtype)) for scored in teachers.scored])
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        gradients = Gradients(
            torch.empty_like(hidden_TW) if need_hidden else None,
            torch.zeros(weight_VW.shape, device=weight_VW.device) if need_weight else None,
            torch.zeros_like(bias_V, dtype=torch.float32) if need_bias and bias_V is not None else None,
        )
        ce, kl, correct = compute(student, targets_T, teachers, gradients).unbind()
        ctx.save_for_backward(*gradients)
        total = ce + (teachers.kl_weight if teachers else 0.0) * kl
        ctx.mark_non_differentiable(ce, kl, correct)
        return total, ce, kl, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if grad is None else grad * grad_total for grad in ctx.saved_tensors]
        return (*grads, None, None, None, None)


def _with_finite_bias(scored: Scored) -> Scored:
    """A bias of −inf rules an item out; so does −10³⁰, whose probability is 0 too, and 0 · −10³⁰ is 0 where 0 · −inf is NaN."""
    return scored if scored.bias_V is None else scored._replace(bias_V=scored.bias_V.clamp_min(-1e30))


def _sum_chunks(
    student: Scored, targets_T: Tensor, teachers: Teachers | None, gradients: Gradients, *, chunk: Chunk
) -> Tensor:
    """`Compute` by chunks of positions over all items."""
    sums = torch.zeros(3, device=targets_T.device)
    size = max(LEAST_POSITIONS, CHUNK_LOGITS.get(targets_T.device.type, 1 << 26) // student.weight_VW.shape[0])
    for start in range(0, len(targets_T), size):
        stop = min(start + size, len(targets_T))
        part, slope_TV = chunk(student, targets_T[start:stop], teachers, start, stop)
        sums += part
        if gradients.hidden_TW is not None:
            gradients.hidden_TW[start:stop] = slope_TV @ student.weight_VW
        if gradients.weight_VW is not None:
            add_product(gradients.weight_VW, slope_TV.T, student.hidden_TW[start:stop])
        if gradients.bias_V is not None:
            gradients.bias_V.add_(slope_TV.sum(0, dtype=torch.float32))
    return sums


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`, into float32 whatever the factors are."""
    if right.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _chunk(
    student: Scored, targets_T: Tensor, teachers: Teachers | None, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Sums (ce, kl, correct) of a chunk and the gradient of its total with respect to the logits, [t, V]."""
    z_TV = student.logits(start, stop)
    target_T = z_TV.gather(1, targets_T[:, None])[:, 0].float()
    best_T = z_TV.amax(1).float()
    slope_TV, log_mass_T = softmax_and_log_mass(z_TV, best_T)
    ce = (log_mass_T - target_T).sum()
    kl = torch.zeros_like(ce)
    if teachers is not None:
        temperature, pull = teachers.temperature, teachers.kl_weight * teachers.temperature
        p_TV, negative_entropy_T = _mixture(teachers, start, stop)
        agreement_T = torch.linalg.vecdot(p_TV, z_TV).float() / temperature
        q_TV, log_mass_T = at_temperature(z_TV, best_T, temperature, (slope_TV, log_mass_T))
        # the difference first: of nearly equal numbers bfloat16 has it exactly
        slope_TV.add_(torch.sub(q_TV, p_TV, out=p_TV), alpha=pull)
        kl = temperature**2 * (negative_entropy_T - agreement_T + log_mass_T).sum()
    slope_TV[torch.arange(stop - start, device=targets_T.device), targets_T] -= 1.0
    return torch.stack([ce, kl, (target_T >= best_T).sum().to(ce.dtype)]), slope_TV


def softmax_and_log_mass(z_TV: Tensor, best_T: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and log Σ exp z, float [t]: the largest probability is exp(largest z) over the sum.

    PyTorch's softmax is vectorised and takes one pass through the cache; its exp on a CPU costs six times as much.
    """
    p_TV = torch.softmax(z_TV, 1)
    return p_TV, best_T - p_TV.amax(1).float().log()


def at_temperature(
    z_TV: Tensor, best_T: Tensor, temperature: float, at_one: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """`softmax_and_log_mass` of z over the temperature, written over z; at 1 `at_one`, which is that of z itself."""
    if temperature == 1.0:
        return at_one
    return softmax_and_log_mass(z_TV.div_(temperature), best_T / temperature)


def _mixture(teachers: Teachers, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The teachers' mean probabilities at the temperature, [t, V], and their Σ p·log p, float [t]."""
    total, dtype = sum(teachers.weights), teachers.scored[0].weight_VW.dtype
    mixed_TV: Tensor | None = None
    for scored, weight in zip(teachers.scored, teachers.weights, strict=True):
        y_TV = scored.logits(start, stop, temperature=teachers.temperature)
        if len(teachers.scored) == 1:
            p_TV, log_mass_T = softmax_and_log_mass(y_TV, y_TV.amax(1).float())
            return p_TV, torch.linalg.vecdot(p_TV, y_TV).float() - log_mass_T
        p_TV = torch.softmax(y_TV, 1, dtype=torch.float32)
        mixed_TV = p_TV.mul_(weight / total) if mixed_TV is None else mixed_TV.add_(p_TV, alpha=weight / total)
    assert mixed_TV is not None, "at least one teacher"
    # in float32 up to here: in bfloat16 sums drift, and logarithms near -10 are 1/16 apart
    smallest = torch.finfo(mixed_TV.dtype).tiny  # 0 · log 0 is 0 in the limit
    return mixed_TV.to(dtype), torch.linalg.vecdot(mixed_TV, mixed_TV.clamp_min(smallest).log())
