"""The two passes of `kdlib.losses.blocked` as Triton kernels: on a GPU, logits then never leave the chip.

Three kernels, all of which compute a tile of logits anew: denominators (once for the student, once for each teacher),
gradient of the hidden states with the divergence, gradient of matrix and bias. In the first two a program takes a block
of positions and a share of the items, and the shares are added up afterwards; in the third a program takes a block of
items and all positions. Each program writes what is its own: no atomics, the same bits from run to run.

Factors of products are bfloat16 or float32, all else is float32. Products of float32 are exact ("ieee"), without tensor
cores and with many spilled registers: they are there for the tests. The kernels were run in Triton's interpreter and
compiled for sm_90, not yet timed on a GPU. This module needs Triton; import it only where that is installed.

Shapes: T real positions, W scoring width, V items, N teachers.
"""

# its language is Python in looks only, and it is not installed everywhere
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.blocked import KERNEL_WIDTH
from kdlib.losses.next_item import Gradients, LossSums, Scored, Teachers, with_gradient


class Tile(NamedTuple):
    """What a program holds at a time."""

    positions: int
    items: int
    warps: int


MASS_TILE = Tile(positions=128, items=128, warps=8)
HIDDEN_TILE = Tile(positions=128, items=64, warps=8)
WEIGHT_TILE = Tile(positions=64, items=128, warps=8)
PIPELINE_STAGES = 2
"""Of the loads' pipeline. Compiled for sm_90 in bfloat16, student 128 wide: 96 KiB of shared memory and no spilled
registers with one teacher; 256 wide: 144 KiB (an A100 has 163, an H100 227) and some spills."""
PROGRAMS = 512
"""So many programs share out the items, about four for each of an H100's 132 processors: positions alone are too few."""
INNER = 64
"""Columns of states multiplied at a time in the teachers' logits and in the denominators: teachers are as wide as they
like, in the same shared memory."""

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


class _Mixed(NamedTuple):
    """All teachers side by side, each padded with zeros to the widest."""

    hidden: Tensor
    """[T, N·width]"""
    weight: Tensor
    """[V, N·width]"""
    bias: Tensor | None
    """float32 [N, V]"""
    mass: Tensor
    """float32 [N, T]: log of the softmax's denominator at the temperature, less the log of the teacher's share."""
    width: int


def cross_entropy_and_kl(
    student: Scored, targets_T: Tensor, teachers: Teachers | None = None, *, dtype: torch.dtype = torch.bfloat16
) -> LossSums:
    """As `blocked.cross_entropy_and_kl`, on a CUDA device (or anywhere in Triton's interpreter).

    Args:
      student: at most `KERNEL_WIDTH` wide.
      targets_T, teachers: as there.
      dtype: bfloat16 or float32, of the factors of every matrix product.

    Raises:
      ValueError: the student is too wide.
    """
    if student.hidden_TW.shape[1] > KERNEL_WIDTH:
        raise ValueError(
            f"the kernels take students at most {KERNEL_WIDTH} wide, found {student.hidden_TW.shape[1]}: "
            "use kdlib.losses.blocked"
        )
    return with_gradient(student, targets_T, teachers, _compute, dtype=dtype)


def _compute(student: Scored, targets_T: Tensor, teachers: Teachers | None, gradients: Gradients) -> Tensor:
    if len(targets_T) == 0:
        return torch.zeros(3, device=targets_T.device)
    student = Scored(*(None if part is None else part.contiguous() for part in student))  # type: ignore[arg-type]
    targets_T = targets_T.contiguous()
    with torch.cuda.device_of(targets_T):  # Triton launches on the current device
        scale = 1.0 if teachers is None else 1 / teachers.temperature
        best_T, target_T, mass_T, tempered_T = _log_masses(student, targets_T, scale, tempered=teachers is not None)
        mixed = None if teachers is None else _mix(teachers)
        kl = torch.zeros((), device=targets_T.device)
        pull = 0.0 if teachers is None else teachers.kl_weight * teachers.temperature
        common = (student, targets_T, mass_T, tempered_T, mixed, scale, pull)
        if gradients.hidden_TW is not None or mixed is not None:
            hidden_TW, kl = _hidden_gradient(*common)
            if gradients.hidden_TW is not None:
                gradients.hidden_TW.copy_(hidden_TW)
        if gradients.weight_VW is not None or gradients.bias_V is not None:
            _weight_gradient(*common, gradients)
    ce = (mass_T - target_T).sum()
    return torch.stack([ce, kl / scale**2, (target_T >= best_T).sum().float()])


