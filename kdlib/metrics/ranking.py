"""Ranking metrics of rows with one relevant item each.

Every function takes the item's 0-based rank, int64 [rows], and returns one value per row, to average or resample.
"""

import numpy as np


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k, else 0: float64 [rows]. With one target per row this is also recall@k."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k with one relevant item: `1 / log2(rank + 2)` inside the first k, else 0."""
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def reciprocal_rank(ranks: np.ndarray, k: int) -> np.ndarray:
    """`1 / (rank + 1)` inside the first k, else 0. Its mean is MRR@k."""
    return np.where(ranks < k, 1.0 / (ranks + 1.0), 0.0)


def weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """The mean of a metric over the rows; 0 without rows, and where no row has a weight.

    Args:
      values: float [rows].
      weights: float [rows], at least 0. None: all rows weigh the same.
    """
    if weights is None:
        return float(values.mean()) if len(values) else 0.0
    total = weights.sum()
    return float(values @ weights / total) if total else 0.0


def all_metrics(ranks: np.ndarray, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Every metric at every k, by its name (`ndcg@10`), and `accuracy@1`."""
    values = {"accuracy@1": hit_rate(ranks, 1)}
    for k in ks:
        values |= {
            f"hr@{k}": hit_rate(ranks, k),
            f"recall@{k}": hit_rate(ranks, k),
            f"ndcg@{k}": ndcg(ranks, k),
            f"mrr@{k}": reciprocal_rank(ranks, k),
        }
    return values
