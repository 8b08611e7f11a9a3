"""How the shop has changed since the previous run: items that gain and lose, new items, users with popular items."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from kdlib.report.content import Mover, Night
from kdlib.report.labels import share, signed_points
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
    found = night.drift
    return render(
        "drift",
        drift=found,
        rising=_rows(found.rising) if found else [],
        falling=_rows(found.falling) if found else [],
        lists=night.lists,
        previous=night.previous,
        previous_lists=night.previous_lists,
    )


def _rows(chosen: Sequence[Mover]) -> list[list[str]]:
    return [
        [item.title, share(item.before, digits=2), share(item.now, digits=2), signed_points(item.now - item.before)]
        for item in chosen
    ]
