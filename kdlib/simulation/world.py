"""The model behind the simulated clickstream: a hidden Markov chain over categories, and a hidden taste over items.

A user has one *type* and one *taste*. A type is a sparse mix of *intents*. An intent is a mix of 2–4 neighbouring
*categories*. The type leads to a category, and the taste leads to an item of the category:

    P(category | intent)                                                                       at a session's first step
    COMPLEMENT · P(category | complements of the category before)
        + (1 − COMPLEMENT) · P(category | intent)                                                      at a later step

    P(item | category, taste, item before)
        ∝ (weight(item) + RELATED · W · [item is related to the item before]) · affinity(item, taste)

The item is one of the category's launched items. It is neither the item before in the session nor the consumable that
the user owns. W is the sum of the weights of the category's launched items.

The affinity is a product of factors for the brand's family, the style in the title, the colour and the price range.
Many items of all categories share each of these values. So a title helps to predict an item with few events.

The intent is drawn again with probability 1 − RESUME at a session's first step, and with probability SHIFT at other
steps. A user who has bought a *consumable* may open a session by buying the last one again, with probability REBUY. The
item and the taste decide whether an item is put into a cart or bought (`outcome_chances`).

Letters: M items, C categories, G intents, Z types, T tastes, D days; S related items of an item, Q complements of a
category, J categories of an intent, K intents of a type, F features of a taste.
"""

from dataclasses import dataclass

import numpy as np

from kdlib.errors import InputError
from kdlib.simulation.names import BRAND_FAMILIES, COLOURS, STYLES

RESUME = 0.5
"""Probability that a session begins with the last intent of the user's session before."""
SHIFT = 0.05
"""Probability of a new intent before each later item of a session."""
COMPLEMENT = 0.25
"""Probability that the next category in a session is a complement of the category before."""
COMPLEMENT_WEIGHTS = np.array([0.65, 0.35])
RELATED = 0.25
"""Extra weight of a related item after its item, as a share of the category's weight."""
SUBSTITUTES = 2
"""Number of related items in the item's own category. Each complement of the category has one more."""
REBUY = 0.25
"""Probability that a session opens with the consumable that the user bought last."""
INTENT_WEIGHTS = np.array([0.45, 0.25, 0.15, 0.1, 0.05])
"""A type's probabilities of its intents."""
CATEGORY_WEIGHTS = np.array([0.55, 0.3, 0.1, 0.05])
"""An intent's weights of its categories, the main category first. With fewer categories the weights are scaled up."""
PRICE_SPREAD = 0.4
"""Sigma of the log-normal price of an item within its category."""
PRICE_RANGES = np.array([-0.43, 0.43]) * PRICE_SPREAD
"""Bounds of the log price, relative to the category's. A third of the items is cheap, a third medium, a third
expensive."""
FEATURES = ("brand family", "style", "colour", "price range")
FEATURE_VALUES = (len(BRAND_FAMILIES), len(STYLES), len(COLOURS), len(PRICE_RANGES) + 1)
AFFINITIES = np.array([8.0, 5.0, 1.8, 2.5])
"""How many times as likely an item is if it has the taste's brand family, style, colour, price range."""
CART, PURCHASE = 0.10, 0.35
"""Probability of a cart after a view and of a purchase after a cart, for an average item and user."""
CART_BY_PRICE = np.array([0.75, 1.5])
"""Factors of a cart's probability: for another price range than the taste's, and for the taste's."""
PURCHASE_BY_BRAND = np.array([0.85, 1.3])
"""Factors of a purchase's probability: for another brand family than the taste's, and for the taste's."""
UNAVAILABLE_FRACTION = 0.02
MIN_CATEGORIES = 8
MIN_ITEMS_PER_CATEGORY = 4
MIN_TYPES = 12
ITEM_DIGITS = 8


