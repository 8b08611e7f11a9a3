"""The purchases in the histories, and the baskets that they form.

Shapes: N purchases, B baskets, V items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from scipy.sparse import csr_array

from kdlib.data.windows import ragged
from kdlib.store.days import UTC, days_of
from kdlib.store.tables import EVENT_TYPES

COLUMNS = ["user_id", "item_indices", "event_types", "event_times", "session_numbers"]
PURCHASE = EVENT_TYPES.index("purchase")


class Purchases(NamedTuple):
    """Purchases, user after user, each user's oldest first."""

    user_ids: pa.ChunkedArray
    """string [users]: the users with a purchase."""
    users_N: np.ndarray
    """int64, ascending: the number of the purchase's user in `user_ids`."""
    items_N: np.ndarray
    """int64 item indices."""
    days_N: np.ndarray
    """int64, the local dates in days since 1970."""
    sessions_N: np.ndarray
    """int64, the user's session."""


def read_purchases(files: Sequence[str], *, time_zone: str = UTC) -> Purchases:
    """The purchases of all users.

    Args:
      files: Parquet files of `tables.HISTORIES`.
      time_zone: of the days.
    """
    ids, parts, num_users = [], [np.zeros((4, 0), np.int64)], 0
    for batch in pads.dataset(list(files), format="parquet").to_batches(columns=COLUMNS):
        types, offsets = ragged(batch["event_types"])
        bought = np.flatnonzero(types == PURCHASE)
        rows, users = np.unique(np.repeat(np.arange(len(batch)), np.diff(offsets))[bought], return_inverse=True)
        times, sessions = (ragged(batch[name])[0][bought] for name in ("event_times", "session_numbers"))
        days = days_of(times, time_zone).astype(np.int64)
        parts.append(np.stack([users + num_users, ragged(batch["item_indices"])[0][bought], days, sessions]))
        ids.append(batch["user_id"].take(pa.array(rows)))
        num_users += len(rows)
    return Purchases(pa.chunked_array(ids, pa.string()), *np.concatenate(parts, axis=1))


class Baskets(NamedTuple):
    """What was bought together."""

    items_BV: csr_array
    """float32 [baskets, items]: 1 where the basket holds the item."""
    days_B: np.ndarray
    """int64: the day of the basket's last purchase, in days since 1970."""


def baskets_of(purchases: Purchases, *, by_session: bool, num_items: int) -> Baskets:
    """The baskets. A repeated item counts once.

    Args:
      purchases: from `read_purchases`.
      by_session: a basket is what a user buys in one session; else on one day.
      num_items: V.
    """
    part_N = purchases.sessions_N if by_session else purchases.days_N
    _, first, basket_N = np.unique(
        np.stack([purchases.users_N, part_N], axis=1), axis=0, return_index=True, return_inverse=True
    )
    basket_N = basket_N.reshape(-1)
    days_B = np.zeros(len(first), np.int64)
    np.maximum.at(days_B, basket_N, purchases.days_N)
    items_BV = csr_array(
        (np.ones(len(basket_N), np.float32), (basket_N, purchases.items_N)), shape=(len(first), num_items)
    )
    items_BV.sum_duplicates()
    items_BV.data[:] = 1
    return Baskets(items_BV, days_B)
