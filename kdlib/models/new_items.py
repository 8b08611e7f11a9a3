"""Vectors for items without training interactions: the mean of those of the known items whose titles are nearest.

A projection of the title alone says what kind of item it is, but lies nearer to nothing in particular than any known item's
own vector, so its scores hardly ever reach a list. The mean over neighbours (the k-nearest-neighbour mapping of Gantner et
al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations", ICDM 2010) is made of vectors that do.

Shapes: V items, N of them new, K neighbours of each, E width of a title vector, D width of an item vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 20
SHARPNESS = 10.0
"""A neighbour counts by exp(SHARPNESS · cosine). Both chosen on validation items of Amazon Beauty."""
_CELLS = 1 << 24
"""So many cosines at a time: 64 MB."""


class NearestTitles(NamedTuple):
    """What the vectors of new items are made of; an item without a title, or all where no known one has any, is left out."""

    new_N: Tensor
    """int64 item indices."""
    neighbours_NK: Tensor
    """int64 item indices of known items, nearest first; K is `NEIGHBOURS`, or fewer where fewer are known."""
    shares_NK: Tensor
    """float32, rows sum to 1."""


def nearest_titles(titles_VE: Tensor, known_V: Tensor) -> NearestTitles:
    """Find each new item's neighbours by the cosine of title vectors, exactly.

    Args:
      titles_VE: float; zeros where an item has no title.
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
    """The item vectors, those of the new items replaced by the mean of their neighbours'."""
    if not len(nearest.new_N):
        return vectors_VD
    shares_NK = nearest.shares_NK.to(vectors_VD.dtype)
    made_ND = F.embedding_bag(nearest.neighbours_NK, vectors_VD, per_sample_weights=shares_NK, mode="sum")
    return vectors_VD.index_copy(0, nearest.new_N, made_ND)
