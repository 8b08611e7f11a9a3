"""One score of a product for a query out of three: its words, its vector, and whether it is of the kind that is meant.

    score = lexical + vector · cos(query, product) + intent · share(kind of the product | query)²

*lexical* is BM25 over the best product's. The *kind* is a cluster of the products' vectors, and its share is that among the
`INTENT_PRODUCTS` products nearest to the query: to someone who types "laptop" the words of a laptop sleeve say more than
those of a notebook do, but what lies around the query are notebooks. Shares are squared, so that only a clear intent
weighs, and averaged over `CLUSTERINGS` clusterings from different starts, for where one draws its borders is chance.
(Clusters as context of a document: Liu & Croft 2004; intent as a category: Li, Wang & Acero 2008.)

Shapes: Q queries, V products, E width of the vectors, C clusters, R clusterings.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

INTENT_PRODUCTS = 100
PRODUCTS_PER_CLUSTER = 200
MOST_CLUSTERS = 2_000
MOST_CLUSTERED = 100_000
"""Of more products than these the centres are found on an even sample."""
ROUNDS = 15
CLUSTERINGS = 8
VECTOR_GRID, INTENT_GRID = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0), (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Weights:
    """Of the vector's and the intent's part; the words' part counts 1."""

    vector: float
    intent: float


def cluster(vectors_VE: Tensor, *, seed: int) -> Tensor:
    """Spherical k-means (Dhillon & Modha 2001) from `CLUSTERINGS` starts: each product's cluster in each, int64 [R, V].

    Args:
      vectors_VE: unit vectors.
      seed: of the first centres; the same vectors and seed give the same clusters.
    """
    number = max(1, min(len(vectors_VE) // PRODUCTS_PER_CLUSTER, MOST_CLUSTERS))
    generator = torch.Generator().manual_seed(seed)
    sample_SE = vectors_VE[:: -(-len(vectors_VE) // MOST_CLUSTERED)]
    found = []
    for _ in range(CLUSTERINGS):
        centres_CE = sample_SE[torch.randperm(len(sample_SE), generator=generator)[:number]].clone()
        for _ in range(ROUNDS):
            nearest_S = (sample_SE @ centres_CE.T).argmax(1)
            sums_CE = torch.zeros_like(centres_CE).index_add_(0, nearest_S, sample_SE)
            filled_C = torch.bincount(nearest_S, minlength=number) > 0
            centres_CE[filled_C] = F.normalize(sums_CE[filled_C], dim=-1)
        found.append(torch.cat([(part_VE @ centres_CE.T).argmax(1) for part_VE in vectors_VE.split(MOST_CLUSTERED)]))
    return torch.stack(found)


def intent(cosines_QV: Tensor, clusters_RV: Tensor, allowed_V: Tensor | None = None) -> Tensor:
    """Squared share of each product's cluster among the products nearest to the query, mean of the clusterings: float32 [Q, V]
    in [0, 1].

    Args:
      cosines_QV: of queries and products.
      clusters_RV: from `cluster`.
      allowed_V: bool, one at least true; the others are not looked at.
    """
    count = cosines_QV.shape[1]
    if allowed_V is not None:
        cosines_QV, count = cosines_QV.masked_fill(~allowed_V, -torch.inf), int(allowed_V.sum())
    nearest_QN = cosines_QV.topk(min(INTENT_PRODUCTS, count), dim=1).indices
    one_QN = torch.full(nearest_QN.shape, 1 / nearest_QN.shape[1])
    total_QV = torch.zeros_like(cosines_QV)
    for cluster_V in clusters_RV:
        shares_QC = torch.zeros(len(cosines_QV), int(cluster_V.max()) + 1)
        shares_QC.scatter_add_(1, cluster_V[nearest_QN], one_QN)
        total_QV += shares_QC.square()[:, cluster_V]
    return total_QV / len(clusters_RV)


def fuse(lexical_QV: Tensor, cosines_QV: Tensor, intent_QV: Tensor, weights: Weights) -> Tensor:
    """The scores, float32 [Q, V]."""
    return lexical_QV + weights.vector * cosines_QV + weights.intent * intent_QV


def choose_weights(judge: Callable[[Weights], float], grid: Iterable[Weights] | None = None) -> Weights:
    """The weights that a judge likes best; of equal ones the smaller.

    Args:
      judge: weights → a figure of the validation queries, the higher the better.
      grid: to choose from.
    """
    found = list(grid or (Weights(vector, wish) for vector, wish in product(VECTOR_GRID, INTENT_GRID)))
    return min(found, key=lambda weights: (-round(judge(weights), 6), weights.vector + weights.intent))


def top_products(scores_V: np.ndarray, *, k: int, allowed_V: np.ndarray | None = None) -> np.ndarray:
    """The k products of the highest score, best first, int64 [≤ k]; equal scores by the smaller index. Exact.

    Args:
      scores_V: float [V], finite.
      k: how many.
      allowed_V: bool [V]; the others are left out.
    """
    places = np.arange(len(scores_V)) if allowed_V is None else np.flatnonzero(allowed_V)
    if not len(places):
        return places
    scores = scores_V[places]
    k = min(k, len(places))
    smallest = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = places[scores >= smallest]  # more than k only where scores are equal
    return candidates[np.lexsort((candidates, -scores_V[candidates]))][:k]
