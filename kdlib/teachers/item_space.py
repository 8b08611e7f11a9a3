"""One space for all teachers' item vectors, and the way into it from an item's title.

Shapes: V items, K of them known (with training interactions), W scoring width of a teacher, D width of the space, E
width of a title vector.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdlib.errors import ModelError

PENALTIES = tuple(10.0**power for power in range(-5, 4))
"""Ridge penalties tried, in units of the mean variance of the title vectors' directions."""
HELD_OUT = 5
"""Every fifth item is held out to choose the penalty."""
FEWEST_TITLES = 20
"""Fewer known items with a title do not make a regression."""


class TitleMap(NamedTuple):
    """A ridge regression from title vectors to item vectors: `vectors = titles @ weight + intercept`."""

    weight_ED: Tensor
    intercept_D: Tensor
    explained_variance: float
    """Of held-out items: 0 says that titles tell nothing, 1 that they tell all."""
    penalty: float
    """The chosen one of `PENALTIES`."""

    def __call__(self, titles_NE: Tensor) -> Tensor:
        """float32 [N, D]."""
        return titles_NE.float() @ self.weight_ED + self.intercept_D


def item_space(
    heads: Sequence[tuple[Tensor, Tensor | None]], weights: Sequence[float], known_V: Tensor, *, width: int, seed: int
) -> Tensor:
    """The teachers' scoring matrices as one item vector each: float32 [V, D], zero-mean over the known items.

    Each teacher's vectors (its bias as one more entry) are centred, which changes no ranking, brought to equal size and
    to the square root of its weight, and put side by side; of that the `width` directions with the most variance are
    kept (PCA). A random rotation spreads the variance evenly over the entries, as product codes need it, and the size
    becomes that of the teachers' own vectors again. So the vectors of a single teacher of that width only turn.

    Args:
      heads: one (matrix float [V, W], bias float [V] or None) a teacher.
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


def fit_title_map(titles_KE: Tensor, vectors_KD: Tensor, *, seed: int) -> TitleMap | None:
    """Learn to predict an item's vector from its title's (ridge regression, Hoerl & Kennard 1970).

    The penalty is the one that predicts held-out items best; the map is then learnt from all of them.

    Args:
      titles_KE: float title vectors of known items that have a title.
      vectors_KD: float item vectors of the same items.
      seed: of the random choice of held-out items.

    Returns:
      None where there are fewer than `FEWEST_TITLES` items.
    """
    if len(titles_KE) < FEWEST_TITLES:
        return None
    order_K = torch.randperm(len(titles_KE), generator=torch.Generator().manual_seed(seed))
    held, kept = order_K[::HELD_OUT], order_K[torch.arange(len(order_K)) % HELD_OUT != 0]
    maps = _ridge(titles_KE[kept], vectors_KD[kept], PENALTIES)
    total = (vectors_KD[held] - vectors_KD[kept].mean(0)).square().sum().clamp_min(1e-30)
    explained = [
        1.0 - float((vectors_KD[held] - titles_KE[held].float() @ weight_ED - intercept_D).square().sum() / total)
        for weight_ED, intercept_D in maps
    ]
    best = max(range(len(PENALTIES)), key=explained.__getitem__)
    return TitleMap(
        *_ridge(titles_KE, vectors_KD, (PENALTIES[best],))[0],
        explained_variance=explained[best],
        penalty=PENALTIES[best],
    )


def _ridge(titles_KE: Tensor, vectors_KD: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weight [E, D] and intercept [D] for each penalty, from one eigendecomposition."""
    titles_mean_E, vectors_mean_D = titles_KE.double().mean(0), vectors_KD.double().mean(0)
    x_KE, y_KD = titles_KE.double() - titles_mean_E, vectors_KD.double() - vectors_mean_D
    values_E, directions_EE = torch.linalg.eigh(x_KE.T @ x_KE)
    target_ED = directions_EE.T @ (x_KE.T @ y_KD)
    unit = values_E.mean().clamp_min(1e-12)
    result = []
    for penalty in penalties:
        weight_ED = directions_EE @ (target_ED / (values_E.clamp_min(0.0) + penalty * unit)[:, None])
        result.append((weight_ED.float(), (vectors_mean_D - titles_mean_E @ weight_ED).float()))
    return result
