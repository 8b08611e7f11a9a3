"""Draws a world: categories, items and their features, intents, types. Letters as in `kdlib.simulation.world`."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kdlib.simulation.names import ADJECTIVES, BRAND_FAMILIES, BRANDS, COLOURS, STYLES
from kdlib.simulation.world import (
    CATEGORY_WEIGHTS,
    COMPLEMENT_WEIGHTS,
    FEATURE_VALUES,
    INTENT_WEIGHTS,
    MIN_CATEGORIES,
    MIN_ITEMS_PER_CATEGORY,
    MIN_TYPES,
    PRICE_RANGES,
    PRICE_SPREAD,
    SUBSTITUTES,
    World,
)


@lru_cache(maxsize=1)
def build_world(
    *,
    num_items: int,
    num_days: int,
    new_items_per_day: int,
    seed: int,
    items_per_category: int = 24,
    popularity_exponent: float = 0.6,
    taste_strength: float = 1.0,
    consumable_fraction: float = 0.15,
) -> World:
    """The world of these values. The same values give the same world on every machine.

    Args:
      num_items: items that exist from the first day on.
      num_days: length of the period.
      new_items_per_day: items launched on each day after the first.
      seed: seed of the random numbers.
      items_per_category: mean number of items, launched items not counted.
      popularity_exponent: exponent of the Zipf weights within a category.
      taste_strength: exponent of all taste factors; 0: tastes have no effect.
      consumable_fraction: share of the categories that are consumable.

    Raises:
      ValueError: too few items for 8 categories of 4.
    """
    _check_size(num_items, items_per_category)
    rng = np.random.default_rng([seed, 0])
    num_categories = max(MIN_CATEGORIES, num_items // items_per_category)
    items = _items(rng, num_items, num_categories, num_days, new_items_per_day)
    total = len(items.categories)
    weights = (1.0 + items.ranks) ** -popularity_exponent
    intent_categories, intent_weights = _intents(rng, num_categories)
    num_types = max(MIN_TYPES, -(-3 * len(intent_categories) // 10))
    type_intents = _rows_of_permutations(rng, num_types, len(INTENT_WEIGHTS), len(intent_categories))
    shares = (1.0 + np.arange(num_types)) ** -0.3
    complements = _complements(rng, num_categories)
    brands, adjectives = rng.integers(0, len(BRANDS), total), rng.integers(0, len(ADJECTIVES), total)
    colours = rng.integers(0, sum(map(len, COLOURS)), total)
    category_prices, log_prices = np.exp(rng.normal(3.3, 0.8, num_categories)), rng.normal(0.0, PRICE_SPREAD, total)
    codes = rng.permutation(total)
    of_family, of_style, of_shade = (len(groups[0]) for groups in (BRAND_FAMILIES, STYLES, COLOURS))
    price_ranges = np.searchsorted(PRICE_RANGES, log_prices)
    return World(
        num_days=num_days,
        taste_strength=taste_strength,
        categories=items.categories,
        launch_days=items.launch_days,
        cumulative_weights=np.concatenate([[0.0], weights.cumsum()]),
        first_items=items.first,
        end_items=items.end,
        related=_related(rng, items, complements),
        complements=complements,
        is_consumable=rng.permutation(num_categories) < round(consumable_fraction * num_categories),
        intent_categories=intent_categories,
        intent_weights=intent_weights,
        type_intents=type_intents,
        type_shares=shares / shares.sum(),
        tastes=np.stack(np.unravel_index(np.arange(np.prod(FEATURE_VALUES)), FEATURE_VALUES), axis=1),
        features=np.stack([brands // of_family, adjectives // of_style, colours // of_shade, price_ranges], axis=1),
        appeal=rng.uniform(0.5, 1.5, total),
        brands=brands,
        adjectives=adjectives,
        colours=colours,
        prices=np.round(category_prices[items.categories] * np.exp(log_prices) + 0.99, 2),
        codes=codes,
        numbers=np.argsort(codes),
    )


def _check_size(num_items: int, items_per_category: int) -> None:
    if num_items < MIN_CATEGORIES * MIN_ITEMS_PER_CATEGORY or items_per_category < MIN_ITEMS_PER_CATEGORY:
        raise ValueError(
            f"a world needs at least {MIN_CATEGORIES * MIN_ITEMS_PER_CATEGORY} items, {MIN_ITEMS_PER_CATEGORY} a"
            f" category; found num_items {num_items}, items_per_category {items_per_category}"
        )


class _Items(NamedTuple):
    """The items, sorted by category, then by launch day."""

    categories: np.ndarray
    launch_days: np.ndarray
    ranks: np.ndarray
    """int64 [M], the popularity rank within the category, from 0."""
    first: np.ndarray
    end: np.ndarray
    """int64 [C, D], as in `World`."""


def _items(
    rng: np.random.Generator, num_items: int, num_categories: int, num_days: int, new_items_per_day: int
) -> _Items:
    num_new = new_items_per_day * (num_days - 1)
    launch_days = np.concatenate(
        [-rng.integers(0, 365, num_items), 1 + np.arange(num_new) // max(new_items_per_day, 1)]
    )
    categories = np.concatenate([rng.permutation(num_items) % num_categories, rng.integers(0, num_categories, num_new)])
    order = np.lexsort((launch_days, categories))
    launch_days, categories = launch_days[order], categories[order]
    total = num_items + num_new
    first = np.searchsorted(categories, np.arange(num_categories))
    shuffled = np.lexsort((rng.random(total), categories))  # within each category
    ranks = np.empty(total, np.int64)
    ranks[shuffled] = np.arange(total) - first[categories]
    launched = np.zeros((num_categories, num_days), np.int64)
    np.add.at(launched, (categories, np.maximum(launch_days, 0)), 1)
    return _Items(categories, launch_days, ranks, first, first[:, None] + launched.cumsum(axis=1))


def _intents(rng: np.random.Generator, num_categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Categories [G, J] and weights [G, J] of the intents.

    Each category is the main one of some intent. An intent's other categories are near its main one.
    """
    num_intents = max(num_categories, MIN_TYPES)
    width = len(CATEGORY_WEIGHTS)
    main = np.arange(num_intents) % num_categories
    steps = np.argsort(rng.random((num_intents, 7)), axis=1)[:, : width - 1]  # 0…6 → −3…4 without 0
    near = np.where(steps < 3, steps - 3, steps - 2)
    categories = np.concatenate([main[:, None], (main[:, None] + near) % num_categories], axis=1)
    counts = rng.integers(2, width + 1, num_intents)
    weights = np.where(np.arange(width) < counts[:, None], CATEGORY_WEIGHTS, 0.0)
    return categories, weights / weights.sum(axis=1, keepdims=True)


