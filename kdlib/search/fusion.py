"""A product's score for a query from three parts: its words, its vector, and its kind.

    score = lexical + vector · cos(query, product) + intent · (share(kind of the product | query)² + trust · lexical)

- *lexical* is the product's BM25 score, divided by the score of the best product.
- *kind* is the product's cluster among the products' vectors. Its share is taken among the `INTENT_PRODUCTS` products
  nearest to the query.
- *trust* of the query is `TRUST` times the mean squared share of the `TRUSTED_PRODUCTS` products with the best words.

The kind helps where words mislead. For the query "laptop", the words of a laptop sleeve match better than those of a
notebook. But most products near the query's vector are notebooks.

If the products with the best words are of the kind of the nearest products, as for "backpack", the words may decide among
them. If they are not, the words mislead, and the vector decides.

Shares are squared, so only a clear intent counts. They are averaged over `CLUSTERINGS` clusterings from different starts,
because the borders of one clustering depend on chance. (Clusters as context of a document: Liu & Croft 2004; intent as a
category: Li, Wang & Acero 2008.)

Shapes: Q queries, V products, S sampled products, N nearest products, E text-vector width, C clusters, R clusterings.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

INTENT_PRODUCTS = 100
TRUSTED_PRODUCTS, TRUST = 50, 2.0
"""Tried on the judged queries of a public catalogue. 20 to 100 products and 1 to 3 for the factor gave about the same."""
PRODUCTS_PER_CLUSTER = 200
MOST_CLUSTERS = 2_000
MOST_CLUSTERED = 100_000
"""Most products for finding the cluster centres. A larger catalogue is sampled evenly."""
ROUNDS = 15
CLUSTERINGS = 8
VECTOR_GRID, INTENT_GRID = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0), (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Weights:
    """Weights of the vector and the intent in a score. The lexical part has weight 1."""

    vector: float
    intent: float


def cluster(vectors_VE: Tensor, *, seed: int) -> Tensor:
    """Spherical k-means (Dhillon & Modha 2001): each product's cluster in each clustering, int64 [clusterings, products].

    Args:
      vectors_VE: unit vectors, float32 [products, E].
      seed: of the first centres. The same vectors and seed give the same clusters.
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
    """Intent of each query for each product, in [0, 1]: float32 [queries, products].

    It is the squared share of the product's cluster among the products nearest to the query, averaged over clusterings.

    Args:
      cosines_QV: of queries and products.
      clusters_RV: from `cluster`.
      allowed_V: bool, at least one true. The nearest products are chosen among the allowed ones.
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
    """The scores, float32 [queries, products].

    Args:
      lexical_QV: at most 1; above 0 for products with words of the query.
      cosines_QV: of queries and products.
      intent_QV: from `intent`.
      weights: of the parts.
    """
    best_QN, places_QN = lexical_QV.topk(min(TRUSTED_PRODUCTS, lexical_QV.shape[1]), dim=1)
    with_words_QN = best_QN > 0
    agreed_Q1 = (intent_QV.gather(1, places_QN) * with_words_QN).sum(1, keepdim=True)
    trust_Q1 = TRUST * agreed_Q1 / with_words_QN.sum(1, keepdim=True).clamp_min(1)
    return lexical_QV + weights.vector * cosines_QV + weights.intent * (intent_QV + trust_Q1 * lexical_QV)


def choose_weights(judge: Callable[[Weights], float], grid: Iterable[Weights] | None = None) -> Weights:
    """The weights of the grid with the highest figure; of equal figures, the weights with the smallest sum.

    Args:
      judge: weights → a figure on the validation queries, higher is better.
      grid: weights to try; None: all pairs of `VECTOR_GRID` and `INTENT_GRID`.
    """
    found = list(grid or (Weights(vector, wish) for vector, wish in product(VECTOR_GRID, INTENT_GRID)))
    return min(found, key=lambda weights: (-round(judge(weights), 6), weights.vector + weights.intent))


def top_products(scores_V: np.ndarray, *, k: int, allowed_V: np.ndarray | None = None) -> np.ndarray:
    """The k products with the highest score, best first; equal scores by the smaller index. Exact.

    Args:
      scores_V: float [products], finite.
      k: number of products.
      allowed_V: bool [products]; only allowed products are returned.

    Returns:
      Product indices, int64 [≤ k].
    """
    places = np.arange(len(scores_V)) if allowed_V is None else np.flatnonzero(allowed_V)
    if not len(places):
        return places
    scores = scores_V[places]
    k = min(k, len(places))
    smallest = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = places[scores >= smallest]  # more than k only if scores are equal
    return candidates[np.lexsort((candidates, -scores_V[candidates]))][:k]
