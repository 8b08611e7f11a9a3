"""What every form of the next-item loss shares: its inputs, its result, and the way into autograd's graph.

A form is a `Compute` function. It computes the loss and the gradient together, so it keeps no logits for a backward pass.
The function `with_gradient` makes one node of autograd's graph from it. The module `kdlib.losses.dispatch` chooses a form.

Shapes: T real positions, W scoring width, V items.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

KERNEL_WIDTH = 256
"""Largest student width of the Triton kernels: they keep the gradient of the hidden states in registers."""


class Scored(NamedTuple):
    """Hidden states and the matrix that turns them into logits: `hidden_TW @ weight_VW.T + bias_V`."""

    hidden_TW: Tensor
    weight_VW: Tensor
    bias_V: Tensor | None = None

    def logits(self, start: int = 0, stop: int | None = None, *, temperature: float = 1.0) -> Tensor:
        """Logits of a slice of positions, divided by the temperature: [positions, items], in the dtype of the matrix."""
        if temperature == 1.0:
            return F.linear(self.hidden_TW[start:stop], self.weight_VW, self.bias_V)
        # the factors are much smaller than the logits, so they are divided instead
        bias_V = None if self.bias_V is None else self.bias_V / temperature
        return F.linear(self.hidden_TW[start:stop] / temperature, self.weight_VW, bias_V)

    def to(self, dtype: torch.dtype) -> "Scored":
        """The same in another dtype."""
        return Scored(*(None if part is None else part.to(dtype) for part in self))  # type: ignore[arg-type]


class Teachers(NamedTuple):
    """What the teachers predict at the student's positions. It gets no gradient."""

    scored: Scored
    """Of one teacher, or of several that `pool` has joined."""
    kl_weight: float
    """λ."""
    temperature: float
    """T."""


class StudentSide(NamedTuple):
    """In place of `Teachers`: only the student's side of the KL, which is T²·logsumexp(z / T) for its logits z.

    Sampled targets give the other side (`kdlib.losses.sparse`)."""

    kl_weight: float
    """λ."""
    temperature: float
    """T."""


def total_of(values_T: Tensor, weights_T: Tensor | None) -> Tensor:
    """The sum over positions, each times its weight; None: all weights are 1, and nothing is multiplied."""
    return values_T.sum() if weights_T is None else (values_T * weights_T).sum()


def pool(scored: Sequence[Scored], weights: Sequence[float]) -> Scored:
    """Several teachers as one, whose logits are the weighted mean of theirs (`kdlib.losses.distillation.pooled_log_probs`).

    Their hidden states, times the weights, and their matrices lie side by side.

    Args:
      scored: one for each teacher.
      weights: one positive number for each teacher. They are scaled to sum to 1.
    """
    if len(scored) == 1:
        return scored[0]
    shares = [weight / sum(weights) for weight in weights]
    biases = [share * one.bias_V for one, share in zip(scored, shares, strict=True) if one.bias_V is not None]
    return Scored(
        torch.cat([share * one.hidden_TW for one, share in zip(scored, shares, strict=True)], 1),
        torch.cat([one.weight_VW for one in scored], 1),
        torch.stack(biases).sum(0) if biases else None,
    )


class LossSums(NamedTuple):
    """Sums over positions, each times its weight. Only `total = ce + kl_weight · kl` carries a gradient."""

    total: Tensor
    ce: Tensor
    kl: Tensor
    correct: Tensor
    """Number of positions whose target has the best score, whatever their weight."""


class Gradients(NamedTuple):
    """Gradients of `ce + kl_weight · kl` with respect to the parts of the student. None: not needed."""

    hidden_TW: Tensor | None
    """Not initialised, to be written. It has the dtype of the hidden states."""
    weight_VW: Tensor | None
    """float32 zeros, to be added to."""
    bias_V: Tensor | None
    """float32 zeros, to be added to."""


Compute = Callable[[Scored, Tensor, Teachers | StudentSide | None, Gradients], Tensor]
"""(student, targets, teachers, gradients to fill) → float32 [3], the sums (ce, kl, correct) over all positions."""


def with_gradient(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    compute: Compute,
    *,
    dtype: torch.dtype,
) -> LossSums:
    """The loss of a `Compute` function, as one node of autograd's graph.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      teachers: whom to learn from besides the data.
      compute: it gets student and teachers in `dtype`, and finite biases of the teachers.
      dtype: of the factors of every matrix product.
    """
    return LossSums(*_WithGradient.apply(*student, targets_T, teachers, dtype, compute))


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TW: Tensor,
        weight_VW: Tensor,
        bias_V: Tensor | None,
        targets_T: Tensor,
        teachers: Teachers | StudentSide | None,
        dtype: torch.dtype,
        compute: Compute,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        student = Scored(hidden_TW, weight_VW, bias_V).to(dtype)
        if isinstance(teachers, Teachers):
            teachers = teachers._replace(scored=_with_finite_bias(teachers.scored.to(dtype)))
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
    """The same with −10³⁰ for a bias of −inf. Both give probability 0, but 0 · −10³⁰ is 0 and 0 · −inf is NaN."""
    return scored if scored.bias_V is None else scored._replace(bias_V=scored.bias_V.clamp_min(-1e30))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`. The total is float32, whatever the dtype of the factors."""
    if right.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