def _rows_of_permutations(rng: np.random.Generator, rows: int, width: int, size: int) -> np.ndarray:
    """[rows, width] numbers below `size`: distinct in a row, and each used about equally often."""
    needed = -(-rows // (size // width))
    return np.concatenate([rng.permutation(size)[: size // width * width].reshape(-1, width) for _ in range(needed)])[
        :rows
    ]


def _complements(rng: np.random.Generator, num_categories: int) -> np.ndarray:
    """[C, Q]: distinct other categories, near or far."""
    width = len(COMPLEMENT_WEIGHTS)
    distances = 1 + np.argsort(rng.random((num_categories, num_categories - 1)), axis=1)[:, :width]
    return (np.arange(num_categories)[:, None] + distances) % num_categories


def _related(rng: np.random.Generator, items: _Items, complements: np.ndarray) -> np.ndarray:
    """[M, S]: `SUBSTITUTES` items of the item's category and one item of each complement, launched no later than the
    item."""
    categories, total = items.categories, len(items.categories)
    groups = np.concatenate([np.repeat(categories[:, None], SUBSTITUTES, axis=1), complements[categories]], axis=1)
    related = np.empty(groups.shape, np.int64)
    days = np.maximum(items.launch_days, 0)
    for column in range(groups.shape[1]):
        open_items = np.arange(total)
        while len(open_items):
            of_item = groups[open_items, column]
            low, high = items.first[of_item], items.end[of_item, days[open_items]]
            drawn = low + (rng.random(len(open_items)) * (high - low)).astype(np.int64)
            related[open_items, column] = drawn
            taken = (drawn == open_items) | (related[open_items, :column] == drawn[:, None]).any(axis=1)
            open_items = open_items[taken]
    return related
