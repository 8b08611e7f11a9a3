"""The Triton kernels of `kdlib.losses.triton_passes`, which says what they compute and launches them.

Lower-case arguments are pointers and numbers, upper-case ones are constants at compile time. A pointer of None is left out.

Shapes: T positions of a block, V items of a block, W columns of the hidden states. A tile is [T, V] or [V, T].
"""

# Triton's language looks like Python but is not, and Triton is not installed everywhere
# pyright: reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import os

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _rows(matrix, rows, end, start, WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """matrix[rows, start : start + BLOCK]. Rows from `end` on and columns from `WIDTH` on are zeros."""
    columns = start + tl.arange(0, BLOCK)
    inside = (rows < end)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(matrix + rows.to(tl.int64)[:, None] * STRIDE + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _add_product(total, left, right):
    """total + left @ right, in float32."""
    if _INTERPRETED:  # the interpreter holds bfloat16 as integers and would multiply those
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
    """Broadcast a vector over a tile, along whose first or second axis it lies."""
    return values[:, None] if FIRST else values[None, :]


@triton.jit
def logsumexp_kernel(
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
    """Best logit, target's logit and logsumexps of a block of positions, over a share of the items."""
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
def _logit_gradients(
    z,
    rows_T,
    rows_V,
    bias,
    targets,
    logsumexp,
    tempered,
    position_weights,
    teacher_hidden,
    teacher_weight,
    teacher_bias,
    teacher_logsumexp,
    positions,
    items,
    scale,
    pull,
    TEACHER_WIDTH: tl.constexpr,
    ITEMS_FIRST: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradient with respect to a tile of logits, times the weights, and the terms of its KL: [positions, items].

    The logits z are given without bias. With ITEMS_FIRST all tiles are [items, positions].
    """
    inside_T = rows_T < positions
    inside_V = rows_V < items
    inside = _along(inside_T, not ITEMS_FIRST) & _along(inside_V, ITEMS_FIRST)
    if bias is not None:
        z += _along(tl.load(bias + rows_V, mask=inside_V, other=0.0).to(tl.float32), ITEMS_FIRST)
    wanted_T = tl.load(targets + rows_T, mask=inside_T, other=-1)
    hit = _along(rows_V, ITEMS_FIRST) == _along(wanted_T, not ITEMS_FIRST)
    logsumexp_T = tl.load(logsumexp + rows_T, mask=inside_T, other=0.0)
    gradient = tl.exp(z - _along(logsumexp_T, not ITEMS_FIRST)) - tl.where(hit, 1.0, 0.0)
    kl = tl.zeros_like(gradient)
    if tempered is not None:
        tempered_T = tl.load(tempered + rows_T, mask=inside_T, other=0.0)
        log_q = z * scale - _along(tempered_T, not ITEMS_FIRST)
        gradient += pull * tl.exp(log_q)
    if TEACHER_WIDTH > 0:
        W: tl.constexpr = TEACHER_WIDTH
        if ITEMS_FIRST:
            y = _products(
                teacher_weight, teacher_hidden, rows_V, rows_T, items, positions, W, W, BLOCK_V, BLOCK_T, BLOCK_K
            )
        else:
            y = _products(
                teacher_hidden, teacher_weight, rows_T, rows_V, positions, items, W, W, BLOCK_T, BLOCK_V, BLOCK_K
            )
        if teacher_bias is not None:
            y += _along(tl.load(teacher_bias + rows_V, mask=inside_V, other=0.0).to(tl.float32), ITEMS_FIRST)
        teacher_logsumexp_T = tl.load(teacher_logsumexp + rows_T, mask=inside_T, other=0.0)
        log_p = y * scale - _along(teacher_logsumexp_T, not ITEMS_FIRST)
        p = tl.exp(log_p)
        kl = tl.where(inside & (p > 0), p * (log_p - log_q), 0.0)  # 0 · log 0 is 0 in the limit
        gradient -= pull * p
    if position_weights is not None:
        gradient *= _along(tl.load(position_weights + rows_T, mask=inside_T, other=0.0), not ITEMS_FIRST)
    return tl.where(inside, gradient, 0.0), kl


@triton.jit
def hidden_kernel(
    hidden,
    weight,
    bias,
    targets,
    logsumexp,
    tempered,
    position_weights,
    teacher_hidden,
    teacher_weight,
    teacher_bias,
    teacher_logsumexp,
    gradient_out,
    kl_out,
    positions,
    items,
    share,
    scale,
    pull,
    WIDTH: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradient of the hidden states and KL of a block of positions, over a share of the items."""
    rows_T = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    first = tl.program_id(1) * share
    hidden_TW = _rows(hidden, rows_T, positions, 0, WIDTH, WIDTH, BLOCK_W)
    gradient_TW = tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
    kl_T = tl.zeros([BLOCK_T], tl.float32)
    for start in range(first, tl.minimum(first + share, items), BLOCK_V):
        rows_V = start + tl.arange(0, BLOCK_V)
        weight_VW = _rows(weight, rows_V, items, 0, WIDTH, WIDTH, BLOCK_W)
        z_TV = _add_product(tl.zeros([BLOCK_T, BLOCK_V], tl.float32), hidden_TW, tl.trans(weight_VW))
        gradient_TV, kl_TV = _logit_gradients(
            z_TV,
            rows_T,
            rows_V,
            bias,
            targets,
            logsumexp,
            tempered,
            position_weights,
            teacher_hidden,
            teacher_weight,
            teacher_bias,
            teacher_logsumexp,
            positions,
            items,
            scale,
            pull,
            TEACHER_WIDTH,
            False,
            BLOCK_T,
            BLOCK_V,
            BLOCK_K,
        )
        kl_T += tl.sum(kl_TV, 1)
        gradient_TW = _add_product(gradient_TW, gradient_TV.to(weight_VW.dtype), weight_VW)
    place_T = tl.program_id(1).to(tl.int64) * positions + rows_T
    columns_W = tl.arange(0, BLOCK_W)
    inside_TW = (rows_T < positions)[:, None] & (columns_W < WIDTH)[None, :]
    tl.store(gradient_out + place_T[:, None] * WIDTH + columns_W[None, :], gradient_TW, mask=inside_TW)
    tl.store(kl_out + place_T, kl_T, mask=rows_T < positions)


@triton.jit
def weight_kernel(
    hidden,
    weight,
    bias,
    targets,
    logsumexp,
    tempered,
    position_weights,
    teacher_hidden,
    teacher_weight,
    teacher_bias,
    teacher_logsumexp,
    weight_out,
    bias_out,
    positions,
    items,
    scale,
    pull,
    WIDTH: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradients of matrix and bias of a block of items, over all positions."""
    rows_V = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    weight_VW = _rows(weight, rows_V, items, 0, WIDTH, WIDTH, BLOCK_W)
    gradient_VW = tl.zeros([BLOCK_V, BLOCK_W], tl.float32)
    gradient_V = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, positions, BLOCK_T):
        rows_T = start + tl.arange(0, BLOCK_T)
        hidden_TW = _rows(hidden, rows_T, positions, 0, WIDTH, WIDTH, BLOCK_W)
        z_VT = _add_product(tl.zeros([BLOCK_V, BLOCK_T], tl.float32), weight_VW, tl.trans(hidden_TW))
        gradient_VT, _ = _logit_gradients(
            z_VT,
            rows_T,
            rows_V,
            bias,
            targets,
            logsumexp,
            tempered,
            position_weights,
            teacher_hidden,
            teacher_weight,
            teacher_bias,
            teacher_logsumexp,
            positions,
            items,
            scale,
            pull,
            TEACHER_WIDTH,
            True,
            BLOCK_T,
            BLOCK_V,
            BLOCK_K,
        )
        gradient_V += tl.sum(gradient_VT, 1)
        gradient_VW = _add_product(gradient_VW, gradient_VT.to(hidden_TW.dtype), hidden_TW)
    inside_V = rows_V < items
    if weight_out is not None:
        columns_W = tl.arange(0, BLOCK_W)
        place_VW = rows_V.to(tl.int64)[:, None] * WIDTH + columns_W[None, :]
        tl.store(weight_out + place_VW, gradient_VW, mask=inside_V[:, None] & (columns_W < WIDTH)[None, :])
    if bias_out is not None:
        tl.store(bias_out + rows_V, gradient_V, mask=inside_V)
