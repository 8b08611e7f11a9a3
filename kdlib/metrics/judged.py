"""Ranking metrics over graded judgements of query and product.

Shapes: Q queries, V products.
"""

from collections.abc import Mapping

import numpy as np


def ndcg_of(gains: np.ndarray, all_gains: np.ndarray, *, k: int) -> float:
    """Normalised discounted cumulative gain of one ranked list: `Σ gain_r / log2(r + 1)` over the best possible.

    Args:
      gains: float, the gains of the list, best-ranked first.
      all_gains: the gains of everything judged, in any order; one at least above 0.
      k: list length (Järvelin & Kekäläinen 2002).
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.sort(all_gains)[::-1][:k]
    return float((gains[:k] * discounts[: len(gains[:k])]).sum() / (ideal * discounts[: len(ideal)]).sum())


def judged_metrics(scores_V: np.ndarray, ratings: Mapping[int, int], *, k: int = 10) -> dict[str, float]:
    """One query's metrics; gain `2^rating − 1`, a product without a judgement counts 0.

    Args:
      scores_V: float [V]; equal scores rank by the smaller product index.
      ratings: product index → rating, one at least above 0.
      k: list length of NDCG.

    Returns:
      `ndcg_all`: over all products; `ndcg_judged`: over the judged ones alone; `recall100`: share of the products rated
      above 0 among the first 100 of all.
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
