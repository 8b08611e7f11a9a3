"""Ranking metrics for one query whose products have graded judgements.

Shapes: V products.
"""

from collections.abc import Mapping

import numpy as np


def ndcg_of(gains: np.ndarray, all_gains: np.ndarray, *, k: int) -> float:
    """NDCG of one ranked list: `Σ gain_r / log2(r + 1)`, divided by its best possible value (Järvelin & Kekäläinen 2002).

    Args:
      gains: float, gains of the list's items, best-ranked first.
      all_gains: gains of all judged products, in any order; at least one above 0.
      k: list length.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.sort(all_gains)[::-1][:k]
    return float((gains[:k] * discounts[: len(gains[:k])]).sum() / (ideal * discounts[: len(ideal)]).sum())


def judged_metrics(scores_V: np.ndarray, ratings: Mapping[int, int], *, k: int = 10) -> dict[str, float]:
    """One query's metrics. The gain is `2^rating − 1`, and 0 for a product without a judgement.

    Args:
      scores_V: float [products]; equal scores rank by the smaller product index.
      ratings: product index → rating; at least one above 0.
      k: list length of NDCG.

    Returns:
      `ndcg_all`: NDCG over all products.
      `ndcg_judged`: NDCG over the judged products only.
      `recall100`: share of the products rated above 0 that are among the first 100 of all products.
    """
    order = np.argsort(-scores_V, kind="stable")
    all_gains = 2.0 ** np.array(list(ratings.values())) - 1
    judged = np.array(sorted(ratings))
    among_judged = judged[np.argsort(-scores_V[judged], kind="stable")]
    relevant = {product for product, rating in ratings.items() if rating > 0}
    return {
        "ndcg_all": ndcg_of(np.array([2.0 ** ratings.get(int(one), 0) - 1 for one in order[:k]]), all_gains, k=k),
        "ndcg_judged": ndcg_of(np.array([2.0 ** ratings[int(one)] - 1 for one in among_judged[:k]]), all_gains, k=k),
        "recall100": len(relevant & set(order[:100].tolist())) / len(relevant),
    }
