"""Cross-entropy and distillation over a very large catalogue: tiles of positions × items instead of whole rows of logits.

`kdlib.losses.next_item` holds whole rows. At 10⁶ items a chunk is then a few positions, and each chunk reads the scoring
matrices and rewrites the gradient of the matrix. Memory traffic limits the speed there. Here a tile of many positions goes
over the items block by block, twice. The first pass computes the logsumexp of each softmax. The second pass computes the
logits again, with the divergence and the gradients.

The logits are computed twice, and most of the traffic is saved. The CPU time of chunks, divided by that of tiles, on one
thread (AVX-512, AMX) with a student 64 and a teacher 128 wide:

- 10⁴ and 10⁵ items, 512 positions: 1.3.
- 3·10⁵ items, 256 positions: 1.8 in float32, 2.5 in bfloat16.
- 10⁶ items, 128 positions: 3.3 in float32, more than 5 in bfloat16.

The same passes as Triton kernels are in `kdlib.losses.triton_passes`. Neither was timed on a GPU.

Shapes: t positions of a tile, T all of them, W scoring width, V items, I items of a block.
"""

from functools import partial

import torch
from torch import Tensor

from kdlib.losses.scored import Gradients, LossSums, Scored, StudentSide, Teachers, add_product, total_of, with_gradient

TILE_POSITIONS = {"cpu": 1024, "cuda": 8192}
BLOCK_ITEMS = {"cpu": 1024, "cuda": 16384}
"""A block of logits: 4 MiB of float32 on a CPU, which fit its caches; 512 MiB on a GPU."""


def cross_entropy_and_kl(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | None = None,
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`kdlib.losses.dispatch.cross_entropy_and_kl` by tiles of positions and items. See there for the inputs.

    Args:
      dtype: of the factors of every matrix product. Probabilities and losses are always float32.
    """
    return with_gradient(student, targets_T, teachers, partial(compute, weights_T=weights_T), dtype=dtype)


def compute(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    gradients: Gradients,
    *,
    weights_T: Tensor | None,
) -> Tensor:
    """A `Compute` function: the sums over all tiles. It fills the gradients."""
    sums = torch.zeros(3, device=targets_T.device)
    size = TILE_POSITIONS.get(targets_T.device.type, 8192)
    for start in range(0, len(targets_T), size):
        tile = slice(start, start + size)
        part = gradients._replace(hidden_TW=None if gradients.hidden_TW is None else gradients.hidden_TW[tile])
        own = teachers
        if isinstance(teachers, Teachers):
            own = teachers._replace(scored=_at(teachers.scored, tile))
        sums += _tile(_at(student, tile), targets_T[tile], own, part, None if weights_T is None else weights_T[tile])
    return sums


def _tile(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | StudentSide | None,
    gradients: Gradients,
    weights_T: Tensor | None,
) -> Tensor:
    """Sums (ce, kl, correct) of a tile. It writes the gradient of the hidden states and adds those of matrix and bias."""
    blocks = _blocks(student)
    scales = [1.0] if teachers is None else [1.0, 1 / teachers.temperature]
    logsumexps, best_T, target_T = _logsumexps(student, targets_T, scales, blocks)
    teacher = teachers.scored if isinstance(teachers, Teachers) else None
    teacher_logsumexp_T = best_T
    if teacher is not None:
        [teacher_logsumexp_T], _, _ = _logsumexps(teacher, None, scales[1:], blocks)
    hidden_TW = None if gradients.hidden_TW is None else torch.zeros_like(student.hidden_TW, dtype=torch.float32)
    kl_T = torch.zeros_like(best_T)
    if isinstance(teachers, StudentSide):
        kl_T += logsumexps[1]
    for block in blocks:
        z_TI = _logits(student, block)
        gradient_TI = (z_TI - logsumexps[0][:, None]).exp_()
        if teachers is not None:
            pull = teachers.kl_weight * teachers.temperature
            log_q_TI = z_TI.mul_(scales[1]).sub_(logsumexps[1][:, None])
            if teacher is None:
                gradient_TI.add_(log_q_TI.exp_(), alpha=pull)
            else:
                log_p_TI = _logits(teacher, block).mul_(scales[1]).sub_(teacher_logsumexp_T[:, None])
                p_TI = log_p_TI.exp()
                kl_T += torch.linalg.vecdot(p_TI, log_p_TI.sub_(log_q_TI))
                gradient_TI.add_(log_q_TI.exp_().sub_(p_TI), alpha=pull)
        inside_T, column_T = _column(targets_T, block)
        gradient_TI[torch.arange(len(targets_T), device=targets_T.device), column_T] -= inside_T.float()
        if weights_T is not None:
            gradient_TI.mul_(weights_T[:, None])
        if gradients.bias_V is not None:
            gradients.bias_V[block] += gradient_TI.sum(0)
        gradient_TI = gradient_TI.to(student.weight_VW.dtype)
        if hidden_TW is not None:
            add_product(hidden_TW, gradient_TI, student.weight_VW[block])
        if gradients.weight_VW is not None:
            add_product(gradients.weight_VW[block], gradient_TI.T, student.hidden_TW)
    if gradients.hidden_TW is not None and hidden_TW is not None:
        gradients.hidden_TW.copy_(hidden_TW)
    kl = total_of(kl_T, weights_T) * (teachers.temperature**2 if teachers else 0.0)
    return torch.stack([total_of(logsumexps[0] - target_T, weights_T), kl, (target_T >= best_T).sum().float()])


def _logsumexps(
    scored: Scored, targets_T: Tensor | None, scales: list[float], blocks: list[slice]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Logsumexp of `scale · logits` for each scale, the best logit, the target's logit: float32 [t] each."""
    best_T = scored.hidden_TW.new_full((len(scored.hidden_TW),), -torch.inf, dtype=torch.float32)
    target_T = best_T
    parts: list[list[Tensor]] = [[] for _ in scales]
    for block in blocks:
        z_TI = _logits(scored, block)
        top_T = z_TI.amax(1)
        best_T = best_T.maximum(top_T)
        if targets_T is not None:
            inside_T, column_T = _column(targets_T, block)
            target_T = torch.where(inside_T, z_TI.gather(1, column_T[:, None])[:, 0], target_T)
        z_TI.sub_(top_T[:, None])
        for part, scale in zip(parts, scales, strict=True):
            part.append(top_T * scale + (z_TI * scale).exp_().sum(1).log())
    return [torch.stack(part).logsumexp(0) for part in parts], best_T, target_T


def _blocks(scored: Scored) -> list[slice]:
    size, items = BLOCK_ITEMS.get(scored.weight_VW.device.type, 16384), scored.weight_VW.shape[0]
    return [slice(first, min(first + size, items)) for first in range(0, items, size)]


def _at(scored: Scored, tile: slice) -> Scored:
    return scored._replace(hidden_TW=scored.hidden_TW[tile])


def _logits(scored: Scored, block: slice) -> Tensor:
    """Logits of a block of items, float32 [t, I]. The product is in the dtype of the matrix."""
    bias_I = None if scored.bias_V is None else scored.bias_V[block]
    return Scored(scored.hidden_TW, scored.weight_VW[block], bias_I).logits().float()


def _column(targets_T: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Whether each position's target is in the block, and its column there. Elsewhere the column is 0."""
    inside_T = (targets_T >= block.start) & (targets_T < block.stop)
    return inside_T, torch.where(inside_T, targets_T - block.start, 0)
