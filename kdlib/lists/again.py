"""Buy again: what a user has bought before and is due to buy again.

The score of an item i for a user u is about how often a day u will buy i again: owned(u, i) · rate(i) · due(u, i).

- `owned` adds up the user's purchases of the item. A purchase counts half as much for each `OWNED_HALF_LIFE_DAYS` of its
  age.
- `rate` is how often a day the item is bought again, for each owned unit: the repeated purchases of the last days of all
  users, over `owned` of all users. Items with few owners are drawn towards the rate of all items.
- `due` lies between 0 and 1 and asks how long ago the last purchase was, measured in the item's usual gap. The gaps of
  all users give a life table: at each age, how likely a user is to buy again now who has not done so yet. `due` rises
  with this hazard up to its peak, and stays 1 from there on.

Shapes: N purchases, P pairs of a user and an item that the user has bought, V items, E ages of the life table.
"""

import numpy as np

from kdlib.lists.purchases import Purchases
from kdlib.lists.rows import Lists, best_of_each

OWNED_HALF_LIFE_DAYS = 180.0
RATE_HALF_LIFE_DAYS = 14.0
"""Chosen on validation days of a shop, like the others: `tests/benchmarks/README.md`, "Further lists"."""
PRIOR_OWNED = 20.0
"""Owned units of the average item that are added to those of each item."""
PRIOR_GAPS = 10.0
"""Average gaps that are added to those of each item, and waiting time that is added to each age of the life table."""
AGES = np.array([0, 0.05, *np.arange(1, 11) / 10, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, np.inf])
"""Bounds of the life table's ages, in usual gaps of the item."""


def buy_again(purchases: Purchases, *, today: int, allowed_V: np.ndarray, k: int) -> Lists:
    """Each user's k items to buy again, from the allowed items that any user has bought again.

    Purchases of an item by a user on one day count once.

    Args:
      purchases: from `read_purchases`, none after `today`.
      today: the last day of the data, in days since 1970. The lists are for the day after it.
      allowed_V: bool [items]: the item may be in a list.
      k: length of the lists.
    """
    num_items = len(allowed_V)
    rows = np.stack([purchases.users_N, purchases.items_N, purchases.days_N], axis=1)
    users_N, items_N, days_N = np.unique(rows, axis=0).T
    ages_N = today + 1 - days_N
    repeated_N = np.zeros(len(ages_N), bool)
    repeated_N[1:] = (np.diff(users_N) == 0) & (np.diff(items_N) == 0)
    ended_N = np.append(repeated_N, False)[1:]  # the user has bought the item again later
    waits_N = ages_N.astype(np.float64)  # until the item is bought again, or until now
    waits_N[ended_N] -= ages_N[repeated_N]
    users_P, items_P, elapsed_P = users_N[~ended_N], items_N[~ended_N], ages_N[~ended_N]
    owned_P = np.bincount(np.cumsum(~repeated_N) - 1, 0.5 ** (ages_N / OWNED_HALF_LIFE_DAYS))

    bought_again_V = np.bincount(items_N[repeated_N], minlength=num_items) > 0
    rate_V = _rates(items_N[repeated_N], ages_N[repeated_N], np.bincount(items_P, owned_P, minlength=num_items))
    usual_V = _usual_gaps(items_N[ended_N], waits_N[ended_N], num_items)
    due_E = due_by_age(waits_N / usual_V[items_N], ended_N)

    due_P = due_E[_age_of(elapsed_P / usual_V[items_P])]
    chosen = (allowed_V & bought_again_V)[items_P]
    scores_P = owned_P * rate_V[items_P] * due_P
    return best_of_each(users_P[chosen], items_P[chosen], scores_P[chosen], k=k)


def _rates(items_N: np.ndarray, ages_N: np.ndarray, owned_V: np.ndarray) -> np.ndarray:
    """Repeated purchases a day for each owned unit, float64 [items]."""
    weights_N = 0.5 ** (ages_N / RATE_HALF_LIFE_DAYS) * np.log(2) / RATE_HALF_LIFE_DAYS
    again_V = np.bincount(items_N, weights_N, minlength=len(owned_V))
    mean = again_V.sum() / max(owned_V.sum(), 1e-30)
    return (again_V + PRIOR_OWNED * mean) / (owned_V + PRIOR_OWNED)


def _usual_gaps(items_N: np.ndarray, gaps_N: np.ndarray, num_items: int) -> np.ndarray:
    """The geometric mean of each item's gaps in days, drawn towards the mean of all items: float64 [items]."""
    logs_N = np.log(gaps_N)
    mean = logs_N.mean() if len(logs_N) else 0.0
    sums_V = np.bincount(items_N, logs_N, minlength=num_items)
    return np.exp((sums_V + PRIOR_GAPS * mean) / (np.bincount(items_N, minlength=num_items) + PRIOR_GAPS))


def due_by_age(waits_N: np.ndarray, ended_N: np.ndarray) -> np.ndarray:
    """How due an item is at each age: the hazard of buying it again, as a share of its peak, and 1 from the peak on.

    Args:
      waits_N: float, time from a purchase to the next one or until now, in usual gaps.
      ended_N: bool, true where the wait ended with a purchase.

    Returns:
      float64 [ages of `AGES`].
    """
    num_ages = len(AGES) - 1
    age_N = _age_of(waits_N)
    ended_E = np.bincount(age_N[ended_N], minlength=num_ages)
    longer_E = len(age_N) - np.cumsum(np.bincount(age_N, minlength=num_ages))
    waited_E = np.bincount(age_N, waits_N - AGES[age_N], minlength=num_ages)
    waited_E = waited_E + longer_E * np.append(np.diff(AGES)[:-1], 0)  # nothing waits longer than the last age
    mean = max(ended_E.sum(), 1) / max(waited_E.sum(), 1e-30)
    hazard_E = (ended_E + PRIOR_GAPS * mean) / (waited_E + PRIOR_GAPS)
    return np.maximum.accumulate(hazard_E) / hazard_E.max()


def _age_of(waits: np.ndarray) -> np.ndarray:
    return np.searchsorted(AGES, waits, side="right") - 1
