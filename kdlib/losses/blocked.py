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
    temperature = teachers.temperature if teachers else 1.0
    logsumexp_T, warm_T, best_T, target_T = _logsumexps(student, targets_T, temperature, blocks)
    teacher = teachers.scored if isinstance(teachers, Teachers) else None
    teacher_logsumexp_T = best_T
    if teacher is not None:
        _, teacher_logsumexp_T, _, _ = _logsumexps(teacher, None, temperature, blocks)
    hidden_TW = None if gradients.hidden_TW is None else torch.zeros_like(student.hidden_TW, dtype=torch.float32)
    kl_T = torch.zeros_like(best_T)
    if isinstance(teachers, StudentSide):
        kl_T += warm_T
    for block in blocks:
        z_TI = _logits(student, block)
        log_q_TI = z_TI.mul_(1 / temperature).sub_(warm_T[:, None])
        gradient_TI = log_q_TI.exp()
        if teachers is not None:
            pull = teachers.kl_weight * temperature
            gradient_TI = _with_pull(gradient_TI, log_q_TI, temperature * warm_T - logsumexp_T, temperature, pull)
            if teacher is not None:
                log_p_TI = _logits(teacher, block).mul_(1 / temperature).sub_(teacher_logsumexp_T[:, None])
                p_TI = log_p_TI.exp()
                kl_T += torch.linalg.vecdot(p_TI, log_p_TI.sub_(log_q_TI))
                gradient_TI.sub_(p_TI, alpha=pull)
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
    kl = total_of(kl_T, weights_T) * temperature**2
    return torch.stack([total_of(logsumexp_T - target_T, weights_T), kl, (target_T >= best_T).sum().float()])


def _with_pull(q_TI: Tensor, log_q_TI: Tensor, shift_T: Tensor, temperature: float, pull: float) -> Tensor:
    """`p + pull · q`, where p is the softmax at temperature 1 and q that at `temperature`. It may overwrite q.

    The exponential of a block is the slowest operation here. As p is `q^temperature · exp(shift)`, the usual temperatures 1
    and 2 need no second one.

    Args:
      q_TI: a block of q.
      log_q_TI: its logarithm.
      shift_T: `temperature · logsumexp(z / temperature) − logsumexp(z)` of the position's logits z.
      temperature: of q.
      pull: factor on q.
    """
    if temperature == 1.0:
        return q_TI.mul_(1.0 + pull)
    if temperature == 2.0:
        return torch.mul(q_TI, shift_T.exp()[:, None]).add_(pull).mul_(q_TI)
    return (log_q_TI * temperature).add_(shift_T[:, None]).exp_().add_(q_TI, alpha=pull)


def _logsumexps(
    scored: Scored, targets_T: Tensor | None, temperature: float, blocks: list[slice]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logsumexp of the logits, of the logits / temperature, the best logit, the target's logit: float32 [t] each.

    Without targets, the first and the last mean nothing.
    """
    best_T = scored.hidden_TW.new_full((len(scored.hidden_TW),), -torch.inf, dtype=torch.float32)
    target_T = best_T
    plain: list[Tensor] = []
    warm: list[Tensor] = []
    for block in blocks:
        z_TI = _logits(scored, block)
        top_T = z_TI.amax(1)
        best_T = best_T.maximum(top_T)
        if targets_T is not None:
            inside_T, column_T = _column(targets_T, block)
            target_T = torch.where(inside_T, z_TI.gather(1, column_T[:, None])[:, 0], target_T)
        z_TI.sub_(top_T[:, None])
        if targets_T is not None and temperature not in (1.0, 2.0):
            plain.append(top_T + z_TI.exp().sum(1).log())
        warm_TI = z_TI.mul_(1 / temperature).exp_()
        warm.append(top_T / temperature + warm_TI.sum(1).log())
        if temperature == 2.0:  # the square of exp(z / 2) is exp(z)
            plain.append(top_T + torch.linalg.vecdot(warm_TI, warm_TI).log())
    warm_T = torch.stack(warm).logsumexp(0)
    return torch.stack(plain).logsumexp(0) if plain else warm_T, warm_T, best_T, target_T


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
