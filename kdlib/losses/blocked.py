"""Cross-entropy and distillation over a very large catalogue: tiles of positions × items instead of whole rows of logits.

`next_item.in_chunks` holds whole rows, so at 10⁶ items a chunk is a handful of positions, and each chunk reads the
scoring matrices and rewrites the matrix's gradient from end to end: memory traffic, not arithmetic, sets the pace. Here
a tile of many positions goes over the items block by block, twice: once for the log of each softmax's denominator,
once, with the logits computed anew, for the divergence and the gradients. That costs the logits' products a second
time and saves the traffic. On one CPU thread (AVX-512, AMX), student and teacher 64 and 128 wide, CPU time of chunks
over that of tiles: 1.3 at 10⁴ and at 10⁵ items (512 positions); at 3·10⁵ (256 positions) 1.8 in float32 and 2.5 in
bfloat16; at 10⁶ (128 positions) 3.3 and more than 5.

On a CUDA device the same passes run as Triton kernels (`kdlib.losses.triton_kernels`) where `_kernels_suit`, and in
PyTorch elsewhere; how fast either is on a GPU has not been measured.

Shapes: t positions of a tile, T all of them, W scoring width, V items, I items of a block.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from kdlib.losses.next_item import Gradients, LossSums, Scored, Teachers, add_product, with_gradient

TILE_POSITIONS = {"cpu": 1024, "cuda": 8192}
BLOCK_ITEMS = {"cpu": 1024, "cuda": 16384}
"""A block of logits: 4 MiB of float32 on a CPU, in its caches; 512 MiB on a GPU."""
KERNEL_WIDTH = 256
"""The widest student of the Triton kernels, whose gradient they keep in registers."""
KERNEL_SHARED_BYTES = 144 << 10
"""Shared memory that the kernels need for a student so wide: what data-centre GPUs have since the A100."""


def cross_entropy_and_kl(
    student: Scored, targets_T: Tensor, teachers: Teachers | None = None, *, dtype: torch.dtype = torch.float32
) -> LossSums:
    """As `next_item.cross_entropy_and_kl`, tile by tile.

    Args:
      student, targets_T, teachers: as there.
      dtype: of the factors of every matrix product; probabilities and losses are float32 whatever it is.
    """
    if _kernels_suit(student, dtype):
        from kdlib.losses import triton_kernels  # Triton is not everywhere

        return triton_kernels.cross_entropy_and_kl(student, targets_T, teachers, dtype=dtype)
    return with_gradient(student, targets_T, teachers, _sum_tiles, dtype=dtype)


def _kernels_suit(student: Scored, dtype: torch.dtype) -> bool:
    """On CUDA with Triton, in bfloat16 (exact float32 products are faster in PyTorch), where student and tiles fit."""
    device = student.weight_VW.device
    return (
        device.type == "cuda"
        and dtype == torch.bfloat16
        and student.weight_VW.shape[1] <= KERNEL_WIDTH
        and find_spec("triton") is not None
        and torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= KERNEL_SHARED_BYTES
    )


def _sum_tiles(student: Scored, targets_T: Tensor, teachers: Teachers | None, gradients: Gradients) -> Tensor:
    sums = torch.zeros(3, device=targets_T.device)
    size = TILE_POSITIONS.get(targets_T.device.type, 8192)
    for start in range(0, len(targets_T), size):
        tile = slice(start, start + size)
        part = gradients._replace(hidden_TW=None if gradients.hidden_TW is None else gradients.hidden_TW[tile])
        own = None if teachers is None else teachers._replace(scored=[_at(s, tile) for s in teachers.scored])
        sums += _tile(_at(student, tile), targets_T[tile], own, part)
    return sums


def _tile(student: Scored, targets_T: Tensor, teachers: Teachers | None, gradients: Gradients) -> Tensor:
    """Sums (ce, kl, correct) of a tile; its gradients are written (hidden states) and added (matrix, bias)."""
    blocks = _blocks(student)
    scales = [1.0] if teachers is None else [1.0, 1 / teachers.temperature]
    masses, best_T, target_T = _log_masses(student, targets_T, scales, blocks)
    teacher_masses = []
    if teachers is not None:
        teacher_masses = [_log_masses(t, None, scales[1:], blocks)[0][0] for t in teachers.scored]
    hidden_TW = None if gradients.hidden_TW is None else torch.zeros_like(student.hidden_TW, dtype=torch.float32)
    kl_T = torch.zeros_like(best_T)
    for block in blocks:
        z_TI = _logits(student, block)
        slope_TI = (z_TI - masses[0][:, None]).exp_()
        if teachers is not None:
            p_TI, log_p_TI = _mixture(teachers, teacher_masses, block)
            log_q_TI = z_TI.mul_(scales[1]).sub_(masses[1][:, None])
            kl_T += torch.linalg.vecdot(p_TI, log_p_TI.sub_(log_q_TI))
            slope_TI.add_(log_q_TI.exp_().sub_(p_TI), alpha=teachers.kl_weight * teachers.temperature)
        inside_T, column_T = _column(targets_T, block)
        slope_TI[torch.arange(len(targets_T), device=targets_T.device), column_T] -= inside_T.float()
        if gradients.bias_V is not None:
            gradients.bias_V[block] += slope_TI.sum(0)
        slope_TI = slope_TI.to(student.weight_VW.dtype)
        if hidden_TW is not None:
            add_product(hidden_TW, slope_TI, student.weight_VW[block])
        if gradients.weight_VW is not None:
            add_product(gradients.weight_VW[block], slope_TI.T, student.hidden_TW)
    if gradients.hidden_TW is not None and hidden_TW is not None:
        gradients.hidden_TW.copy_(hidden_TW)
    kl = kl_T.sum() * (teachers.temperature**2 if teachers else 0.0)
    return torch.stack([(masses[0] - target_T).sum(), kl, (target_T >= best_T).sum().float()])


def _log_masses(
    scored: Scored, targets_T: Tensor | None, scales: list[float], blocks: list[slice]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """log Σ exp(scale · logits) for each scale, the best logit and the target's, float32 [t] each."""
    best_T = scored.hidden_TW.new_full((len(scored.hidden_TW),), -torch.inf, dtype=torch.float32)
    target_T = best_T
    masses: list[list[Tensor]] = [[] for _ in scales]
    for block in blocks:
        z_TI = _logits(scored, block)
        top_T = z_TI.amax(1)
        best_T = best_T.maximum(top_T)
        if targets_T is not None:
            inside_T, column_T = _column(targets_T, block)
            target_T = torch.where(inside_T, z_TI.gather(1, column_T[:, None])[:, 0], target_T)
        z_TI.sub_(top_T[:, None])
        for mass, scale in zip(masses, scales, strict=True):
            mass.append(top_T * scale + (z_TI * scale).exp_().sum(1).log())
    return [torch.stack(mass).logsumexp(0) for mass in masses], best_T, target_T


