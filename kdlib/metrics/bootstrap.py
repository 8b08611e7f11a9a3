"""Percentile bootstrap over users (Efron & Tibshirani 1993, chapter 13)."""

import numpy as np


def bootstrap_interval(values: np.ndarray, *, samples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean when users are drawn again with replacement.

    For a paired comparison give the users' differences.

    Args:
      values: float [users].
      samples: how many resamples.
      seed: of the draw.
      level: coverage.

    Returns:
      Lower and upper bound.
    """
    if len(values) == 0:
        return (np.nan, np.nan)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for number in range(samples):
        means[number] = values[generator.integers(0, len(values), len(values))].mean()
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
