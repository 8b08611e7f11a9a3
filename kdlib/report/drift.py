"""How the shop has changed since the night before: which items gain and lose, how many are new, who gets popular items."""

import numpy as np

from kdlib.report.content import Drift, Lists, Mover, Night
from kdlib.report.html import Html, missing, section, table, tag
from kdlib.report.labels import count, share, short_day, signed_points

MOVERS = 5


def popularity_drift(now: np.ndarray, before: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Compare two nights' interactions by item.

    Args:
      now: interactions int64 [items].
      before: the same items' the night before; 0 for a new one.

    Returns:
      The total variation distance, ½ Σ |p − q| over the items' shares; and both nights' shares, float64 [items].
    """
    shares, earlier = now / max(now.sum(), 1), before / max(before.sum(), 1)
    return float(np.abs(shares - earlier).sum() / 2), shares, earlier


def movers(shares: np.ndarray, earlier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the items that gain and that lose most, the most first; at most `MOVERS` each."""
    gain = shares - earlier
    order = np.argsort(-gain, kind="stable")
    rising, falling = order[:MOVERS], order[::-1][:MOVERS]
    return rising[gain[rising] > 0], falling[gain[falling] < 0]


def drift(night: Night) -> Html:
    """Distance, new items, risers and fallers, users with popular items."""
    found = night.drift
    if found is None:
        return section("drift", "Drift", missing("No item statistics of this night."))
    sentences = [_items(found)]
    if found.previous is None:
        sentences.append("There is no earlier night to compare with.")
    else:
        sentences.append(
            f"{share(found.distance)} of the interactions would have to move to other items to make the items as"
            f" popular as on {short_day(found.previous)} (total variation distance)."
        )
    if night.lists:
        sentences.append(_popular(night.lists, night.previous_lists, night.previous))
    return section(
        "drift",
        "Drift",
        tag("ul", *(tag("li", sentence) for sentence in sentences)),
        tag(
            "div",
            _movers("Items that gain most", found.rising, found),
            _movers("Items that lose most", found.falling, found),
            class_="pair",
        ),
    )


def _items(found: Drift) -> str:
    if found.previous is None:
        return f"{count(found.items)} items in the vocabulary."
    new = "1 of them is" if found.new_items == 1 else f"{count(found.new_items)} of them are"
    return f"{count(found.items)} items in the vocabulary; {new} new."


def _popular(now: Lists, before: Lists | None, previous: str | None) -> str:
    shares = share(now.popular / max(now.users, 1), digits=2)
    if before is not None and previous is not None:
        shares += f"; {share(before.popular / max(before.users, 1), digits=2)} on {short_day(previous)}"
    return f"Users with popular items, for want of a usable history: {count(now.popular)} ({shares})."


def _movers(caption: str, chosen: tuple[Mover, ...], found: Drift) -> Html | None:
    if not chosen or found.previous is None:
        return None
    rows = [
        (one.title, share(one.before, digits=2), share(one.now, digits=2), signed_points(one.now - one.before))
        for one in chosen
    ]
    columns = ("", short_day(found.previous), "Now", "Change")
    return table(f"{caption}: share of all interactions, change in percentage points", columns, rows)
