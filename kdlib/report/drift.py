"""How the shop has changed since the previous run: items that gain and lose, new items, users with popular items."""

import numpy as np
from markupsafe import Markup

from kdlib.report.content import Night
from kdlib.report.rendering import render

MOVERS = 5
"""How many items each list of movers holds."""


def popularity_drift(now: np.ndarray, before: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Compare the interactions of two runs by item.

    Args:
      now: interactions int64 [items].
      before: interactions of the same items in the previous run; 0 for a new item.

    Returns:
      The total variation distance, ½ Σ |p − q| over the items' shares; then the shares of both runs, float64 [items].
    """
    shares, earlier = now / max(now.sum(), 1), before / max(before.sum(), 1)
    return float(np.abs(shares - earlier).sum() / 2), shares, earlier


def movers(shares: np.ndarray, earlier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items that gain most and that lose most, the largest change first; at most `MOVERS` each."""
    gain = shares - earlier
    order = np.argsort(-gain, kind="stable")
    rising, falling = order[:MOVERS], order[::-1][:MOVERS]
    return rising[gain[rising] > 0], falling[gain[falling] < 0]


def drift(night: Night) -> Markup:
    """The distance, the new items, the movers, and the users with popular items."""
    return render(
        "drift",
        drift=night.drift,
        lists=night.lists,
        previous=night.previous,
        previous_lists=night.previous_lists,
    )