def _shares(tile: Tile, positions: int, items: int) -> tuple[int, int]:
    """Into how many shares the items are cut, and the items of one."""
    blocks = triton.cdiv(items, tile.items)
    share = triton.cdiv(blocks, max(1, PROGRAMS // triton.cdiv(positions, tile.positions))) * tile.items
    return triton.cdiv(items, share), share


def _log_masses(
    scored: Scored, targets_T: Tensor | None, scale: float, *, tempered: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best logit, target's logit, log Σ exp(logits) and log Σ exp(scale · logits): float32 [T] each.

    Without targets only the best logit and the last are meant; without `tempered` all but the last.
    """
    (positions, width), items, tile = scored.hidden_TW.shape, scored.weight_VW.shape[0], MASS_TILE
    shares, share = _shares(tile, positions, items)
    best, target, plain, scaled = torch.empty(4, shares, positions, device=scored.hidden_TW.device).unbind()
    _log_mass_kernel[(triton.cdiv(positions, tile.positions), shares)](
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


def _mix(teachers: Teachers) -> _Mixed:
    """Join the teachers and find their denominators."""
    width = max(scored.hidden_TW.shape[1] for scored in teachers.scored)
    hidden = _side_by_side([scored.hidden_TW for scored in teachers.scored], width)
    weight = _side_by_side([scored.weight_VW for scored in teachers.scored], width)
    bias = None
    if any(scored.bias_V is not None for scored in teachers.scored):
        zeros_V = torch.zeros(weight.shape[0], device=weight.device)
        bias = torch.stack([zeros_V if s.bias_V is None else s.bias_V.float() for s in teachers.scored])
    masses = []
    for number, share in enumerate(teachers.weights):
        columns = slice(number * width, (number + 1) * width)
        scored = Scored(hidden[:, columns], weight[:, columns], None if bias is None else bias[number])
        mass_T = _log_masses(scored, None, 1 / teachers.temperature, tempered=True)[3]
        masses.append(mass_T - torch.tensor(share / sum(teachers.weights), dtype=torch.float64).log().item())
    return _Mixed(hidden, weight, bias, torch.stack(masses), width)


def _side_by_side(matrices: list[Tensor], width: int) -> Tensor:
    if len(matrices) == 1:
        return matrices[0].contiguous()
    return torch.cat([F.pad(matrix, (0, width - matrix.shape[1])) for matrix in matrices], 1)


def _hidden_gradient(
    student: Scored,
    targets_T: Tensor,
    mass_T: Tensor,
    tempered_T: Tensor,
    mixed: _Mixed | None,
    scale: float,
    pull: float,
) -> tuple[Tensor, Tensor]:
    """Gradient of the hidden states, float32 [T, W], and Σ KL at the temperature, without its factor T²."""
    (positions, width), items, tile = student.hidden_TW.shape, student.weight_VW.shape[0], HIDDEN_TILE
    shares, share = _shares(tile, positions, items)
    gradient = torch.empty(shares, positions, width, device=targets_T.device)
    kl = torch.empty(shares, positions, device=targets_T.device)
    _hidden_kernel[(triton.cdiv(positions, tile.positions), shares)](
        *student,
        targets_T,
        mass_T,
        tempered_T,
        *_pointers(mixed),
        gradient,
        kl,
        positions,
        items,
        share,
        scale,
        pull,
        **_sizes(student, mixed, tile),
    )
    return gradient.sum(0), kl.sum()


def _weight_gradient(
    student: Scored,
    targets_T: Tensor,
    mass_T: Tensor,
    tempered_T: Tensor,
    mixed: _Mixed | None,
    scale: float,
    pull: float,
    gradients: Gradients,
) -> None:
    """Write the gradients of matrix and bias."""
    positions, items, tile = len(targets_T), student.weight_VW.shape[0], WEIGHT_TILE
    _weight_kernel[(triton.cdiv(items, tile.items),)](
        *student,
        targets_T,
        mass_T,
        tempered_T,
        *_pointers(mixed),
        gradients.weight_VW,
        gradients.bias_V,
        positions,
        items,
        scale,
        pull,
        **_sizes(student, mixed, tile),
    )


def _pointers(mixed: _Mixed | None) -> tuple[Tensor | None, ...]:
    return (None,) * 4 if mixed is None else mixed[:4]


def _sizes(student: Scored, mixed: _Mixed | None, tile: Tile) -> dict[str, int]:
    width = student.hidden_TW.shape[1]
    return {
        "WIDTH": width,
        "TEACHERS": 0 if mixed is None else len(mixed.mass),
        "TEACHER_WIDTH": 0 if mixed is None else mixed.width,
        "BLOCK_T": tile.positions,
        "BLOCK_V": tile.items,
        "BLOCK_W": _block(width, KERNEL_WIDTH),
        "BLOCK_K": _block(0 if mixed is None else mixed.width, INNER),
        "num_warps": tile.warps,
        "num_stages": PIPELINE_STAGES,
    }


def _block(width: int, most: int) -> int:
    """Columns of a block: a power of two, and at least the 16 that `tl.dot` needs."""
    return min(max(16, triton.next_power_of_2(width)), most)


@triton.jit
def _rows(matrix, rows, end, start, WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """matrix[rows, start : start + BLOCK]; zeros for rows from `end` and columns from `WIDTH` on."""
    columns = start + tl.arange(0, BLOCK)
    inside = (rows < end)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(matrix + rows.to(tl.int64)[:, None] * STRIDE + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _add_product(total, left, right):
    """total + left @ right, in float32."""
    if _INTERPRETED:  # which holds bfloat16 as whole numbers and multiplies those
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def _products(
    left,
    right,
    left_rows,
    right_rows,
    left_end,
    right_end,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """left[left_rows] @ right[right_rows].T, float32 [LEFT, RIGHT]."""
    total = tl.zeros([LEFT, RIGHT], tl.float32)
    for start in range(0, WIDTH, BLOCK):
        a = _rows(left, left_rows, left_end, start, WIDTH, STRIDE, BLOCK)
        b = _rows(right, right_rows, right_end, start, WIDTH, STRIDE, BLOCK)
        total = _add_product(total, a, tl.trans(b))
    return total


@triton.jit
def _along(values, FIRST: tl.constexpr):
    """Spread a vector over a tile of which it is the first axis, or the second."""
    return values[:, None] if FIRST else values[None, :]


@triton.jit
def _log_mass_kernel(
    hidden,
    weight,
    bias,
    targets,
    best_out,
    target_out,
    plain_out,
    scaled_out,
    positions,
    items,
    share,
    scale,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    TEMPERED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    rows_T = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    first = tl.program_id(1) * share
    best_T = tl.full([BLOCK_T], -float("inf"), tl.float32)
    target_T = best_T
    plain_T = tl.zeros([BLOCK_T], tl.float32)
    scaled_T = tl.zeros([BLOCK_T], tl.float32)
    if targets is not None:
        wanted_T = tl.load(targets + rows_T, mask=rows_T < positions, other=-1)
    for start in range(first, tl.minimum(first + share, items), BLOCK_V):
        columns_V = start + tl.arange(0, BLOCK_V)
        z_TV = _products(hidden, weight, rows_T, columns_V, positions, items, WIDTH, STRIDE, BLOCK_T, BLOCK_V, BLOCK_W)
        if bias is not None:
            z_TV += tl.load(bias + columns_V, mask=columns_V < items, other=0.0).to(tl.float32)[None, :]
        z_TV = tl.where((columns_V < items)[None, :], z_TV, -float("inf"))
        new_T = tl.maximum(best_T, tl.max(z_TV, 1))
        if targets is not None:
            hit_TV = columns_V[None, :] == wanted_T[:, None]
            target_T = tl.maximum(target_T, tl.max(tl.where(hit_TV, z_TV, -float("inf")), 1))
            plain_T = plain_T * tl.exp(best_T - new_T) + tl.sum(tl.exp(z_TV - new_T[:, None]), 1)
        if TEMPERED:
            scaled_T = scaled_T * tl.exp((best_T - new_T) * scale)
            scaled_T += tl.sum(tl.exp((z_TV - new_T[:, None]) * scale), 1)
        best_T = new_T
    place_T = tl.program_id(1).to(tl.int64) * positions + rows_T
    inside_T = rows_T < positions
    tl.store(best_out + place_T, best_T, mask=inside_T)
    if targets is not None:
        tl.store(target_out + place_T, target_T, mask=inside_T)
        tl.store(plain_out + place_T, best_T + tl.log(plain_T), mask=inside_T)
    if TEMPERED:
        tl.store(scaled_out + place_T, best_T * scale + tl.log(scaled_T), mask=inside_T)


@triton.jit
def _slopes(
    z,
    rows_T,
    rows_V,
    bias,
    targets,
    mass,
    tempered,
    teacher_hidden,
    teacher_weight,
    teacher_bias,
    teacher_mass,
    positions,
    items,
    scale,
    pull,
    TEACHERS: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
    ITEMS_FIRST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradient with respect to a tile of logits (given without bias) and the terms of its KL: [positions, items], or
    [items, positions] if ITEMS_FIRST."""
    inside_T = rows_T < positions
    inside_V = rows_V < items
    inside = _along(inside_T, not ITEMS_FIRST) & _along(inside_V, ITEMS_FIRST)
    if bias is not None:
        z += _along(tl.load(bias + rows_V, mask=inside_V, other=0.0).to(tl.float32), ITEMS_FIRST)
    wanted_T = tl.load(targets + rows_T, mask=inside_T, other=-1)
    hit = _along(rows_V, ITEMS_FIRST) == _along(wanted_T, not ITEMS_FIRST)
    mass_T = tl.load(mass + rows_T, mask=inside_T, other=0.0)
    slope = tl.exp(z - _along(mass_T, not ITEMS_FIRST)) - tl.where(hit, 1.0, 0.0)
    kl = tl.zeros_like(slope)
    if TEACHERS > 0:
        p = tl.zeros_like(slope)
        log_p = tl.zeros_like(slope)
        stride: tl.constexpr = TEACHERS * TEACHER_WIDTH
        for n in tl.static_range(TEACHERS):
            left = teacher_hidden + n * TEACHER_WIDTH
            right = teacher_weight + n * TEACHER_WIDTH
            if ITEMS_FIRST:
                y = _products(
                    right, left, rows_V, rows_T, items, positions, TEACHER_WIDTH, stride, BLOCK_V, BLOCK_T, BLOCK_K
                )
            else:
                y = _products(
                    left, right, rows_T, rows_V, positions, items, TEACHER_WIDTH, stride, BLOCK_T, BLOCK_V, BLOCK_K
                )
            if teacher_bias is not None:
                y += _along(tl.load(teacher_bias + n * items + rows_V, mask=inside_V, other=0.0), ITEMS_FIRST)
            teacher_mass_T = tl.load(teacher_mass + n * positions + rows_T, mask=inside_T, other=0.0)
            log_p = y * scale - _along(teacher_mass_T, not ITEMS_FIRST)
            p += tl.exp(log_p)
        if TEACHERS > 1:
            log_p = tl.log(p)
        tempered_T = tl.load(tempered + rows_T, mask=inside_T, other=0.0)
        log_q = z * scale - _along(tempered_T, not ITEMS_FIRST)
        kl = tl.where(inside & (p > 0), p * (log_p - log_q), 0.0)  # 0 · log 0 is 0 in the limit
        slope += pull * (tl.exp(log_q) - p)
    return tl.where(inside, slope, 0.0), kl


@triton.jit
def _hidden_kernel(
    hidden,
    weight,
    bias,
    targets,
    mass,
    tempered,
    teacher_hidden,
    teacher_weight,
    teacher_bias,
    teacher_mass,
    gradient_out,
    kl_out,
    positions,
    items,
    share,
    scale,
    pull,
    WIDTH: tl.constexpr,
    TEACHERS: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows_T = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    first = tl.program_id(1) * share
    hidden_TW = _rows(hidden, rows_T, positions, 0, WIDTH, WIDTH, BLOCK_W)
    gradient_TW = tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
    kl_T = tl.zeros([BLOCK_T], tl.float32)
    for start in range(first, tl.minimum(first + share, items), BLOCK_V):
        rows_V = start + tl.arange(0, BLOCK_V)
        weight_VW = _rows(weight, rows_V, items, 0, WIDTH, WIDTH, BLOCK_W)
        z_TV = _add_product(tl.zeros([BLOCK_T, BLOCK_V], tl.float32), hidden_TW, tl.trans(weight_VW))
        slope_TV, kl_TV = _slopes(
            z_TV,
            rows_T,
            rows_V,
            bias,
            targets,
            mass,
            tempered,
            teacher_hidden,
            teacher_weight,
            teacher_bias,
            teacher_mass,
            positions,
            items,
            scale,
            pull,
            TEACHERS,
            TEACHER_WIDTH,
            False,
            BLOCK_T,
            BLOCK_V,
            BLOCK_K,
        )
        kl_T += tl.sum(kl_TV, 1)
        gradient_TW = _add_product(gradient_TW, slope_TV.to(weight_VW.dtype), weight_VW)
    place_T = tl.program_id(1).to(tl.int64) * positions + rows_T
    columns_W = tl.arange(0, BLOCK_W)
    inside_TW = (rows_T < positions)[:, None] & (columns_W < WIDTH)[None, :]
    tl.store(gradient_out + place_T[:, None] * WIDTH + columns_W[None, :], gradient_TW, mask=inside_TW)
    tl.store(kl_out + place_T, kl_T, mask=rows_T < positions)


@triton.jit
def _weight_kernel(
    hidden,
    weight,
    bias,
    targets,
    mass,
    tempered,
    teacher_hidden,
    teacher_weight,
    teacher_bias,
    teacher_mass,
    weight_out,
    bias_out,
    positions,
    items,
    scale,
    pull,
    WIDTH: tl.constexpr,
    TEACHERS: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    rows_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    weight_VW = _rows(weight, rows_V, items, 0, WIDTH, WIDTH, BLOCK_W)
    gradient_VW = tl.zeros([BLOCK_V, BLOCK_W], tl.float32)
    gradient_V = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, positions, BLOCK_T):
        rows_T = start + tl.arange(0, BLOCK_T)
        hidden_TW = _rows(hidden, rows_T, positions, 0, WIDTH, WIDTH, BLOCK_W)
        z_VT = _add_product(tl.zeros([BLOCK_V, BLOCK_T], tl.float32), weight_VW, tl.trans(hidden_TW))
        slope_VT, _ = _slopes(
            z_VT,
            rows_T,
            rows_V,
            bias,
            targets,
            mass,
            tempered,
            teacher_hidden,
            teacher_weight,
            teacher_bias,
            teacher_mass,
            positions,
            items,
            scale,
            pull,
            TEACHERS,
            TEACHER_WIDTH,
            True,
            BLOCK_T,
            BLOCK_V,
            BLOCK_K,
        )
        gradient_V += tl.sum(slope_VT, 1)
        gradient_VW = _add_product(gradient_VW, slope_VT.to(hidden_TW.dtype), hidden_TW)
    inside_V = rows_V < items
    if weight_out is not None:
        columns_W = tl.arange(0, BLOCK_W)
        place_VW = rows_V.to(tl.int64)[:, None] * WIDTH + columns_W[None, :]
        tl.store(weight_out + place_VW, gradient_VW, mask=inside_V[:, None] & (columns_W < WIDTH)[None, :])
    if bias_out is not None:
        tl.store(bias_out + rows_V, gradient_V, mask=inside_V)
