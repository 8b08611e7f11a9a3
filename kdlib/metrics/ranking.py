"""Ranking metrics from the 0-based rank of the one relevant item; each returns one value a row, to average or resample."""

import numpy as np


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k. With one target a row this is also recall@k. float64 [rows]."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain @k with one relevant item: `1 / log2(rank + 2)` inside the first k, else 0."""
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def reciprocal_rank(ranks: np.ndarray, k: int) -> np.ndarray:
    """`1 / (rank + 1)` inside the first k, else 0; its mean is MRR@k."""
    return np.where(ranks < k, 1.0 / (ranks + 1.0), 0.0)


def all_metrics(ranks: np.ndarray, ks: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Every metric at every k, by the name it is reported under (`ndcg@10`), and `accuracy@1`."""
    values = {"accuracy@1": hit_rate(ranks, 1)}
    for k in ks:
        values |= {
            f"hr@{k}": hit_rate(ranks, k),
            f"recall@{k}": hit_rate(ranks, k),
            f"ndcg@{k}": ndcg(ranks, k),
            f"mrr@{k}": reciprocal_rank(ranks, k),
        }
    return values
