"""Cross-entropy and KL over a whole catalogue, in the form that suits the catalogue and the device. The KL is to the teachers'
predictions or to targets that were sampled from them.

- Below `LARGE_CATALOGUE`: chunks of positions, `kdlib.losses.next_item`.
- From there on, on a GPU in bfloat16 where the kernels fit: tiles as Triton kernels, `kdlib.losses.triton_passes`.
- Otherwise: tiles of positions × items in PyTorch, `kdlib.losses.blocked`.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from kdlib.losses import blocked, next_item, sparse
from kdlib.losses.scored import KERNEL_WIDTH, LossSums, Scored, Teachers, with_gradient

LARGE_CATALOGUE = 100_000
"""Number of items from which tiles are used instead of chunks."""
KERNEL_SHARED_BYTES = 144 << 10
"""Shared memory that the kernels need for a student of `KERNEL_WIDTH`. Data-centre GPUs have it since the A100."""


def cross_entropy_and_kl(
    student: Scored,
    targets_T: Tensor,
    teachers: Teachers | None = None,
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """`CE(student, target) + λ·T²·KL(teachers_T ‖ student_T)`, in nats, over all items.

    Args:
      student: what predicts. Gradients reach its hidden states, matrix and bias.
      targets_T: int64 item indices.
      teachers: whom to learn from besides the data.
      weights_T: float32, the weight of each position in both terms. None: all are 1.
      dtype: of the factors of every matrix product; below `LARGE_CATALOGUE` also of logits, probabilities and their
        gradients. Sums over positions are always float32. bfloat16 halves the time on hardware that multiplies it
        (AVX-512 BF16, AMX, GPUs), and rounds each logit by 2⁻⁹ of its size.
    """
    if student.weight_VW.shape[0] < LARGE_CATALOGUE:
        return next_item.cross_entropy_and_kl(student, targets_T, teachers, weights_T=weights_T, dtype=dtype)
    compute = partial(_tiles(student, dtype), weights_T=weights_T)
    return with_gradient(student, targets_T, teachers, compute, dtype=dtype)


def cross_entropy_and_sampled_kl(
    student: Scored,
    targets_T: Tensor,
    draws: sparse.Draws,
    *,
    weights_T: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> LossSums:
    """The same with sampled targets, see `kdlib.losses.sparse.cross_entropy_and_sampled_kl`."""
    if student.weight_VW.shape[0] < LARGE_CATALOGUE:
        return sparse.cross_entropy_and_sampled_kl(student, targets_T, draws, weights_T=weights_T, dtype=dtype)
    tiles = _tiles(student, dtype)
    return sparse.by_tiles(student, targets_T, draws, tiles, weights_T=weights_T, dtype=dtype)


def _tiles(student: Scored, dtype: torch.dtype) -> Callable[..., Tensor]:
    """The `Compute` function by tiles, with the argument `weights_T`: as Triton kernels or in PyTorch."""
    if _kernels_suit(student, dtype):
        from kdlib.losses import triton_passes  # Triton is not installed everywhere

        return triton_passes.compute
    return blocked.compute


def _kernels_suit(student: Scored, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels can run, and are faster than PyTorch. In float32 PyTorch is faster."""
    device = student.weight_VW.device
    return (
        device.type == "cuda"
        and dtype == torch.bfloat16
        and student.weight_VW.shape[1] <= KERNEL_WIDTH
        and find_spec("triton") is not None
        and torch.cuda.get_device_properties(device).shared_memory_per_block_optin >= KERNEL_SHARED_BYTES
    )
