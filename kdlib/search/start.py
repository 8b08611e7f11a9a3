"""Where a student starts whose teacher has no sub-word embeddings to give: at the best mean of sub-words.

Shapes: N queries, S sub-words of the vocabulary, E text-vector width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

MOST_QUERIES = 60_000
"""Most queries that are used; of more, an even sample."""
PENALTY = 0.1
"""Weight of the squared length of a sub-word's vector. The error of one query has weight 1."""
STEPS = 20


def fitted_embeddings(queries: Sequence[Sequence[int]], vectors_NE: np.ndarray, *, vocabulary: int) -> Tensor:
    """Sub-word vectors whose mean over a query comes nearest to the teacher's vector of the query: float32 [vocabulary, E].

    Ridge regression, solved by conjugate gradients (Hestenes & Stiefel 1952). A sub-word of no query gets zeros.

    Args:
      queries: sub-words of each query, at least one.
      vectors_NE: the teacher's vectors of the queries, float [queries, E].
      vocabulary: number of sub-words, S.
    """
    step = -(-len(queries) // MOST_QUERIES)
    queries, target_NE = queries[::step], np.asarray(vectors_NE[::step], np.float32)
    counts = np.array([len(ids) for ids in queries])
    places = np.concatenate([np.asarray(ids) for ids in queries])
    shares = np.repeat(1 / counts, counts).astype(np.float32)
    bags_NS = csr_array((shares, places, np.concatenate([[0], counts.cumsum()])), shape=(len(queries), vocabulary))
    found_SE = np.zeros((vocabulary, target_NE.shape[1]), np.float32)
    left_SE = bags_NS.T @ target_NE
    direction_SE, size_E = left_SE, (left_SE**2).sum(0)
    for _ in range(STEPS):
        image_SE = bags_NS.T @ (bags_NS @ direction_SE) + PENALTY * direction_SE
        length_E = size_E / np.maximum((direction_SE * image_SE).sum(0), 1e-12)
        found_SE, left_SE = found_SE + length_E * direction_SE, left_SE - length_E * image_SE
        last_E, size_E = size_E, (left_SE**2).sum(0)
        direction_SE = left_SE + size_E / np.maximum(last_E, 1e-12) * direction_SE
    return torch.from_numpy(found_SE)
