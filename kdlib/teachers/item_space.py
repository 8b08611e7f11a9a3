"""One space for all teachers' item vectors.

Shapes: V items, K of them known (with training interactions), W scoring width of a teacher, D width of the space.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdlib.errors import ModelError
from kdlib.models.sequence import SequenceModel

Heads = Sequence[tuple[Tensor, Tensor | None]]
"""One (matrix float [V, W], bias float [V] or None) a teacher."""


@torch.no_grad()
def start_item_table(
    model: SequenceModel, heads: Heads, weights: Sequence[float], known_V: Tensor, *, seed: int
) -> None:
    """Start a student's item table from its teachers': the principal components of `item_space`.

    The student begins with what the teachers know of the items, titles included, and learns the sequences alone.

    Args:
      model: an untrained student with an item table of its own.
      heads: of the teachers.
      weights: one a teacher.
      known_V: bool; the items that occur in training.
      seed: of the rotation.
    """
    model.item_embedding.copy_(item_space(heads, weights, known_V, width=model.dim, seed=seed))


def item_space(heads: Heads, weights: Sequence[float], known_V: Tensor, *, width: int, seed: int) -> Tensor:
    """The teachers' scoring matrices as one item vector each: float32 [V, D], zero-mean over the known items.

    Each teacher's vectors (its bias as one more entry) are centred, which changes no ranking, brought to equal size and
    to the square root of its weight, and put side by side; of that the `width` directions with the most variance are
    kept (PCA). A random rotation spreads the variance evenly over the entries, as product codes need it, and the size
    becomes that of the teachers' own vectors again. So the vectors of a single teacher of that width only turn.

    Args:
      heads: of the teachers.
      weights: one a teacher, above 0.
      known_V: bool; the items whose vectors count in mean, size and directions: the others were never trained.
      width: D; entries are zero before the rotation where the teachers have fewer.
      seed: of the rotation.

    Raises:
      ModelError: a vector is not finite.
      ValueError: no item is known.
    """
    if not known_V.any():
        raise ValueError("no item has a training interaction: there is nothing that the teachers know")
    sizes, parts = [], []
    for (matrix_VW, bias_V), weight in zip(heads, weights, strict=True):
        wide_VW = matrix_VW.float() if bias_V is None else torch.cat([matrix_VW.float(), bias_V.float()[:, None]], 1)
        centred_VW = wide_VW - wide_VW[known_V].mean(0)
        size = centred_VW[known_V].square().sum(1).mean().sqrt()
        if not torch.isfinite(size):
            raise ModelError("a teacher's item vectors are not all finite: the teacher is broken, train it again")
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
