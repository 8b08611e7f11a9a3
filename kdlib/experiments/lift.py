"""What a variant of an A/B test is worth: differences and relative lifts of users' means, with 95% intervals.

A ratio metric (clicks / exposures) becomes a mean over users by the delta method (Deng, Knoblich & Lu 2018, "Applying the
Delta Method in Metric Analytics"). Differences have Welch's interval. Relative lifts have Fieller's interval for the ratio
of two means (Fieller 1954), at the same t: it leaves out 0 exactly where the difference's does. The delta method would
fail where the control's mean is uncertain.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, stdtr, stdtrit

LEVEL = 0.95
ALARM = 0.001
"""Below this p-value of `sample_ratio`, no lift of the test can be trusted (Fabijan et al. 2019)."""
MOST_SKEWNESS = 0.2
"""If the skewness of an estimate is above this, its users are too few (n < 25 · skewness², Cochran 1977, section 2.15). Less than
95% of such intervals hold the truth (`tests/benchmarks/results/abtest_coverage.json`)."""


class Estimate(NamedTuple):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


class Lift(NamedTuple):
    """A variant against the control."""

    difference: Estimate
    relative: Estimate | None
    """Difference / control. None: the control's mean is not clearly different from 0."""
    p_value: float
    """Two-sided, of no difference."""
    skewness: float
    """Of the difference's distribution. Values of users may be far more skewed."""


def per_user(totals: NDArray, sizes: NDArray | None = None) -> NDArray:
    """Values whose mean is the metric, and whose variance is that of the metric times the number of users.

    Args:
      totals: each user's sum of the outcome, float [users].
      sizes: each user's exposures, for a ratio metric.
    """
    if sizes is None:
        return totals
    ratio = totals.sum() / sizes.sum()
    return ratio + (totals - ratio * sizes) / sizes.mean()


def adjusted(values: Mapping[str, NDArray], before: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Values less what was known before the test: CUPED (Deng, Xu, Kohavi & Walker 2013).

    The expected lifts stay the same, and the intervals get shorter.

    Args:
      values: variant → float [users].
      before: variant → a number of each user from before the test, in the same order.
    """
    mean = np.concatenate(list(before.values())).mean()
    values_off = np.concatenate([one - one.mean() for one in values.values()])
    before_off = np.concatenate([before[name] - before[name].mean() for name in values])
    spread = (before_off**2).sum()
    slope = (values_off * before_off).sum() / spread if spread else 0.0
    return {name: one - slope * (before[name] - mean) for name, one in values.items()}


def lift_of(variant: NDArray, control: NDArray) -> Lift:
    """A variant against the control.

    Args:
      variant: values of its users, from `per_user`, float [users]. Two users or more; not all values are equal.
      control: the same of the control.
    """
    means, squares = zip(*((one.mean(), one.var(ddof=1) / len(one)) for one in (variant, control)), strict=True)
    square = sum(squares)
    freedom = square**2 / (squares[0] ** 2 / (len(variant) - 1) + squares[1] ** 2 / (len(control) - 1))
    quantile, error = stdtrit(freedom, (1 + LEVEL) / 2), np.sqrt(square)
    value = means[0] - means[1]
    difference = Estimate(float(value), float(value - quantile * error), float(value + quantile * error))
    p_value = 2 * stdtr(freedom, -abs(value) / error)
    return Lift(difference, _fieller(means, squares, quantile), float(p_value), skewness(variant, control))


def skewness(values: NDArray, less: NDArray | None = None) -> float:
    """Skewness of the mean of the values, or of its difference from another mean. 0: as a normal distribution."""
    second = third = 0.0
    for sign, one in ((1, values), *([] if less is None else [(-1, less)])):
        off = one - one.mean()
        second += (off**2).mean() / len(one)
        third += sign * (off**3).mean() / len(one) ** 2
    return float(third / second**1.5) if second else 0.0


def _fieller(means: Sequence[float], squares: Sequence[float], quantile: float) -> Estimate | None:
    """Relative lift: the bounds are the ratios r where `(variant − r · control)² = t² · (its squared error)`.

    Args:
      means: of variant and control.
      squares: the squared errors of these means.
      quantile: t.
    """
    (top, bottom), (of_top, of_bottom) = means, squares
    square = bottom**2 - quantile**2 * of_bottom
    if square <= 0:
        return None
    middle, half = top * bottom, quantile * np.sqrt(top**2 * of_bottom + of_top * square)
    return Estimate(*(float(ratio - 1) for ratio in (top / bottom, (middle - half) / square, (middle + half) / square)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, raised so that at most 5% of tests without any lift have one below 0.05
    (Holm 1979)."""
    order = np.argsort(p_values)
    raised = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1))
    found = np.empty(len(p_values))
    found[order] = np.minimum(raised, 1)
    return found.tolist()


def sample_ratio(counts: Sequence[int], shares: Sequence[float]) -> float:
    """p-value that users with these shares come in these counts (chi-square)."""
    expected = np.asarray(shares) / sum(shares) * sum(counts)
    return float(chdtrc(len(counts) - 1, ((np.asarray(counts) - expected) ** 2 / expected).sum()))
