"""Purchases and baskets on five handwritten users."""

import numpy as np
import pytest

from kdlib.lists.purchases import baskets_of, read_purchases
from tests.lists.histories import FIRST, write

USERS = {
    "a": [(4, "purchase", 0.5, 0), (2, "view", 0.6, 0), (2, "purchase", 0.9, 1), (4, "purchase", 0.95, 1)],
    "b": [(1, "view", 0.1, 0)],
    "c": [],
    "d": [(3, "purchase", 1.99, 5), (3, "purchase", 1.999, 5), (0, "purchase", 2.001, 5)],
    "e": [(1, "purchase", 2.5, 0)],
}


@pytest.fixture
def purchases(tmp_path):
    return read_purchases(write(tmp_path, USERS))


def held(baskets):
    return sorted(
        (sorted(np.flatnonzero(row).tolist()), int(day))
        for row, day in zip(baskets.items_BV.toarray(), baskets.days_B - FIRST, strict=True)
    )


def test_purchases_of_all_files(purchases):
    """Other events and users without a purchase are left out, and users are numbered through all files."""
    assert purchases.user_ids.to_pylist() == ["a", "d", "e"]
    assert purchases.users_N.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert purchases.items_N.tolist() == [4, 2, 4, 3, 3, 0, 1]
    assert (purchases.days_N - FIRST).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert purchases.sessions_N.tolist() == [0, 1, 1, 5, 5, 5, 0]


def test_a_basket_is_a_session(purchases):
    """A session over midnight is one basket of its last day, and a repeated item counts once."""
    baskets = baskets_of(purchases, by_session=True, num_items=6)
    assert held(baskets) == [([0, 3], 2), ([1], 2), ([2, 4], 0), ([4], 0)]
    assert set(baskets.items_BV.data) == {1.0}


def test_a_basket_is_a_day(purchases):
    """Two sessions of one day are one basket."""
    baskets = baskets_of(purchases, by_session=False, num_items=6)
    assert held(baskets) == [([0], 2), ([1], 2), ([2, 4], 0), ([3], 1)]


def test_days_are_those_of_the_time_zone(tmp_path):
    """A purchase belongs to the local date: half an hour before midnight UTC is the next day in Berlin."""
    purchases = read_purchases(
        write(tmp_path, {"a": [(1, "purchase", 0.95, 0), (2, "purchase", 0.96, 0)]}), time_zone="Europe/Berlin"
    )
    assert (purchases.days_N - FIRST).tolist() == [0, 1]


def test_nobody_buys(tmp_path):
    """Without purchases there are no users and no baskets."""
    purchases = read_purchases(write(tmp_path, {"a": [(0, "view", 0, 0)], "b": []}))
    assert len(purchases.user_ids) == 0
    assert baskets_of(purchases, by_session=True, num_items=3).items_BV.shape == (0, 3)
