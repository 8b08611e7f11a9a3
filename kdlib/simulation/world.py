"""The model behind the simulated clickstream: a hidden Markov chain over categories, and a hidden taste over items.

A user has one *type* and one *taste*. A type is a sparse mix of *intents*; an intent is a mix of 2–4 neighbouring
*categories*. The type leads to a category, the taste to an item of it:

    P(category | intent)                                     at a session's first step
    COMPLEMENT · P(category | complements of the category before) + (1 − COMPLEMENT) · P(category | intent)    after it
    P(item | category, taste, item before it) ∝ (weight(item) + RELATED · W · [item is related to the one before it]) · affinity(item, taste)

over the category's launched items, without the item before it in the session and the item that the user buys again;
W is the sum of the category's launched weights. The affinity is a product over the brand's family, the style in the title, the
colour and the price range: many items of all categories share each of these. So what a title says helps where an item
has few events.

At a session's first step the intent is drawn anew with probability 1 − RESUME, at any other with probability SHIFT.
A user who has bought a *consumable* opens a session with probability REBUY by buying the last such item again.
Whether an item is put into a cart or bought depends on the item and the taste (`outcome_chances`).

Letters: M items, C categories, G intents, Z types, K intents of a type, J categories of an intent, S related items,
Q complements of a category, T tastes, F features of a taste, D days.
"""

from dataclasses import dataclass

import numpy as np

from kdlib.errors import InputError
from kdlib.simulation.names import BRAND_FAMILIES, COLOURS, STYLES

RESUME = 0.5
"""Probability that a session goes on with the intent of the user's session before."""
SHIFT = 0.05
"""Probability of a newly drawn intent before each further item of a session."""
COMPLEMENT = 0.25
"""Probability that a session's next category is a complement of the one before it."""
COMPLEMENT_WEIGHTS = np.array([0.65, 0.35])
RELATED = 0.25
"""What a related item gains after the item it is related to, as a share of its category's weight."""
SUBSTITUTES = 2
"""Related items of the item's own category; one more in each of the category's complements."""
REBUY = 0.25
"""Probability that a session opens with the consumable that the user bought last."""
INTENT_WEIGHTS = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
"""A type's probabilities of its intents."""
CATEGORY_WEIGHTS = np.array([0.55, 0.3, 0.1, 0.05])
"""An intent's weights of its categories, main one first; intents with fewer categories scale theirs up."""
PRICE_SPREAD = 0.4
"""Sigma of the log-normal price of an item within its category."""
PRICE_RANGES = np.array([-0.43, 0.43]) * PRICE_SPREAD
"""Bounds of the log price, from the category's: a third of the items is cheap, a third in between, a third dear."""
FEATURES = ("brand family", "style", "colour", "price range")
FEATURE_VALUES = (len(BRAND_FAMILIES), len(STYLES), len(COLOURS), len(PRICE_RANGES) + 1)
AFFINITIES = np.array([8.0, 5.0, 1.8, 2.5])
"""How many times as likely an item is that has the taste's brand family, style, colour, price range."""
CART, PURCHASE = 0.10, 0.35
"""Probability that a view is followed by a cart, and a cart by a purchase, of an average item and user."""
CART_BY_PRICE = np.array([0.75, 1.5])
"""Factor of the cart's probability: another price range than the taste's, the taste's."""
PURCHASE_BY_BRAND = np.array([0.85, 1.3])
"""Factor of the purchase's probability: another brand family than the taste's, the taste's."""
UNAVAILABLE_FRACTION = 0.02
MIN_CATEGORIES = 8
MIN_ITEMS_PER_CATEGORY = 4
MIN_TYPES = 12
ITEM_DIGITS = 8


