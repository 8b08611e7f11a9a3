"""Vectors for new items, which have no training interactions: the mean over the known items with the nearest content.

The content of an item is its title and the values of its features. What a model learns about them is a vector too. But it is
less specific than the vector of a known item, so its scores are hardly ever high enough for a list. The mean over neighbours
consists of vectors that score high enough. It is the k-nearest-neighbour mapping of Gantner et al., "Learning
Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010.

Shapes: V items, N of them new, K neighbours of each, E width of a title vector, F values of features, D width of an item
vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.models.item_values import ItemValues

NEIGHBOURS = 20
"""Neighbours of a new item. Chosen on validation items of Amazon Beauty, like `SHARPNESS`."""
SHARPNESS = 10.0
"""The weight of a neighbour is exp(SHARPNESS · cosine)."""
_CELLS = 1 << 24
"""Cosines that are computed at a time: 64 MiB of float32."""


class NearestItems(NamedTuple):
    """Neighbours of the new items. It leaves out items without content, and all items if no known item has content."""

    new_N: Tensor
    """int64 item indices."""
    neighbours_NK: Tensor
    """int64 item indices of known items, nearest first. K is `NEIGHBOURS`, or the number of known items if that is smaller."""
    shares_NK: Tensor
    """float32, weights of the neighbours. Rows sum to 1."""


def nearest_items(known_V: Tensor, titles_VE: Tensor | None, values: ItemValues | None = None) -> NearestItems:
    """Each new item's neighbours by the cosine of their content, in an exact search.

    The cosine is that of the title vector, scaled to length 1, beside the features' values, scaled to length 1. Rare values
    count more than frequent ones.

    Args:
      known_V: bool, the items with training interactions.
      titles_VE: float. A row of zeros is an item without a title.
      values: of the items' features.
    """
    unit_VE = None if titles_VE is None else F.normalize(titles_VE.float(), dim=1)
    unit_VF = None if values is None else values.rare_count_more()
    parts_V = torch.zeros(len(known_V), device=known_V.device)
    if unit_VE is not None:
        parts_V += (unit_VE != 0).any(1)
    if unit_VF is not None:
        parts_V += torch.zeros_like(parts_V).index_fill_(0, unit_VF.indices()[0], 1.0)
    known_K, new_N = (((parts_V > 0) & which_V).nonzero()[:, 0] for which_V in (known_V, ~known_V))
    if not len(known_K):
        new_N = new_N[:0]
    known_KE, known_KF = (None if unit is None else unit.index_select(0, known_K) for unit in (unit_VE, unit_VF))
    found = []
    for part_N in new_N.split(max(1, _CELLS // len(known_V))):
        products_NK = torch.zeros(len(part_N), len(known_K), device=known_K.device)
        if unit_VE is not None and known_KE is not None:
            products_NK += unit_VE[part_N] @ known_KE.T
        if unit_VF is not None and known_KF is not None:
            products_NK += torch.sparse.mm(known_KF, unit_VF.index_select(0, part_N).to_dense().T).T
        cosines_NK = products_NK / (parts_V[part_N, None] * parts_V[known_K]).sqrt()
        found.append(cosines_NK.topk(min(NEIGHBOURS, len(known_K)), dim=1))
    cosines_NK, places_NK = (torch.cat([one[part] for one in found]) for part in range(2))
    return NearestItems(new_N, known_K[places_NK], torch.softmax(SHARPNESS * cosines_NK, 1))


def with_new_items(vectors_VD: Tensor, nearest: NearestItems) -> Tensor:
    """The item vectors, where each new item has the weighted mean of its neighbours' vectors."""
    if not len(nearest.new_N):
        return vectors_VD
    shares_NK = nearest.shares_NK.to(vectors_VD.dtype)
    made_ND = F.embedding_bag(nearest.neighbours_NK, vectors_VD, per_sample_weights=shares_NK, mode="sum")
    return vectors_VD.index_copy(0, nearest.new_N, made_ND)
