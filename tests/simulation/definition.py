"""The hidden model's probabilities as the docstring of `kdlib.simulation.world` defines them, for the tests.

This module uses only the world's arrays and constants, none of its methods. Letters: M items, C categories, T tastes.
"""

from functools import cache

import numpy as np

from kdlib.simulation.steps import BOUGHT, CARTED, VIEWED, Steps
from kdlib.simulation.world import (
    AFFINITIES,
    CART,
    CART_BY_PRICE,
    COMPLEMENT,
    COMPLEMENT_WEIGHTS,
    PURCHASE,
    PURCHASE_BY_BRAND,
    RELATED,
    World,
)


def matches(world: World, feature: int) -> np.ndarray:
    """bool [T, M]: the item has the value of a feature that the taste prefers."""
    return world.tastes[:, None, feature] == world.features[None, :, feature]


@cache
def affinities(world: World) -> np.ndarray:
    """float64 [T, M]: the product of the factors of all matching features."""
    result = np.ones((len(world.tastes), world.num_items))
    for feature, factor in enumerate(AFFINITIES):
        result[matches(world, feature)] *= factor**world.taste_strength
    return result


@cache
def outcome_chances(world: World) -> np.ndarray:
    """float64 [3, T, M]: P(outcome | item, taste)."""
    by_price = np.where(matches(world, 3), CART_BY_PRICE[1], CART_BY_PRICE[0]) ** world.taste_strength
    by_brand = np.where(matches(world, 0), PURCHASE_BY_BRAND[1], PURCHASE_BY_BRAND[0]) ** world.taste_strength
    carted, bought_of_carted = CART * world.appeal * by_price, PURCHASE * by_brand
    result = np.empty((3, *carted.shape))
    result[VIEWED], result[CARTED] = 1 - carted, carted * (1 - bought_of_carted)
    result[BOUGHT] = carted * bought_of_carted
    return result


@cache
def category_chances(world: World, intent: int, previous: int) -> np.ndarray:
    """float64 [C]: P(category | intent, the item before in the session).

    A previous item of −1: a session's first step.
    """
    own = np.zeros(len(world.first_items))
    for category, weight in zip(world.intent_categories[intent], world.intent_weights[intent], strict=True):
        own[category] += weight
    if previous < 0:
        return own
    result = (1 - COMPLEMENT) * own
    for category, weight in zip(world.complements[world.categories[previous]], COMPLEMENT_WEIGHTS, strict=True):
        result[category] += COMPLEMENT * weight
    return result


@cache
def item_chances(world: World, category: int, previous: int, owned: int, day: int) -> np.ndarray:
    """float64 [T, M]: P(item | category, taste, the item before, the owned item, day). An item of −1: none."""
    launched = (world.categories == category) & (world.launch_days <= day)
    weights = np.where(launched, np.diff(world.cumulative_weights), 0.0)
    gained = weights.copy()
    if previous >= 0:
        gained[world.related[previous]] += RELATED * weights.sum()
        gained[previous] = 0.0
    if owned >= 0:
        gained[owned] = 0.0
    shares = np.where(launched, gained, 0.0) * affinities(world)
    return shares / shares.sum(axis=1, keepdims=True)


def owned_before(world: World, steps: Steps) -> np.ndarray:
    """int64, for each step: the consumable that the user bought last; −1: none."""
    found, owned, user = np.full(len(steps.items), -1), -1, -1
    for step in range(len(steps.items)):
        owned, user = (owned if steps.users[step] == user else -1), int(steps.users[step])
        found[step] = owned
        item = int(steps.items[step])
        if steps.outcomes[step] == BOUGHT and world.is_consumable[world.categories[item]]:
            owned = item
    return found


def session_openings(steps: Steps) -> np.ndarray:
    """bool, for each step: it is the first step of its session."""
    return (np.diff(steps.users, prepend=-1) != 0) | (np.diff(steps.sessions, prepend=-1) != 0)