@dataclass(frozen=True, eq=False)
class World:
    """Everything that does not depend on the users; days count from 0, the period's first.

    Item numbers are sorted by category, then by launch day, so that the launched items of a category are one range.
    """

    num_days: int
    taste_strength: float
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
    related: np.ndarray
    """int64 [M, S]; distinct, never the item itself, launched when it is: substitutes, then complements."""
    complements: np.ndarray
    """int64 [C, Q], drawn with `COMPLEMENT_WEIGHTS`."""
    is_consumable: np.ndarray
    """bool [C]: what is bought of the category is bought again."""
    intent_categories: np.ndarray
    """int64 [G, J]"""
    intent_weights: np.ndarray
    """float64 [G, J], rows sum to 1; 0 where an intent has fewer categories."""
    type_intents: np.ndarray
    """int64 [Z, K], drawn with `INTENT_WEIGHTS`."""
    type_shares: np.ndarray
    """float64 [Z], the share of users of each type."""
    tastes: np.ndarray
    """int64 [T, F], the preferred value of each of FEATURES; every combination once, all equally frequent."""
    features: np.ndarray
    """int64 [M, F], the item's value of each of FEATURES."""
    appeal: np.ndarray
    """float64 [M], factor of the item's probability to be put into a cart; mean 1."""
    brands: np.ndarray
    """int64 [M], number in `BRANDS`."""
    adjectives: np.ndarray
    """int64 [M], number in `ADJECTIVES`."""
    colours: np.ndarray
    """int64 [M], number of all `COLOURS`, one after the other."""
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

    def weights(self, items: np.ndarray, days: np.ndarray | int) -> np.ndarray:
        """float64 of the items' shape: the Zipf weight; 0 for items not launched by the day."""
        weights = self.cumulative_weights[items + 1] - self.cumulative_weights[items]
        return np.where(self.launch_days[items] <= days, weights, 0.0)

    def category_weights(self, categories: np.ndarray, days: np.ndarray | int) -> np.ndarray:
        """float64 of the categories' shape: the sum of the weights of the items launched by the day."""
        sums = self.cumulative_weights
        return sums[self.end_items[categories, days]] - sums[self.first_items[categories]]

    def item_weights(
        self, items: np.ndarray, *, previous: np.ndarray, owned: np.ndarray, days: np.ndarray | int
    ) -> np.ndarray:
        """float64, broadcast from all: an item's weight in its category before the taste counts.

        Args:
          items: item numbers.
          previous: the item viewed just before in the session; −1: none. This item weighs 0; items related to it weigh more.
          owned: the consumable that the user buys again; −1: none. This item weighs 0, too.
          days: of the period.
        """
        gains = np.zeros(np.broadcast_shapes(items.shape, previous.shape), bool)
        for column in range(self.related.shape[1]):
            gains |= self.related[previous, column] == items
        gains &= previous >= 0
        total = self.category_weights(self.categories[items], days)
        weights = self.weights(items, days) + np.where(gains & (self.launch_days[items] <= days), RELATED * total, 0.0)
        return np.where((items == previous) | (items == owned), 0.0, weights)

    def affinities(self, items: np.ndarray, tastes: np.ndarray) -> np.ndarray:
        """float64, broadcast from items and tastes: how many times as likely an item is for that taste; 1 without any match."""
        result = np.ones(np.broadcast_shapes(items.shape, tastes.shape))
        for feature, factor in enumerate(AFFINITIES.tolist()):
            matches = self.features[items, feature] == self.tastes[tastes, feature]
            result *= np.where(matches, factor**self.taste_strength, 1.0)
        return result

    def outcome_chances(self, items: np.ndarray, tastes: np.ndarray) -> np.ndarray:
        """float64 [..., 3], broadcast from items and tastes: P(only viewed), P(put into a cart, not bought), P(bought)."""
        brand, price = (
            (self.features[items, feature] == self.tastes[tastes, feature]).astype(np.int64)
            for feature in (FEATURES.index("brand family"), FEATURES.index("price range"))
        )
        carted = CART * self.appeal[items] * CART_BY_PRICE[price] ** self.taste_strength
        bought = carted * PURCHASE * PURCHASE_BY_BRAND[brand] ** self.taste_strength
        return np.stack([1 - carted, carted - bought, bought], axis=-1)
