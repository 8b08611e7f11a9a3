"""Similar items: for an item, the items whose vectors point in the most similar direction.

Shapes: V items, W width of an item vector, B items of a block.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdlib.inference.topk import exact_topk
from kdlib.lists.rows import Lists

ITEMS = 8192
"""Items whose lists are made at a time."""


def similar_items(vectors_VW: Tensor, *, known_V: Tensor, allowed_V: Tensor, k: int) -> Lists:
    """Each known item's k nearest other items, by the cosine of their vectors. The search is exact.

    Args:
      vectors_VW: float [items, width], the student's item vectors.
      known_V: bool [items]: the vector was learnt or made from features. Other items have no list and are in none.
      allowed_V: bool [items]: the item may be in a list.
      k: length of the lists. A list is shorter if fewer items are left.

    Raises:
      ModelError: a vector is not finite.
    """
    unit_VW = functional.normalize(vectors_VW, dim=1)
    queries = known_V.nonzero()[:, 0]
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for own_B in queries.split(ITEMS):
        scores_BK, items_BK = exact_topk(
            unit_VW[own_B],
            unit_VW,
            k=k,
            excluded=(own_B, torch.arange(len(own_B) + 1)),
            allowed_V=allowed_V & known_V,
        )
        found = items_BK >= 0
        owners = own_B[:, None].expand_as(items_BK)[found]
        parts.append((owners.numpy(), items_BK[found].numpy(), scores_BK[found].numpy()))
    return Lists(*map(np.concatenate, zip(*parts, strict=True)))
