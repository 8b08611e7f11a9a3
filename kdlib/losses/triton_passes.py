"""The two passes of `kdlib.losses.blocked` on a GPU: Triton kernels, so that the logits never leave the chip.

Three kernels of `kdlib.losses.triton_kernels` run one after the other. Each computes its tiles of logits again:

1. the logsumexps, once for the student and once for the teacher;
2. the divergence and the gradient of the hidden states;
3. the gradients of matrix and bias.

In the first two, a program takes a block of positions and a share of the items, and the results of the shares are added up
afterwards. In the third, a program takes a block of items and all positions. Each program writes only its own results. There
are no atomic operations, so every run gives the same bits.

Factors of products are bfloat16 or float32, everything else is float32. Products of float32 are exact ("ieee"). They use no
tensor cores and spill many registers, and are only for the tests. The kernels ran in Triton's interpreter and were compiled
for sm_90. They were not timed on a GPU. Import this module only where Triton is installed.

Shapes: T real positions, W scoring width, V items.
"""

# Triton's language looks like Python but is not, and Triton is not installed everywhere
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from functools import partial
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kdlib.losses.scored import (
    KERNEL_WIDTH,
    Gradients,
    LossSums,
    Scored,
    StudentSide,
    Teachers,
    total_of,
    with_gradient,
)
from kdlib.losses.triton_kernels import hidden_kernel, logsumexp_kernel, weight_kernel


class Tile(NamedTuple):
    """The part of the logits that a program holds at a time."""

    positions: int
    items: int
    warps: int


LOGSUMEXP_TILE = Tile(positions=128, items=128, warps=8)
HIDDEN_TILE = Tile(positions=128, items=64, warps=8)
WEIGHT_TILE = Tile(positions=64, items=128, warps=8)
PIPELINE_STAGES = 2
"""Stages of the pipeline of loads.

Compiled for sm_90 in bfloat16 with a teacher, a student 128 wide takes 96 KiB of shared memory and spills no registers. A
student 256 wide takes 144 KiB and spills some. An A100 has 163 KiB, an H100 227."""
PROGRAMS = 512
"""Number of programs that share the work, about four for each of the 132 processors of an H100. The blocks of positions
alone are too few, so the items are cut into shares too."""
INNER = 64
"""Columns of hidden states that are multiplied at a time in the teacher's logits and in the logsumexps. The shared memory then
does not depend on the teacher's width."""


class _Teacher(NamedTuple):
    """What the teachers predict, with the logsumexp of their logits at the temperature, float32 [T]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    logsumexp: Tensor


def cross_entropy_and_kl(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | None = None,
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> LossSums:
    """`kdlib.losses.dispatch.cross_entropy_and_kl` on a CUDA device, or on any device in Triton's interpreter.

    Args:
      student: at most `KERNEL_WIDTH` wide.
      targets_T, teachers, weights_T: see there.
      dtype: bfloat16 or float32, of the factors of every matrix product.

    Raises:
      ValueError: the student is too wide.
    """
    if student.hidden_TW.shape[1] > KERNEL_WIDTH:
        raise ValueError(
            f"the Triton kernels take students at most {KERNEL_WIDTH} wide, found {student.hidden_TW.shape[1]}."
            " Use kdlib.losses.blocked instead"
        )
    return with_gradient(student, targets_T, teachers, partial(compute, weights_T=weights_T), dtype=dtype)


def compute(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    gradients: Gradients,
    *,
    weights_T: Tensor | None,
) -> Tensor:
    """A `Compute` function: the three kernels one after the other."""
    if len(targets_T) == 0:
        return torch.zeros(3, device=targets_T.device)
    student = Scored(*(None if part is None else part.contiguous() for part in student))  # type: ignore[arg-type]
    targets_T = targets_T.contiguous()
    weights_T = None if weights_T is None else weights_T.contiguous()
    with torch.cuda.device_of(targets_T):  # Triton launches on the current device
        scale = 1.0 if teachers is None else 1 / teachers.temperature
        best_T, target_T, logsumexp_T, tempered_T = _logsumexps(
            student, targets_T, scale, tempered=teachers is not None
        )
        teacher, kl_T = None, tempered_T
        if teachers is None:
            tempered_T, kl_T = None, torch.zeros_like(target_T)
        elif isinstance(teachers, Teachers):
            teacher = _teacher(teachers.scored, scale)
        pull = 0.0 if teachers is None else teachers.kl_weight * teachers.temperature
        common = (student, targets_T, logsumexp_T, tempered_T, weights_T, teacher, scale, pull)
        if gradients.hidden_TW is not None or teacher is not None:
            hidden_TW, divergence_T = _hidden_gradient(*common)
            kl_T = kl_T if teacher is None else divergence_T
            if gradients.hidden_TW is not None:
                gradients.hidden_TW.copy_(hidden_TW)
        if gradients.weight_VW is not None or gradients.bias_V is not None:
            _weight_gradient(*common, gradients)
    ce, kl = total_of(logsumexp_T - target_T, weights_T), total_of(kl_T, weights_T)
    return torch.stack([ce, kl / scale**2, (target_T >= best_T).sum().float()])


def _shares(tile: Tile, positions: int, items: int) -> tuple[int, int]:
    """Number of shares that the items are cut into, and number of items of one share."""
    blocks = triton.cdiv(items, tile.items)
    share = triton.cdiv(blocks, max(1, PROGRAMS // triton.cdiv(positions, tile.positions))) * tile.items
    return triton.cdiv(items, share), share


def _logsumexps(
    scored: Scored, targets_T: Tensor | None, scale: float, *, tempered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best logit, target's logit, logsumexp of the logits and of `scale · logits`: float32 [T] each.

    Without targets, only the best logit and the last result have a meaning. Without `tempered`, the last result has none.
    """
    (positions, width), items, tile = scored.hidden_TW.shape, scored.weight_VW.shape[0], LOGSUMEXP_TILE
    shares, share = _shares(tile, positions, items)
    best, target, plain, scaled = torch.empty(4, shares, positions, device=scored.hidden_TW.device).unbind()
    logsumexp_kernel[(triton.cdiv(positions, tile.positions), shares)](
        scored.hidden_TW,
        scored.weight_VW,
        scored.bias_V,
        targets_T,
        best,
        target,
        plain,
        scaled,
        positions,
        items,
        share,
        scale,
        WIDTH=width,
        STRIDE=scored.weight_VW.stride(0),
        TEMPERED=tempered,
        BLOCK_T=tile.positions,
        BLOCK_V=tile.items,
        BLOCK_W=_block(width, INNER),
        num_warps=tile.warps,
        num_stages=PIPELINE_STAGES,
    )
    return best.amax(0), target.amax(0), plain.logsumexp(0), scaled.logsumexp(0)


