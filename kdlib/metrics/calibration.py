"""Whether a model is as sure as it should be: what it expects to hit against what it hits.

The expected calibration error over bins of equal size (Naeini, Cooper and Hauskrecht, AAAI 2015, section 2; Nixon et al. 2019).
"""

import numpy as np


def tenths(predicted: np.ndarray) -> list[np.ndarray]:
    """Row numbers of the tenths by prediction, the least sure first; fewer than ten where there are fewer rows."""
    order = np.argsort(predicted, kind="stable")
    return [part for part in np.array_split(order, 10) if len(part)]


def calibration_error(predicted: np.ndarray, found: np.ndarray) -> float:
    """Mean over the tenths of |mean prediction − share that came true|, weighted by their size; 0 is perfect.

    Noise alone gives some hundredths where a tenth has a hundred rows.

    Args:
      predicted: probabilities, float [rows].
      found: what came true, 0 or 1, [rows].

    Returns:
      NaN where there is no row.
    """
    if not len(predicted):
        return float("nan")
    parts = tenths(predicted)
    return float(sum(len(one) * abs(predicted[one].mean() - found[one].mean()) for one in parts) / len(predicted))