@dataclass(frozen=True, eq=False)
class World:
    """Everything that does not depend on the users. Days count from 0, the first day of the period.

    Item numbers are sorted by category, then by launch day. So the launched items of a category are one range.
    """

    num_days: int
    taste_strength: float
    categories: np.ndarray
    """int64 [M], the item's category."""
    launch_days: np.ndarray
    """int64 [M]; an item with 0 or less exists from the start."""
    cumulative_weights: np.ndarray
    """float64 [M + 1], running sum of the Zipf weights."""
    first_items: np.ndarray
    """int64 [C], the first item number of a category."""
    end_items: np.ndarray
    """int64 [C, D], one past the last item of a category that is launched by the day."""
    related: np.ndarray
    """int64 [M, S], substitutes, then complements. Distinct, never the item itself, launched no later than the item."""
    complements: np.ndarray
    """int64 [C, Q], drawn with `COMPLEMENT_WEIGHTS`."""
    is_consumable: np.ndarray
    """bool [C]: users buy items of the category again."""
    intent_categories: np.ndarray
    """int64 [G, J]"""
    intent_weights: np.ndarray
    """float64 [G, J], rows sum to 1; 0 where an intent has fewer categories."""
    type_intents: np.ndarray
    """int64 [Z, K], drawn with `INTENT_WEIGHTS`."""
    type_shares: np.ndarray
    """float64 [Z], the share of users of each type."""
    tastes: np.ndarray
    """int64 [T, F], the preferred value of each feature. Every combination is one taste, and all tastes are equally
    frequent."""
    features: np.ndarray
    """int64 [M, F], the item's value of each feature."""
    appeal: np.ndarray
    """float64 [M], factor of the probability that the item is put into a cart; mean 1."""
    brands: np.ndarray
    """int64 [M], number in `BRANDS`."""
    adjectives: np.ndarray
    """int64 [M], number in `ADJECTIVES`."""
    colours: np.ndarray
    """int64 [M], number in all `COLOURS`, shade after shade."""
    prices: np.ndarray
    """float64 [M], currency units with two decimals."""
    codes: np.ndarray
    """int64 [M], the number in an item's id; shuffled, so that ids carry no information."""
    numbers: np.ndarray
    """int64 [M], the inverse: code → item number."""

    @property
    def num_items(self) -> int:
        """Number of items of the whole period, launched items included."""
        return len(self.categories)

    def item_id_of(self, number: int) -> str:
        """The shop's id of an item number."""
        return f"i{self.codes[number]:0{ITEM_DIGITS}d}"

    def number_of(self, item_id: str) -> int:
        """The item number of an id of this world.

        Raises:
          InputError: this world has no item with this id.
        """
        digits = item_id.removeprefix("i")
        known = digits.isdecimal() and int(digits) < self.num_items
        number = int(self.numbers[int(digits)]) if known else 0
        if not known or self.item_id_of(number) != item_id:
            raise InputError(
                f"no item {item_id!r} in this simulated world. It has {self.num_items} items, "
                f"for example {self.item_id_of(0)}"
            )
        return number

    def item_ids(self) -> list[str]:
        """All ids in the order of the item numbers."""
        return [f"i{code:0{ITEM_DIGITS}d}" for code in self.codes.tolist()]

    def weights(self, items: np.ndarray, days: np.ndarray | int) -> np.ndarray:
        """The Zipf weights, float64 in the items' shape; 0 for items not launched by the day."""
        weights = self.cumulative_weights[items + 1] - self.cumulative_weights[items]
        return np.where(self.launch_days[items] <= days, weights, 0.0)

    def category_weights(self, categories: np.ndarray, days: np.ndarray | int) -> np.ndarray:
        """The summed weights of the items launched by the day, float64 in the categories' shape."""
        sums = self.cumulative_weights
        return sums[self.end_items[categories, days]] - sums[self.first_items[categories]]

    def item_weights(
        self, items: np.ndarray, *, previous: np.ndarray, owned: np.ndarray, days: np.ndarray | int
    ) -> np.ndarray:
        """An item's weight in its category without the taste, float64, broadcast from all arguments.

        Args:
          items: item numbers.
          previous: the item viewed just before in the session; −1: none. It weighs 0, and its related items weigh more.
          owned: the consumable that the user owns; −1: none. It weighs 0.
          days: days of the period.
        """
        gains = np.zeros(np.broadcast_shapes(items.shape, previous.shape), bool)
        for column in range(self.related.shape[1]):
            gains |= self.related[previous, column] == items
        gains &= previous >= 0
        total = self.category_weights(self.categories[items], days)
        weights = self.weights(items, days) + np.where(gains & (self.launch_days[items] <= days), RELATED * total, 0.0)
        return np.where((items == previous) | (items == owned), 0.0, weights)

    def affinities(self, items: np.ndarray, tastes: np.ndarray) -> np.ndarray:
        """How many times as likely the taste makes an item, float64, broadcast from both; 1 without any match."""
        result = np.ones(np.broadcast_shapes(items.shape, tastes.shape))
        for feature, factor in enumerate(AFFINITIES.tolist()):
            matches = self.features[items, feature] == self.tastes[tastes, feature]
            result *= np.where(matches, factor**self.taste_strength, 1.0)
        return result

    def outcome_chances(self, items: np.ndarray, tastes: np.ndarray) -> np.ndarray:
        """P(only viewed), P(put into a cart, not bought), P(bought): float64 [..., 3], broadcast from items and
        tastes."""
        brand, price = (
            (self.features[items, feature] == self.tastes[tastes, feature]).astype(np.int64)
            for feature in (FEATURES.index("brand family"), FEATURES.index("price range"))
        )
        carted = CART * self.appeal[items] * CART_BY_PRICE[price] ** self.taste_strength
        bought = carted * PURCHASE * PURCHASE_BY_BRAND[brand] ** self.taste_strength
        return np.stack([1 - carted, carted - bought, bought], axis=-1)
