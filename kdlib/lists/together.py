"""Bought together: for an item, what else is in the baskets that hold it.

The score of j beside i adds up their common baskets: s(i, j) = Σ w(b) / (n(i) · n(j)^α). Here n is the same sum over all
baskets of one item. A basket counts less the more items it has, w(b) = 1 / √size, and half as much for each
`HALF_LIFE_DAYS` of its age. With α = 0 the most popular items would be in every list, with α = 1 the rarest. Formula and
α are Deshpande & Karypis 2004 ("Item-based top-N recommendation algorithms", section 4.2).

Shapes: B baskets, V items, N pairs.
"""

import numpy as np
from scipy.sparse import csr_array

from kdlib.lists.purchases import Baskets
from kdlib.lists.rows import Lists, best_of_each, near_the_top

POPULARITY_POWER = 0.1
"""α. Chosen on validation days of two shops, like the half-life: `tests/benchmarks/README.md`, "Further lists"."""
HALF_LIFE_DAYS = 60.0
ITEMS = 4096
"""Items whose pairs are counted at a time. Memory grows with the number of different pairs of these items."""


def bought_together(baskets: Baskets, *, today: int, allowed_V: np.ndarray, k: int) -> Lists:
    """Each item's k best companions. An item that shares no basket with an allowed item has no list.

    Args:
      baskets: from `baskets_of`.
      today: the day from which a basket's age counts, in days since 1970.
      allowed_V: bool [items]: the item may be in a list.
      k: length of the lists.
    """
    held_BV, num_items = baskets.items_BV, len(allowed_V)
    weights_B = 0.5 ** ((today - baskets.days_B) / HALF_LIFE_DAYS) / np.sqrt(held_BV.sum(axis=1))
    weighed_BV = csr_array(held_BV * weights_B[:, None])
    counts_V = weighed_BV.sum(axis=0)
    baskets_VB = csr_array(held_BV.T)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for start in range(0, num_items, ITEMS):
        pairs = csr_array(baskets_VB[start : start + ITEMS] @ weighed_BV)
        owners_N = start + np.repeat(np.arange(len(pairs.indptr) - 1), np.diff(pairs.indptr))
        items_N = pairs.indices.astype(np.int64)
        scores_N = pairs.data / (counts_V[owners_N] * counts_V[items_N] ** POPULARITY_POWER)
        scores_N[(owners_N == items_N) | ~allowed_V[items_N]] = 0
        kept = (scores_N > 0) & near_the_top(scores_N, pairs.indptr, k=k)
        parts.append(best_of_each(owners_N[kept], items_N[kept], scores_N[kept], k=k))
    return Lists(*map(np.concatenate, zip(*parts, strict=True)))
