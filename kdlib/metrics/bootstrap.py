"""Percentile bootstrap over users (Efron & Tibshirani 1993, chapter 13), and over users and training seeds together.

Shapes: S training seeds of one recipe, M seeds of all recipes together, U users, R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

_CELLS = 1 << 22
"""Drawn user numbers held at a time (32 MB)."""


def bootstrap_interval(values: np.ndarray, *, samples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean over resamples of the users, drawn with replacement. NaN without users.

    For a paired comparison give the users' differences.

    Args:
      values: float [users].
      samples: number of resamples.
      seed: of the resamples.
      level: coverage.

    Returns:
      Lower and upper bound.
    """
    if len(values) == 0:
        return (np.nan, np.nan)
    return percentile_interval(_resampled_means(values, samples, np.random.default_rng(seed)), level=level)


def mixed_bootstrap_interval(
    groups: Sequence[np.ndarray], shares: Sequence[float], *, samples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a weighted sum of means, `Σ share · mean of the group`. Each resample draws the users within their group.

    NaN if a group has no users.

    Args:
      groups: float [users of the group] each. For a paired comparison give the users' differences.
      shares: the factor of each group's mean.
      samples: number of resamples.
      seed: of the resamples.
      level: coverage.

    Returns:
      Lower and upper bound.
    """
    if not len(groups) or not all(len(group) for group in groups):
        return (np.nan, np.nan)
    generator = np.random.default_rng(seed)
    parts = zip(groups, shares, strict=True)
    means = [share * _resampled_means(group, samples, generator) for group, share in parts]
    return percentile_interval(np.sum(means, axis=0), level=level)


def _resampled_means(values: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Means over resamples of the values, float64 [samples]."""
    means = np.empty(samples)
    for number in range(samples):
        means[number] = values[generator.integers(0, len(values), len(values))].mean()
    return means


def nested_bootstrap_means(values: Mapping[str, np.ndarray], *, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Each recipe's mean over seeds and users, for each resample of both: recipe → float64 [samples].

    A resample draws the users once for all recipes. So differences and ratios of the returned means are paired by user.
    The resample then draws the seeds of each recipe separately. Every model is measured on every user, so users and
    seeds are crossed: this is the pigeonhole bootstrap (Owen 2007).

    Of S seeds it draws S − 1, which gives their mean the right variance (Rao & Wu 1988). With S drawn seeds the variance
    would be (S − 1) / S of the right one: a third too small for 3 seeds. A recipe with one seed always uses that seed,
    so its interval does not cover the variation between seeds.

    Args:
      values: recipe → float [seeds, users], the same users in the same order for all.
      samples: R, number of resamples.
      seed: of the resamples.

    Raises:
      ValueError: no recipe, an array without seeds or users, or arrays with different numbers of users.
    """
    shapes = {name: np.shape(of_recipe) for name, of_recipe in values.items()}
    users = {shape[-1] for shape in shapes.values() if len(shape) == 2 and min(shape) > 0}
    if len(users) != 1 or any(len(shape) != 2 or min(shape) == 0 for shape in shapes.values()):
        raise ValueError(
            f"expected arrays [seeds, users] over the same users, with at least one of each; found {shapes}"
        )
    generator, count = np.random.default_rng(seed), users.pop()
    stacked_MU = np.concatenate([np.asarray(of_recipe, np.float64) for of_recipe in values.values()])
    means_MR = np.empty((len(stacked_MU), samples))
    at_once = max(1, _CELLS // count)
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        drawn = generator.integers(0, count, (size, count)) + np.arange(size)[:, None] * count
        times_RU = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means_MR[:, start : start + size] = stacked_MU @ times_RU.T / count
    found, row = {}, 0
    for name, (seeds, _) in shapes.items():
        chosen = generator.integers(0, seeds, (max(seeds - 1, 1), samples))
        found[name] = means_MR[row + chosen, np.arange(samples)].mean(axis=0)
        row += seeds
    return found


def percentile_interval(resampled: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound of the middle `level` of resampled values, float [samples]. NaN if any value is NaN."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return float(low), float(high)


def nested_bootstrap_interval(
    values_SU: np.ndarray,
    *,
    against_SU: np.ndarray | None = None,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a recipe's mean, or of its difference from another recipe on the same users.

    Args:
      values_SU: float [seeds, users].
      against_SU: the other recipe, float [its own seeds, users].
      samples: number of resamples.
      seed: of the resamples.
      level: coverage.

    Raises:
      ValueError: see `nested_bootstrap_means`.
    """
    compared = {"values": values_SU} | ({} if against_SU is None else {"against": against_SU})
    means = nested_bootstrap_means(compared, samples=samples, seed=seed)
    return percentile_interval(means["values"] - means.get("against", np.zeros(samples)), level=level)
