"""What lists are like beyond their accuracy: novelty, diversity, popularity, new items, coverage and concentration.

A list holds item indices, best first, and is filled up with −1.

Shapes: U users, K list length, V items, D width of an item vector.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from kdlib.metrics.bootstrap import nested_bootstrap_means, percentile_interval
from kdlib.store import tables

_ROWS = 1024
"""Number of lists whose item vectors are held at once."""


class Items(NamedTuple):
    """What is known of each item. Counts are of all kept events."""

    num_users: np.ndarray
    """int64 [items], distinct users."""
    num_interactions: np.ndarray
    """int64 [items]."""
    vectors: np.ndarray
    """Float [items, width]. Items with similar vectors are alike."""
    is_new: np.ndarray | None
    """bool [items]. None: not known."""
    total_users: int
    """Users with a kept event, of any item."""


def list_means(lists_UK: np.ndarray, values_V: np.ndarray) -> np.ndarray:
    """Mean value of the items of each list: float64 [users]. NaN for an empty list."""
    listed_UK = lists_UK >= 0
    with np.errstate(invalid="ignore"):
        return np.where(listed_UK, values_V[lists_UK], 0.0).sum(1) / listed_UK.sum(1)


def inverse_user_frequency(num_users_V: np.ndarray, total_users: int) -> np.ndarray:
    """`−log2(users of the item / all users)`: float64 [items]. An item without users counts as an item with one.

    The mean over a list is the mean inverse user frequency (MIUF), the usual measure of novelty (Zhou et al. 2010).
    """
    return -np.log2(np.maximum(num_users_V, 1) / max(total_users, 1))


def diversity(lists_UK: np.ndarray, vectors_VD: np.ndarray) -> np.ndarray:
    """Intra-list diversity (Ziegler et al. 2005): mean of `1 − cosine` over all pairs of a list's items, float64 [users].

    A list of one item has 0, an empty list NaN. A vector of zeros is at distance 1 from all others.
    """
    found = np.empty(len(lists_UK))
    for start in range(0, len(lists_UK), _ROWS):
        chosen_UK = lists_UK[start : start + _ROWS]
        unit_UKD = vectors_VD[chosen_UK].astype(np.float64)
        norms_UK = np.linalg.norm(unit_UKD, axis=2)
        unit_UKD *= np.where((chosen_UK >= 0) & (norms_UK > 0), 1 / np.maximum(norms_UK, 1e-300), 0.0)[:, :, None]
        lengths_U = (chosen_UK >= 0).sum(1)
        # |Σ v|² = Σ |v|² + the cosines of all ordered pairs
        cosines_U = np.square(unit_UKD.sum(1)).sum(1) - np.square(unit_UKD).sum((1, 2))
        found_U = 1.0 - cosines_U / np.maximum(lengths_U * (lengths_U - 1), 1)
        found[start : start + _ROWS] = np.where(lengths_U > 1, found_U, np.where(lengths_U == 1, 0.0, np.nan))
    return found


def coverage(lists_UK: np.ndarray, num_items: int) -> float:
    """Share of all items that are in at least one list."""
    return int((_times_listed(lists_UK, num_items) > 0).sum()) / num_items


def gini(lists_UK: np.ndarray, num_items: int) -> float:
    """Gini coefficient of the number of lists that each item is in. NaN if all lists are empty.

    0: every item is in as many lists. Near 1: a few items fill all lists.
    """
    times_V = np.sort(_times_listed(lists_UK, num_items))
    if not times_V.sum():
        return float("nan")
    steps_V = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float((steps_V * times_V).sum() / (num_items * times_V.sum()))


def _times_listed(lists_UK: np.ndarray, num_items: int) -> np.ndarray:
    return np.bincount(lists_UK[lists_UK >= 0], minlength=num_items)


def first_seen_lately(first_seen: Sequence[str], *, last_day: date, days: int) -> np.ndarray | None:
    """Which items were first seen in the last `days` days up to `last_day`: bool [items].

    Items of the first run are not new: nobody knows how old they are. None: there are no other items.

    Args:
      first_seen: the column of ITEM_VOCABULARY, in index order.
      last_day: the run's day.
      days: at least 1.
    """
    days_V = np.array(first_seen, "datetime64[D]")
    later_V = days_V > days_V.min()
    return later_V & (days_V > np.datetime64(last_day - timedelta(days=days))) if later_V.any() else None


def beyond_table(
    lists: Mapping[str, np.ndarray],
    items: Items,
    *,
    k: int,
    segments: Mapping[str, np.ndarray],
    samples: int,
    seed: int,
) -> pa.Table:
    """`tables.METRICS`: these metrics of every model, over all users and over each segment (`<metric>/<segment>`).

    `novelty@k`, `diversity@k`, `popularity@k` (mean interactions of a listed item) and `new_items@k` (share of a list) are
    means over users, with 95% intervals. They leave out users to whom a model gives an empty list. `coverage` is of
    the whole lists, `gini` of their first k items.

    Args:
      lists: model → int64 [users, top], the same users in the same order for all.
      items: without `is_new` there is no `new_items@k`.
      k: at most `top`.
      segments: name → bool [users].
      samples: number of bootstrap resamples.
      seed: of the bootstrap.
    """
    values = {name: _of_each_user(of_model[:, :k], items, k) for name, of_model in lists.items()}
    rows = []
    for suffix, chosen in {"": slice(None), **{f"/{name}": users for name, users in segments.items()}}.items():
        rows += _mean_rows(values, suffix, chosen, samples=samples, seed=seed)
        for name, of_model in lists.items():
            found, num_items = of_model[chosen], len(items.num_users)
            covered, concentration = coverage(found, num_items), gini(found[:, :k], num_items)
            rows.append((name, f"coverage@{found.shape[1]}{suffix}", covered, None, None, len(found)))
            rows.append((name, f"gini@{k}{suffix}", concentration, None, None, len(found)))
    schema = tables.METRICS.schema
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _of_each_user(lists_UK: np.ndarray, items: Items, k: int) -> dict[str, np.ndarray]:
    """Metric → float64 [users]; NaN for an empty list."""
    values = {
        f"novelty@{k}": list_means(lists_UK, inverse_user_frequency(items.num_users, items.total_users)),
        f"diversity@{k}": diversity(lists_UK, items.vectors),
        f"popularity@{k}": list_means(lists_UK, items.num_interactions),
    }
    if items.is_new is not None:
        values[f"new_items@{k}"] = list_means(lists_UK, items.is_new)
    return values


def _mean_rows(
    values: Mapping[str, Mapping[str, np.ndarray]], suffix: str, chosen: np.ndarray | slice, *, samples: int, seed: int
) -> list[tuple]:
    """Rows of the means over the chosen users. All use the same resamples, which a few matrix products compute together."""
    flat = {(name, metric): one[chosen] for name, of_model in values.items() for metric, one in of_model.items()}
    has_lists = ~np.isnan(np.stack(list(flat.values()))).any(0)
    users = int(has_lists.sum())
    if not users:
        return [(name, metric + suffix, np.nan, np.nan, np.nan, 0) for name, metric in flat]
    kept = {f"{name}\n{metric}": one[None, has_lists] for (name, metric), one in flat.items()}
    resampled = nested_bootstrap_means(kept, samples=samples, seed=seed)
    return [
        (name, metric + suffix, float(one.mean()), *percentile_interval(resampled[key]), users)
        for (name, metric), (key, one) in zip(flat, kept.items(), strict=True)
    ]
