"""Cross-entropy and distillation over a whole catalogue, straight from hidden states, chunk by chunk of positions.

The gradient is computed together with the loss, so no logits outlive their chunk: memory is one chunk of logits plus
the gradients of the hidden states and of the scoring matrix. `reference` says the same in plain functions.

Shapes: T real positions, W scoring width, V items.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kdlib.losses.distillation import kl_divergence, mixture_log_probs

CHUNK_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Positions × items of one chunk: 32 MiB of float32 on a CPU, whose caches are small; 512 MiB on a GPU."""


class Scored(NamedTuple):
    """Hidden states and the matrix that turns them into logits: `hidden_TW @ weight_VW.T + bias_V`."""

    hidden_TW: Tensor
    weight_VW: Tensor
    bias_V: Tensor | None = None

    def logits(self, start: int = 0, stop: int | None = None) -> Tensor:
        """float32 [positions, items] of a slice of positions."""
        return F.linear(self.hidden_TW[start:stop], self.weight_VW, self.bias_V).float()


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


def cross_entropy_and_kl(student: Scored, targets_T: Tensor, teachers: Teachers | None = None) -> LossSums:
    """`CE(student, target) + λ·T²·KL(teachers' mixture_T ‖ student_T)`, in nats, over all items.

    Args:
      student: what predicts; gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      teachers: whom to learn from besides the data.
    """
    return LossSums(*_Fused.apply(student.hidden_TW, student.weight_VW, student.bias_V, targets_T, teachers))


def reference(student: Scored, targets_T: Tensor, teachers: Teachers | None = None) -> LossSums:
    """The same from whole logits and the plain functions: to check against, not to train with."""
    logits_TV = student.logits()
    ce = F.cross_entropy(logits_TV, targets_T, reduction="sum")
    kl = torch.zeros_like(ce)
    total = ce
    if teachers is not None:
        mixture_TV = mixture_log_probs(
            [t.logits() for t in teachers.scored], teachers.weights, temperature=teachers.temperature
        )
        kl = kl_divergence(logits_TV, mixture_TV, temperature=teachers.temperature).sum()
        total = ce + teachers.kl_weight * kl
    correct = (logits_TV.gather(1, targets_T[:, None])[:, 0] >= logits_TV.amax(1)).sum()
    return LossSums(total, ce.detach(), kl.detach(), correct)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TW: Tensor,
        weight_VW: Tensor,
        bias_V: Tensor | None,
        targets_T: Tensor,
        teachers: Teachers | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        student = Scored(hidden_TW, weight_VW, bias_V)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_TW) if need_hidden else None
        grad_weight = torch.zeros_like(weight_VW, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if need_bias and bias_V is not None else None
        sums = torch.zeros(3, device=hidden_TW.device)  # ce, kl, correct
        size = max(1, CHUNK_LOGITS.get(hidden_TW.device.type, 1 << 26) // weight_VW.shape[0])
        for start in range(0, len(targets_T), size):
            stop = min(start + size, len(targets_T))
            part, slope_TV = _chunk(student, targets_T[start:stop], teachers, start, stop)
            sums += part
            if grad_hidden is not None:
                grad_hidden[start:stop] = slope_TV @ weight_VW.float()
            if grad_weight is not None:
                grad_weight.addmm_(slope_TV.T, hidden_TW[start:stop].float())
            if grad_bias is not None:
                grad_bias += slope_TV.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ce, kl, correct = sums.unbind()
        total = ce + (teachers.kl_weight if teachers else 0.0) * kl
        ctx.mark_non_differentiable(ce, kl, correct)
        return total, ce, kl, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if grad is None else grad * grad_total for grad in ctx.saved_tensors]
        return (*grads, None, None)


def _chunk(
    student: Scored, targets_T: Tensor, teachers: Teachers | None, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Sums (ce, kl, correct) of a chunk and the gradient of its total with respect to the logits, float [t, V]."""
    z_TV = student.logits(start, stop)
    target_T1 = z_TV.gather(1, targets_T[:, None])
    best_T1 = z_TV.amax(1, keepdim=True)
    correct = (target_T1 >= best_T1).sum()
    z_TV -= best_T1
    target_T1 -= best_T1
    if teachers is None:
        e_TV = z_TV.exp_()
        mass_T1 = e_TV.sum(1, keepdim=True)
        ce, kl = (mass_T1.log() - target_T1).sum(), torch.zeros_like(target_T1).sum()
        slope_TV = e_TV.div_(mass_T1)
    else:
        temperature = teachers.temperature
        p_TV, negative_entropy_T = _mixture(teachers, start, stop)
        agreement_T = torch.linalg.vecdot(p_TV, z_TV) / temperature
        pull = teachers.kl_weight * temperature
        if temperature == 2.0:  # exp(z) is the square of exp(z / 2): one exponential a logit instead of two
            half_TV = z_TV.mul_(0.5).exp_()
            mass_T1, soft_mass_T1 = torch.linalg.vecdot(half_TV, half_TV)[:, None], half_TV.sum(1, keepdim=True)
            slope_TV = torch.addcdiv(pull / soft_mass_T1, half_TV, mass_T1).mul_(half_TV)
        else:
            soft_TV = (z_TV / temperature).exp_()
            e_TV = z_TV.exp_()
            mass_T1, soft_mass_T1 = e_TV.sum(1, keepdim=True), soft_TV.sum(1, keepdim=True)
            slope_TV = e_TV.div_(mass_T1).add_(soft_TV.mul_(pull / soft_mass_T1))
        slope_TV.sub_(p_TV, alpha=pull)
        ce = (mass_T1.log() - target_T1).sum()
        kl = temperature**2 * (negative_entropy_T - agreement_T + soft_mass_T1.log()[:, 0]).sum()
    slope_TV.scatter_add_(1, targets_T[:, None], slope_TV.new_full((len(targets_T), 1), -1.0))
    return torch.stack([ce, kl, correct.to(ce.dtype)]), slope_TV


def _mixture(teachers: Teachers, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """The teachers' mean probabilities at the temperature, float [t, V], and their Σ p·log p, float [t]."""
    total = sum(teachers.weights)
    mixed_TV: Tensor | None = None
    for scored, weight in zip(teachers.scored, teachers.weights, strict=True):
        y_TV = scored.logits(start, stop).div_(teachers.temperature)
        y_TV -= y_TV.amax(1, keepdim=True)
        if len(teachers.scored) == 1:
            e_TV = y_TV.exp()
            mass_T = e_TV.sum(1)
            negative_entropy_T = torch.linalg.vecdot(e_TV, y_TV) / mass_T - mass_T.log()
            return e_TV.div_(mass_T[:, None]), negative_entropy_T
        e_TV = y_TV.exp_()
        e_TV.mul_(weight / (total * e_TV.sum(1, keepdim=True)))
        mixed_TV = e_TV if mixed_TV is None else mixed_TV.add_(e_TV)
    assert mixed_TV is not None, "at least one teacher"
    return mixed_TV, torch.xlogy(mixed_TV, mixed_TV).sum(1)
