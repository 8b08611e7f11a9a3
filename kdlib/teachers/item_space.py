"""Join all teachers' item vectors in one vector space.

Shapes: V items, K known items (with training interactions), W scoring width of a teacher, D width of the space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdlib.errors import ModelError
from kdlib.models.sequence import SequenceModel

Heads = Sequence[tuple[Tensor, Tensor | None]]
"""One (matrix float [V, W], bias float [V] or None) per teacher."""


@torch.no_grad()
def start_item_table(
    model: SequenceModel, heads: Heads, weights: Sequence[float], known_V: Tensor, *, seed: int
) -> None:
    """Fill a student's item table with the vectors of `item_space`, in place.

    The student starts with the teachers' knowledge of the items, titles included. It only has to learn the sequences.

    Args:
      model: an untrained student with its own item table.
      heads: of the teachers.
      weights: one per teacher.
      known_V: bool, true for items with training interactions.
      seed: of the rotation.
    """
    model.item_embedding.copy_(item_space(heads, weights, known_V, width=model.dim, seed=seed))


def item_space(heads: Heads, weights: Sequence[float], known_V: Tensor, *, width: int, seed: int) -> Tensor:
    """One vector per item from all teachers' scoring matrices: float32 [V, D], with mean zero over the known items.

    1. Append each teacher's bias as one more entry. Centre the vectors: this changes no ranking. Scale them to equal
       size, then by the square root of the teacher's weight.
    2. Put the teachers' vectors side by side, and keep the `width` directions with the most variance (PCA).
    3. Rotate by a random matrix. This spreads the variance evenly over the entries, which product codes need.
    4. Scale back to the mean size of the teachers' own vectors.

    For a single teacher with the same width, the result is the teacher's centred vectors, rotated.

    Args:
      heads: of the teachers.
      weights: one per teacher, above 0.
      known_V: bool, true for items with training interactions. Only these items count for mean, size and directions,
        because the other items were never trained.
      width: D. If the teachers have fewer directions, zeros are appended before the rotation.
      seed: of the rotation.

    Raises:
      ModelError: a vector is not finite.
      ValueError: no item is known.
    """
    if not known_V.any():
        raise ValueError(
            "no item has a training interaction, so the teachers know no item. Expected at least one known item"
        )
    sizes, parts = [], []
    for (matrix_VW, bias_V), weight in zip(heads, weights, strict=True):
        wide_VW = matrix_VW.float() if bias_V is None else torch.cat([matrix_VW.float(), bias_V.float()[:, None]], 1)
        centred_VW = wide_VW - wide_VW[known_V].mean(0)
        size = centred_VW[known_V].square().sum(1).mean().sqrt()
        if not torch.isfinite(size):
            raise ModelError(
                "a teacher's item vectors are not all finite, so the teacher is broken. Train the teacher again"
            )
        sizes.append(size)
        parts.append(centred_VW * (weight / sum(weights)) ** 0.5 / size.clamp_min(1e-12))
    all_VW = torch.cat(parts, 1)
    known_KW = all_VW[known_V].double()
    directions_WW = torch.linalg.eigh(known_KW.T @ known_KW).eigenvectors.flip(1)
    reduced_VD = all_VW @ directions_WW[:, :width].float()
    reduced_VD = torch.nn.functional.pad(reduced_VD, (0, width - reduced_VD.shape[1]))
    rotation_DD = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed))).Q
    mean_size = sum(w * size for w, size in zip(weights, sizes, strict=True)) / sum(weights)
    return mean_size * reduced_VD @ rotation_DD