def _teacher(scored: Scored, scale: float) -> _Teacher:
    scored = Scored(*(None if part is None else part.contiguous() for part in scored))  # type: ignore[arg-type]
    return _Teacher(*scored, _logsumexps(scored, None, scale, tempered=True)[3])


def _hidden_gradient(
    student: Scored,
    targets_T: Tensor,
    logsumexp_T: Tensor,
    tempered_T: Tensor | None,
    weights_T: Tensor | None,
    teacher: _Teacher | None,
    scale: float,
    pull: float,
) -> tuple[Tensor, Tensor]:
    """Gradient of the hidden states, float32 [T, W]; KL at the temperature, float32 [T], without weight and factor T²."""
    (positions, width), items, tile = student.hidden_TW.shape, student.weight_VW.shape[0], HIDDEN_TILE
    shares, share = _shares(tile, positions, items)
    gradient = torch.empty(shares, positions, width, device=targets_T.device)
    kl = torch.empty(shares, positions, device=targets_T.device)
    hidden_kernel[(triton.cdiv(positions, tile.positions), shares)](
        *student,
        targets_T,
        logsumexp_T,
        tempered_T,
        weights_T,
        *_pointers(teacher),
        gradient,
        kl,
        positions,
        items,
        share,
        scale,
        pull,
        **_sizes(student, teacher, tile),
    )
    return gradient.sum(0), kl.sum(0)


def _weight_gradient(
    student: Scored,
    targets_T: Tensor,
    logsumexp_T: Tensor,
    tempered_T: Tensor | None,
    weights_T: Tensor | None,
    teacher: _Teacher | None,
    scale: float,
    pull: float,
    gradients: Gradients,
) -> None:
    """Write the gradients of matrix and bias."""
    positions, items, tile = len(targets_T), student.weight_VW.shape[0], WEIGHT_TILE
    weight_kernel[(triton.cdiv(items, tile.items),)](
        *student,
        targets_T,
        logsumexp_T,
        tempered_T,
        weights_T,
        *_pointers(teacher),
        gradients.weight_VW,
        gradients.bias_V,
        positions,
        items,
        scale,
        pull,
        **_sizes(student, teacher, tile),
    )


def _pointers(teacher: _Teacher | None) -> tuple[Tensor | None, ...]:
    return (None,) * 4 if teacher is None else teacher


def _sizes(student: Scored, teacher: _Teacher | None, tile: Tile) -> dict[str, int]:
    width, teacher_width = student.hidden_TW.shape[1], 0 if teacher is None else teacher.hidden.shape[1]
    return {
        "WIDTH": width,
        "TEACHER_WIDTH": teacher_width,
        "BLOCK_T": tile.positions,
        "BLOCK_V": tile.items,
        "BLOCK_W": _block(width, KERNEL_WIDTH),
        "BLOCK_K": _block(teacher_width, INNER),
        "num_warps": tile.warps,
        "num_stages": PIPELINE_STAGES,
    }


def _block(width: int, most: int) -> int:
    """Columns of a block: a power of two from 16, which `tl.dot` needs, to `most`."""
    return min(max(16, triton.next_power_of_2(width)), most)
