"""The hidden Markov model behind the simulated clickstream.

A user has one *type*, a type is a sparse mix of *intents*, an intent is a mix of 2–4 neighbouring *categories*, and in
a category the launched items are drawn by Zipf weights:

    P(item | intent, day) = Σ_categories P(category | intent) · weight(item) / Σ weights of those launched by that day
    P(item | intent, previous item of the session, day)
        ∝ FOLLOW · P(item | successors of previous) + (1 − FOLLOW) · P(item | intent, day),  item ≠ previous

At a session's first item the intent is drawn anew with probability 1 − RESUME, at any other with probability SHIFT; the
first item does not depend on the item before it.

Letters: M items, C categories, G intents, Z types, K intents of a type, J categories of an intent, S successors,
D days.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from kdlib.errors import InputError
from kdlib.simulation.words import ADJECTIVES, BRANDS, category_names

RESUME = 0.5
"""Probability that a session goes on with the intent of the user's session before."""
SHIFT = 0.05
"""Probability of a newly drawn intent before each further item of a session."""
FOLLOW = 0.3
"""Probability that an item is a successor of the one before it."""
ZIPF_EXPONENT = 1.25
SUCCESSOR_WEIGHTS = np.array([0.36, 0.26, 0.18, 0.12, 0.08])
INTENT_WEIGHTS = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
"""A type's probabilities of its intents."""
CATEGORY_WEIGHTS = np.array([0.55, 0.3, 0.1, 0.05])
"""An intent's weights of its categories, main one first; intents with fewer categories scale theirs up."""
UNAVAILABLE_FRACTION = 0.02
ITEMS_PER_CATEGORY = 50
MIN_CATEGORIES = 8
MIN_TYPES = 12
ITEM_DIGITS = 8


@dataclass(frozen=True, eq=False)
class World:
    """Everything that does not depend on the users; days count from 0, the period's first.

    Item numbers are sorted by category, then by launch day, so that the launched items of a category are one range.
    """

    num_days: int
    categories: np.ndarray
    """int64 [M], the item's category."""
    launch_days: np.ndarray
    """int64 [M]; 0 and below: there from the start."""
    cumulative_weights: np.ndarray
    """float64 [M + 1], running sum of the Zipf weights."""
    first_items: np.ndarray
    """int64 [C], the first item number of a category."""
    end_items: np.ndarray
    """int64 [C, D], one past the last item that is launched by the day."""
    successors: np.ndarray
    """int64 [M, S], drawn with `SUCCESSOR_WEIGHTS`; distinct, never the item itself, launched when it is."""
    intent_categories: np.ndarray
    """int64 [G, J]"""
    intent_weights: np.ndarray
    """float64 [G, J], rows sum to 1; 0 where an intent has fewer categories."""
    type_intents: np.ndarray
    """int64 [Z, K], drawn with `INTENT_WEIGHTS`."""
    type_shares: np.ndarray
    """float64 [Z], the share of users of each type."""
    prices: np.ndarray
    """float64 [M], currency units with two decimals."""
    codes: np.ndarray
    """int64 [M], the shuffled number in an item's id, so that ids tell nothing."""
    numbers: np.ndarray
    """int64 [M], the inverse: code → item number."""

    @property
    def num_items(self) -> int:
        """Number of items of the whole period, those launched in it included."""
        return len(self.categories)

    def item_id_of(self, number: int) -> str:
        """The shop's id of an item number."""
        return f"i{self.codes[number]:0{ITEM_DIGITS}d}"

    def number_of(self, item_id: str) -> int:
        """The item number of an id of this world.

        Raises:
          InputError: the id is not one of this world's.
        """
        digits = item_id.removeprefix("i")
        known = digits.isdecimal() and int(digits) < self.num_items
        number = int(self.numbers[int(digits)]) if known else 0
        if not known or self.item_id_of(number) != item_id:
            raise InputError(
                f"no item {item_id!r} in this simulated world; it has {self.num_items} items, "
                f"such as {self.item_id_of(0)}"
            )
        return number

    def item_ids(self) -> list[str]:
        """All ids in the order of the item numbers."""
        return [f"i{code:0{ITEM_DIGITS}d}" for code in self.codes.tolist()]

    def weights_in_category(self, items: np.ndarray, days: np.ndarray | int) -> np.ndarray:
        """P(item | its category, day), float64 of the items' shape; 0 for items not launched by the day."""
        groups = self.categories[items]
        sums = self.cumulative_weights
        totals = sums[self.end_items[groups, days]] - sums[self.first_items[groups]]
        weights = sums[items + 1] - sums[items]
        return np.where(self.launch_days[items] <= days, weights / totals, 0.0)


