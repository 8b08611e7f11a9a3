"""Calibration: do the hits that a model predicts come true?

Expected calibration error over bins of equal size (Naeini, Cooper and Hauskrecht, AAAI 2015, section 2; Nixon et al. 2019).
"""

import numpy as np


def tenths(predicted: np.ndarray) -> list[np.ndarray]:
    """Row numbers of ten equal parts, sorted by prediction, lowest first. Fewer than ten rows give fewer parts."""
    order = np.argsort(predicted, kind="stable")
    return [part for part in np.array_split(order, 10) if len(part)]


def calibration_error(predicted: np.ndarray, found: np.ndarray) -> float:
    """Mean over the tenths of |mean prediction − share that came true|, weighted by their size. 0 is perfect.

    With a hundred rows in a tenth, a perfect model still gets a few hundredths from noise.

    Args:
      predicted: probabilities, float [rows].
      found: 1 where the prediction came true, else 0; [rows].

    Returns:
      The error; NaN without rows.
    """
    if not len(predicted):
        return float("nan")
    parts = tenths(predicted)
    return float(sum(len(one) * abs(predicted[one].mean() - found[one].mean()) for one in parts) / len(predicted))
