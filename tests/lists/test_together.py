"""Bought together against its formula, one pair after the other."""

import numpy as np
import pytest

from kdlib.lists import together
from kdlib.lists.purchases import baskets_of, read_purchases
from kdlib.lists.together import HALF_LIFE_DAYS, POPULARITY_POWER, bought_together
from tests.lists.histories import FIRST, random_users, write

NUM_ITEMS = 12
TODAY = FIRST + 29


def by_formula(users, allowed, k):
    """Item → its companions and scores, from the definition."""
    baskets: dict[tuple[str, int], set[int]] = {}
    for user, events in users.items():
        for item, kind, time, _ in events:
            if kind == "purchase":
                baskets.setdefault((user, int(time)), set()).add(item)
    weights = {key: 0.5 ** ((29 - key[1]) / HALF_LIFE_DAYS) / len(items) ** 0.5 for key, items in baskets.items()}

    def total(*wanted):
        return sum(weights[key] for key, items in baskets.items() if items.issuperset(wanted))

    found = {}
    for item in range(NUM_ITEMS):
        scores = {
            other: total(item, other) / (total(item) * total(other) ** POPULARITY_POWER)
            for other in range(NUM_ITEMS)
            if other != item and allowed[other] and total(item, other)
        }
        if scores:
            found[item] = sorted(scores.items(), key=lambda pair: (-round(pair[1], 6), pair[0]))[:k]
    return found


def as_lists(lists):
    found: dict[int, list[tuple[int, float]]] = {}
    for owner, item, score in zip(*lists, strict=True):
        found.setdefault(int(owner), []).append((int(item), float(score)))
    return found


@pytest.mark.parametrize("items_at_a_time", [3, 4096])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(tmp_path, monkeypatch, seed, items_at_a_time):
    """Companions, order and scores are those of the formula, in any blocks, with items that may be in no list."""
    monkeypatch.setattr(together, "ITEMS", items_at_a_time)
    users, allowed = random_users(seed), np.arange(NUM_ITEMS) % 5 != 1
    baskets = baskets_of(read_purchases(write(tmp_path, users)), by_session=True, num_items=NUM_ITEMS)
    found = as_lists(bought_together(baskets, today=TODAY, allowed_V=allowed, k=4))
    expected = by_formula(users, allowed, 4)
    assert found.keys() == expected.keys()
    for item, companions in expected.items():
        assert [one for one, _ in found[item]] == [one for one, _ in companions]
        np.testing.assert_allclose([s for _, s in found[item]], [s for _, s in companions], rtol=1e-5)


def test_an_item_bought_alone_has_no_list(tmp_path):
    """An item that was only bought alone has no list, and is in none."""
    users = {"a": [(0, "purchase", 1, 0), (1, "purchase", 1, 0)], "b": [(2, "purchase", 1, 0)]}
    baskets = baskets_of(read_purchases(write(tmp_path, users)), by_session=True, num_items=NUM_ITEMS)
    lists = bought_together(baskets, today=TODAY, allowed_V=np.ones(NUM_ITEMS, bool), k=20)
    assert (lists.owners_N.tolist(), lists.items_N.tolist()) == ([0, 1], [1, 0])


def test_no_purchases_give_no_lists(tmp_path):
    """Without purchases no item has a list."""
    baskets = baskets_of(read_purchases(write(tmp_path, {"a": []})), by_session=True, num_items=NUM_ITEMS)
    assert not len(bought_together(baskets, today=TODAY, allowed_V=np.ones(NUM_ITEMS, bool), k=5).items_N)