def _mixture(teachers: Teachers, masses: list[Tensor], block: slice) -> tuple[Tensor, Tensor]:
    """The teachers' mean probabilities of a block's items at the temperature and their logarithms, float32 [t, I]."""
    total = sum(teachers.weights)
    mixed_TI: Tensor | None = None
    for scored, weight, mass_T in zip(teachers.scored, teachers.weights, masses, strict=True):
        log_p_TI = _logits(scored, block).mul_(1 / teachers.temperature).sub_(mass_T[:, None])
        if len(teachers.scored) == 1:
            return log_p_TI.exp(), log_p_TI
        p_TI = log_p_TI.exp_().mul_(weight / total)
        mixed_TI = p_TI if mixed_TI is None else mixed_TI.add_(p_TI)
    assert mixed_TI is not None, "at least one teacher"
    return mixed_TI, mixed_TI.clamp_min(torch.finfo(mixed_TI.dtype).tiny).log_()  # 0 · log 0 is 0 in the limit


def _blocks(scored: Scored) -> list[slice]:
    size, items = BLOCK_ITEMS.get(scored.weight_VW.device.type, 16384), scored.weight_VW.shape[0]
    return [slice(first, min(first + size, items)) for first in range(0, items, size)]


def _at(scored: Scored, tile: slice) -> Scored:
    return scored._replace(hidden_TW=scored.hidden_TW[tile])


def _logits(scored: Scored, block: slice) -> Tensor:
    """float32 [t, I] of a block of items, from a product in the type of the matrix."""
    bias_I = None if scored.bias_V is None else scored.bias_V[block]
    return Scored(scored.hidden_TW, scored.weight_VW[block], bias_I).logits().float()


def _column(targets_T: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Whether a position's target is in the block, and its column there (any column where it is not)."""
    inside_T = (targets_T >= block.start) & (targets_T < block.stop)
    return inside_T, torch.where(inside_T, targets_T - block.start, 0)
