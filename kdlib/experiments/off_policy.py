"""What another policy would have got, from logged exposures: inverse propensity scoring (Horvitz & Thompson 1952).

Each exposure has the weight `target / propensity`. IPS divides the weighted outcomes by the number of exposures, SNIPS by
the sum of the weights (Swaminathan & Joachims 2015). Both are ratios of users' sums, so their intervals are those of the
delta method over users.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from kdlib.experiments.lift import LEVEL, MOST_SKEWNESS, Estimate, per_user, skewness

FARTHEST = 2
"""So many times the half of its interval may the mean weight lie from 1."""


class Judged(NamedTuple):
    """An outcome by exposure."""

    logged: Estimate
    """As the log has it."""
    ips: Estimate
    snips: Estimate
    gain: Estimate
    """SNIPS − logged."""


class Overlap(NamedTuple):
    """How much of the log speaks for the policy to judge."""

    mean_weight: Estimate
    """1, if the propensities are right and the log has all that the policy would show."""
    effective_users: float
    """(Σ users' weights)² / Σ (users' weights)²: so many users of equal weight are worth the same (Kish 1965)."""
    logged_users: float
    """The same without weights. It is below the number of users, since some have more exposures than others."""
    skewness: float
    """Of the mean weight (`kdlib.experiments.lift.skewness`)."""


def judged(outcomes: NDArray, weighted: NDArray, weights: NDArray, rows: NDArray) -> Judged:
    """Judge the policy by an outcome. All arguments are users' sums, float [users].

    Args:
      outcomes: the outcome.
      weighted: the outcome times the weight.
      weights: the weight, which is not 0 everywhere.
      rows: number of exposures.
    """
    logged, snips = per_user(outcomes, rows), per_user(weighted, weights)
    return Judged(*(_mean(one) for one in (logged, per_user(weighted, rows), snips, snips - logged)))


def overlap(weights: NDArray, rows: NDArray) -> Overlap:
    """How far the log covers the policy. Arguments as for `judged`."""
    effective, logged = (float(one.sum() ** 2 / (one**2).sum()) for one in (weights, rows))
    values = per_user(weights, rows)
    return Overlap(_mean(values), effective, logged, skewness(values))


def warnings_of(found: Overlap) -> list[str]:
    """Why the estimates may be wrong, in sentences; empty where nothing speaks against them."""
    texts = []
    mean, low, high = found.mean_weight
    if abs(mean - 1) > FARTHEST * (high - low) / 2:
        texts.append(
            f"the mean weight is {mean:.3f}, expected 1: the propensities are wrong, or the log lacks what the policy would"
            " show. IPS and SNIPS are biased then"
        )
    if found.skewness > MOST_SKEWNESS:
        texts.append(
            "a few users have most of the weights, because the policy to judge shows what was rarely logged: the intervals are"
            " too short. Log more, or judge a policy that is nearer to the logged one"
        )
    return texts


def _mean(values: NDArray) -> Estimate:
    error = values.std(ddof=1) / np.sqrt(len(values))
    mean, half = values.mean(), stdtrit(len(values) - 1, (1 + LEVEL) / 2) * error
    return Estimate(float(mean), float(mean - half), float(mean + half))
