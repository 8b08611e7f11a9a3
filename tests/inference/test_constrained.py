"""Lists under rules, compared with a list that is made item by item."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.inference.constrained import lists_under_rules
from kdlib.inference.list_rules import ListRules
from kdlib.inference.topk import exact_topk


def one_by_one(scores, rules, seen, k):
    """The list of one row by the definition: items, and whether each is pinned."""
    allowed = [i for i in range(len(scores)) if bool(rules.allowed_V[i]) and i not in seen]
    best = sorted(allowed, key=lambda item: (-scores[item], item))
    new = set() if rules.new_items is None else set(rules.new_items.tolist())
    chosen, places = [], {}

    def fits(item):
        for codes, most in rules.caps:
            for code in {c for c in codes[item].tolist() if c >= 0}:
                if sum(code in codes[other].tolist() for other in chosen) >= most:
                    return False
        return item not in chosen

    for place, item in rules.pins:
        if item not in seen and len(chosen) < k:
            chosen.append(item)
            places[item] = place
    for pool, enough in (
        ([i for i in best if i in new], lambda: sum(i in new for i in chosen) >= rules.least_new),
        (best, lambda: False),
    ):
        for item in pool:
            if enough() or len(chosen) == k:
                break
            if fits(item):
                chosen.append(item)
    result = sorted((i for i in chosen if i not in places), key=lambda item: (-scores[item], item))
    for item, place in sorted(places.items(), key=lambda pair: pair[1]):
        result.insert(place - 1, item)
    return result, [item in places for item in result]


@st.composite
def cases(draw):
    num_items, k, rows = draw(st.integers(1, 90)), draw(st.integers(1, 8)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    allowed = rng.random(num_items) < draw(st.sampled_from([0.1, 0.6, 1.0]))
    caps = tuple(
        (rng.integers(-1, draw(st.integers(1, 6)), (num_items, width)).astype(np.int32), draw(st.integers(1, 3)))
        for width in draw(st.sampled_from([(), (1,), (1, 3)]))
    )
    new, least = None, 0
    if draw(st.booleans()):
        new, least = np.flatnonzero((rng.random(num_items) < 0.2) & allowed), draw(st.integers(1, k))
    there = np.flatnonzero(allowed)
    count = min(draw(st.integers(0, 3)), len(there), k)
    places = sorted(rng.choice(np.arange(1, k + 1), count, replace=False).tolist())
    pins = tuple(zip(places, rng.choice(there, count, replace=False).tolist(), strict=True)) if count else ()
    boosts = torch.from_numpy(rng.normal(size=num_items).astype(np.float32)) if draw(st.booleans()) else None
    rules = ListRules(torch.from_numpy(allowed), boosts, caps, new, least, pins)
    # few different values, so that scores tie
    hidden, weight = (torch.from_numpy(rng.integers(-2, 3, (n, 3)).astype(np.float32)) for n in (rows, num_items))
    seen = [rng.integers(0, num_items + 3, rng.integers(0, 6)) for _ in range(rows)]
    return hidden, weight, rules, seen, k


@given(cases())
@settings(max_examples=150, deadline=None)
def test_the_lists_are_those_of_the_definition(case):
    """Caps, reserved places for new items, pins, boosts and exclusions give the list that is built item by item."""
    hidden, weight, rules, seen, k = case
    offsets = torch.tensor([0, *itertools.accumulate(map(len, seen))])
    lists = lists_under_rules(
        hidden,
        weight,
        None,
        rules,
        k=k,
        item_block=64,
        excluded=(torch.from_numpy(np.concatenate(seen).astype(np.int64)), offsets),
    )
    logits = hidden @ weight.T + (0 if rules.boosts_V is None else rules.boosts_V)
    for row, theirs in enumerate(seen):
        expected, pinned = one_by_one(logits[row].tolist(), rules, set(theirs.tolist()), k)
        length = len(expected)
        assert lists.items[row].tolist() == expected + [-1] * (k - length)
        assert lists.pinned[row].tolist() == pinned + [False] * (k - length)
        assert lists.scores[row, :length].tolist() == [logits[row, item].item() for item in expected]
        assert lists.scores[row, length:].tolist() == [-math.inf] * (k - length)


def test_without_rules_the_list_is_the_exact_topk():
    """Rules that only name the allowed items give the scores and items of `exact_topk`, bit for bit."""
    torch.manual_seed(1)
    hidden, weight, allowed = torch.randn(6, 8), torch.randn(500, 8), torch.rand(500) < 0.7
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(7, dtype=torch.int64)
    lists = lists_under_rules(hidden, weight, None, ListRules(allowed), k=10, item_block=128, excluded=nothing)
    scores, items = exact_topk(hidden, weight, k=10, item_block=128, allowed_V=allowed)
    assert torch.equal(lists.scores, scores)
    assert torch.equal(lists.items, items)
    assert not lists.pinned.any()


def test_a_hard_cap_looks_at_all_items():
    """If nearly all items share a value, the search goes on until the list is full."""
    weight = torch.arange(3000, 0, -1).float()[:, None]
    codes = np.zeros((3000, 1), np.int32)
    codes[[2500, 2999]] = [[1], [2]]
    rules = ListRules(torch.ones(3000, dtype=torch.bool), caps=((codes, 1),))
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    lists = lists_under_rules(torch.ones(1, 1), weight, None, rules, k=4, item_block=512, excluded=nothing)
    assert lists.items[0].tolist() == [0, 2500, 2999, -1]


@pytest.mark.parametrize("event_type", range(4))
def test_how_long_an_interaction_hides_its_item(event_type):
    """An interaction hides its item for as many days as its type has, not at all with 0, and always with infinity."""
    rules = ListRules(torch.ones(1, dtype=torch.bool), seen_days=(0.0, 7.0, 30.0, math.inf))
    ages = np.array([0.0, 6.99, 7.0, 29.99, 30.0, 9999.0])
    expected = [[0] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1] * 6][event_type]
    assert rules.hides(np.full(6, event_type), ages).tolist() == [bool(one) for one in expected]