@lru_cache(maxsize=1)
def build_world(*, num_items: int, num_days: int, new_items_per_day: int, seed: int) -> World:
    """The world of these four values; the same values give the same world on every machine.

    Args:
      num_items: items that are there from the first day on; at least 16.
      num_days: length of the period.
      new_items_per_day: items launched on each day but the first.
      seed: of the random numbers.
    """
    if num_items < 2 * MIN_CATEGORIES:
        raise ValueError(f"a world needs at least {2 * MIN_CATEGORIES} items, found num_items {num_items}")
    rng = np.random.default_rng([seed, 0])
    num_categories = max(MIN_CATEGORIES, num_items // ITEMS_PER_CATEGORY)
    num_new = new_items_per_day * (num_days - 1)
    launch_days = np.concatenate(
        [-rng.integers(0, 365, num_items), 1 + np.arange(num_new) // max(new_items_per_day, 1)]
    )
    categories = np.concatenate([rng.permutation(num_items) % num_categories, rng.integers(0, num_categories, num_new)])
    order = np.lexsort((launch_days, categories))
    launch_days, categories = launch_days[order], categories[order]
    total = num_items + num_new
    first_items = np.searchsorted(categories, np.arange(num_categories))
    sizes = np.bincount(categories, minlength=num_categories)
    shuffled = np.lexsort((rng.random(total), categories))  # within each category
    ranks = np.empty(total, np.int64)
    ranks[shuffled] = np.arange(total) - np.repeat(first_items, sizes)
    weights = (1.0 + ranks) ** -ZIPF_EXPONENT
    launched = np.zeros((num_categories, num_days), np.int64)
    np.add.at(launched, (categories, np.maximum(launch_days, 0)), 1)
    end_items = first_items[:, None] + launched.cumsum(axis=1)
    intent_categories, intent_weights = _intents(rng, num_categories)
    num_intents = len(intent_categories)
    num_types = max(MIN_TYPES, -(-3 * num_intents // 10))
    type_intents = _rows_of_permutations(rng, num_types, len(INTENT_WEIGHTS), num_intents)
    shares = (1.0 + np.arange(num_types)) ** -0.3
    codes = rng.permutation(total)
    category_prices = np.exp(rng.normal(3.3, 0.8, num_categories))
    return World(
        num_days=num_days,
        categories=categories,
        launch_days=launch_days,
        cumulative_weights=np.concatenate([[0.0], weights.cumsum()]),
        first_items=first_items,
        end_items=end_items,
        successors=_successors(rng, categories, launch_days, first_items, end_items),
        intent_categories=intent_categories,
        intent_weights=intent_weights,
        type_intents=type_intents,
        type_shares=shares / shares.sum(),
        prices=np.round(category_prices[categories] * np.exp(rng.normal(0.0, 0.4, total)) + 0.99, 2),
        codes=codes,
        numbers=np.argsort(codes),
    )


def _intents(rng: np.random.Generator, num_categories: int) -> tuple[np.ndarray, np.ndarray]:
    """Categories [G, J] and weights [G, J]: each category is some intent's main one, the others lie near it."""
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
    """[rows, width] numbers below `size`, distinct in a row, each number used about equally often."""
    needed = -(-rows // (size // width))
    return np.concatenate([rng.permutation(size)[: size // width * width].reshape(-1, width) for _ in range(needed)])[
        :rows
    ]


def _successors(
    rng: np.random.Generator,
    categories: np.ndarray,
    launch_days: np.ndarray,
    first_items: np.ndarray,
    end_items: np.ndarray,
) -> np.ndarray:
    """[M, S]: the item's own category or one of its neighbours; launched when the item is."""
    total, width = len(categories), len(SUCCESSOR_WEIGHTS)
    successors = np.empty((total, width), np.int64)
    days = np.maximum(launch_days, 0)
    for column in range(width):
        open_items = np.arange(total)
        while len(open_items):
            groups = (categories[open_items] + rng.integers(-1, 2, len(open_items))) % len(first_items)
            low, high = first_items[groups], end_items[groups, days[open_items]]
            drawn = low + (rng.random(len(open_items)) * (high - low)).astype(np.int64)
            successors[open_items, column] = drawn
            taken = (drawn == open_items) | (successors[open_items, :column] == drawn[:, None]).any(axis=1)
            open_items = open_items[taken]
    return successors


def draw_brands(world: World, rng: np.random.Generator) -> np.ndarray:
    """int64 [M], the brand of each item number; the first that `[seed, 1]` draws."""
    return rng.integers(0, len(BRANDS), world.num_items)


def catalogue(world: World, *, seed: int, until_day: int) -> pa.Table:
    """The products that are launched by a day of the period: item_id, title, category, price, available; one row an item, sorted by id."""
    rng = np.random.default_rng([seed, 1])
    names = category_names(len(world.first_items))
    count = world.num_items
    brands = draw_brands(world, rng).tolist()
    adjectives, models = (rng.integers(0, n, count).tolist() for n in (len(ADJECTIVES), 90))
    kinds = [names[category] for category in world.categories.tolist()]
    titles = [
        f"{BRANDS[b]} {ADJECTIVES[a]} {kind} {10 + model}"
        for b, a, kind, model in zip(brands, adjectives, kinds, models, strict=True)
    ]
    available = np.ones(count, bool)
    available[rng.choice(count, round(UNAVAILABLE_FRACTION * count), replace=False)] = False
    table = pa.table(
        {"item_id": world.item_ids(), "title": titles, "category": kinds, "price": world.prices, "available": available}
    )
    launched = world.launch_days[world.numbers] <= until_day
    return table.take(pa.array(world.numbers[launched]))
