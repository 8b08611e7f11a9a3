"""Buy again against its formula, one pair after the other, and its laws."""

import math
from itertools import pairwise

import numpy as np
import pytest

from kdlib.lists import again
from kdlib.lists.again import AGES, buy_again, due_by_age
from kdlib.lists.purchases import read_purchases
from tests.lists.histories import FIRST, random_users, write
from tests.lists.test_together import as_lists

NUM_ITEMS = 12
LAST_DAY = 29


def days_of(users):
    """(user, item) → the days of its purchases."""
    days: dict[tuple[str, int], list[int]] = {}
    for user, events in users.items():
        for item, kind, time, _ in events:
            if kind == "purchase" and int(time) not in days.setdefault((user, item), []):
                days[user, item].append(int(time))
    return days


def by_formula(users):
    """(user, item) → score, for items that anybody has bought again."""
    days, tomorrow = days_of(users), LAST_DAY + 1
    owned = {
        pair: sum(0.5 ** ((tomorrow - day) / again.OWNED_HALF_LIFE_DAYS) for day in of) for pair, of in days.items()
    }
    repeats = [(item, day) for (_, item), of in days.items() for day in of[1:]]
    gaps = [(item, b - a) for (_, item), of in days.items() for a, b in pairwise(of)]
    weight = {
        day: 0.5 ** ((tomorrow - day) / again.RATE_HALF_LIFE_DAYS) * math.log(2) / again.RATE_HALF_LIFE_DAYS
        for day in range(tomorrow)
    }
    mean_rate = sum(weight[day] for _, day in repeats) / sum(owned.values())
    mean_log = sum(math.log(gap) for _, gap in gaps) / len(gaps)

    def rate(item):
        now = sum(weight[day] for one, day in repeats if one == item)
        all_owned = sum(value for (_, one), value in owned.items() if one == item)
        return (now + again.PRIOR_OWNED * mean_rate) / (all_owned + again.PRIOR_OWNED)

    def usual(item):
        own = [math.log(gap) for one, gap in gaps if one == item]
        return math.exp((sum(own) + again.PRIOR_GAPS * mean_log) / (len(own) + again.PRIOR_GAPS))

    waits = [(gap / usual(item), True) for item, gap in gaps]
    waits += [((tomorrow - of[-1]) / usual(item), False) for (_, item), of in days.items()]
    due = due_by_age(np.array([wait for wait, _ in waits]), np.array([ended for _, ended in waits]))
    return {
        (user, item): owned[user, item]
        * rate(item)
        * due[sum(age <= (tomorrow - of[-1]) / usual(item) for age in AGES) - 1]
        for (user, item), of in days.items()
        if any(item == one for one, _ in repeats)
    }


def lists_of(tmp_path, users, *, allowed=None, k=3):
    purchases = read_purchases(write(tmp_path, users))
    allowed = np.ones(NUM_ITEMS, bool) if allowed is None else allowed
    lists = as_lists(buy_again(purchases, today=FIRST + LAST_DAY, allowed_V=allowed, k=k))
    return {purchases.user_ids[owner].as_py(): pairs for owner, pairs in lists.items()}


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_formula(tmp_path, seed):
    """Each user has the allowed bought items with the highest scores of the formula."""
    users, allowed = random_users(seed), np.arange(NUM_ITEMS) % 5 != 1
    expected: dict[str, list[tuple[int, float]]] = {}
    for (user, item), score in by_formula(users).items():
        if allowed[item]:
            expected.setdefault(user, []).append((item, score))
    found = lists_of(tmp_path, users, allowed=allowed)
    assert found.keys() == expected.keys()
    for user, pairs in expected.items():
        best = sorted(pairs, key=lambda pair: (-round(pair[1], 9), pair[0]))[:3]
        assert [item for item, _ in found[user]] == [item for item, _ in best]
        np.testing.assert_allclose([s for _, s in found[user]], [s for _, s in best], rtol=1e-5)


def test_the_life_table_by_hand():
    """The hazard at an age is the purchases at this age over the time waited at this age, drawn to the mean."""
    waits, ended = np.array([0.02, 1.04, 1.04, 7.0]), np.array([True, True, True, False])
    waited = dict.fromkeys(range(len(AGES) - 1), 0.0)
    for wait in waits:
        for age in waited:
            waited[age] += min(max(wait - AGES[age], 0), AGES[age + 1] - AGES[age])
    mean = 3 / sum(waited.values())
    events = [int(((waits >= AGES[age]) & (waits < AGES[age + 1]) & ended).sum()) for age in waited]
    hazard = np.array([(events[age] + 10 * mean) / (waited[age] + 10) for age in waited])
    assert sum(events) == 3
    np.testing.assert_allclose(due_by_age(waits, ended), np.maximum.accumulate(hazard) / hazard.max())


def test_a_just_bought_item_is_not_due(tmp_path):
    """Where everybody buys an item each week, an owner of last week comes before an owner of yesterday."""
    weekly = {
        f"w{n:03}": [(item, "purchase", day, day) for day in (1, 8, 15, 22) for item in (0, 1)] for n in range(60)
    }
    one = {"one": [(1, "purchase", 22, 0), (0, "purchase", 29, 1)]}
    assert [item for item, _ in lists_of(tmp_path, weekly | one)["one"]] == [1, 0]


def test_an_item_that_nobody_buys_again_is_in_no_list(tmp_path):
    """A user who owns only such items has no list."""
    users = {"a": [(0, "purchase", 1, 0), (0, "purchase", 5, 1), (1, "purchase", 6, 2)], "b": [(1, "purchase", 6, 0)]}
    found = lists_of(tmp_path, users)
    assert {user: [item for item, _ in pairs] for user, pairs in found.items()} == {"a": [0]}


@pytest.mark.parametrize("events", [[], [(0, "view", 1, 0)], [(0, "purchase", 1, 0)]])
def test_nothing_was_bought_again(tmp_path, events):
    """Without repeated purchases nobody has a list."""
    assert lists_of(tmp_path, {"a": events, "b": []}) == {}
