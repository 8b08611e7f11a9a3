"""Vectors for new items, which have no training interactions: the mean over the known items with the nearest titles.

The projected title alone is a vector too. But it is less specific than the vector of a known item, so its scores are hardly
ever high enough for a list. The mean over neighbours consists of vectors that score high enough. It is the k-nearest-neighbour
mapping of Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010.

Shapes: V items, N of them new, K neighbours of each, E width of a title vector, D width of an item vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 20
"""Neighbours of a new item. Chosen on validation items of Amazon Beauty, like `SHARPNESS`."""
SHARPNESS = 10.0
"""The weight of a neighbour is exp(SHARPNESS · cosine)."""
_CELLS = 1 << 24
"""Cosines that are computed at a time: 64 MiB of float32."""


class NearestTitles(NamedTuple):
    """Neighbours of the new items. It leaves out items without a title, and all items if no known item has a title."""

    new_N: Tensor
    """int64 item indices."""
    neighbours_NK: Tensor
    """int64 item indices of known items, nearest first. K is `NEIGHBOURS`, or the number of known items if that is smaller."""
    shares_NK: Tensor
    """float32, weights of the neighbours. Rows sum to 1."""


def nearest_titles(titles_VE: Tensor, known_V: Tensor) -> NearestTitles:
    """Each new item's neighbours by the cosine of title vectors, in an exact search.

    Args:
      titles_VE: float. A row of zeros is an item without a title.
      known_V: bool, the items with training interactions.
    """
    titled_V = (titles_VE != 0).any(1)
    known_K, new_N = ((titled_V & which_V).nonzero()[:, 0] for which_V in (known_V, ~known_V))
    if not len(known_K):
        new_N = new_N[:0]
    count = min(NEIGHBOURS, len(known_K))
    unit_KE = F.normalize(titles_VE[known_K].float(), dim=1)
    found = [
        (F.normalize(titles_VE[part].float(), dim=1) @ unit_KE.T).topk(count, dim=1)
        for part in new_N.split(max(1, _CELLS // max(len(known_K), 1)))
    ]
    cosines_NK, places_NK = (torch.cat([one[part] for one in found]) for part in range(2))
    return NearestTitles(new_N, known_K[places_NK], torch.softmax(SHARPNESS * cosines_NK, 1))


def with_new_items(vectors_VD: Tensor, nearest: NearestTitles) -> Tensor:
    """The item vectors, where each new item has the weighted mean of its neighbours' vectors."""
    if not len(nearest.new_N):
        return vectors_VD
    shares_NK = nearest.shares_NK.to(vectors_VD.dtype)
    made_ND = F.embedding_bag(nearest.neighbours_NK, vectors_VD, per_sample_weights=shares_NK, mode="sum")
    return vectors_VD.index_copy(0, nearest.new_N, made_ND)
