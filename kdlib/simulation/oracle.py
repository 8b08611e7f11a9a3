"""The best possible prediction: exact forward filtering over the hidden states of the simulated world.

The category of a step depends only on the intent. The item within the category and the step's outcome depend only on
the taste. So the posteriors of (type, intent) and of the taste are independent, and each is filtered on its own.

Letters: U users, Z types, K intents of a type, G intents, C categories, M items, T tastes.
"""

from collections.abc import Sequence

import numpy as np

from kdlib.simulation.steps import BOUGHT
from kdlib.simulation.world import (
    COMPLEMENT,
    COMPLEMENT_WEIGHTS,
    INTENT_WEIGHTS,
    REBUY,
    RELATED,
    RESUME,
    SHIFT,
    World,
)

Ragged = Sequence[Sequence[int] | np.ndarray]
_USERS_AT_ONCE = 1024


class Oracle:
    """P(the first item of a user's next session | the user's whole history).

    A Bayesian forward filter over (type, intent) and over the taste. No model can rank this item better on average.

    Args:
      world: the world that the histories were drawn from.
      target_day: day of the period on which the predicted session takes place.
    """

    def __init__(self, world: World, *, target_day: int) -> None:
        self._world, self._day = world, target_day
        self._categories_GC = np.zeros((len(world.intent_categories), len(world.first_items)))
        rows_G1 = np.arange(len(world.intent_categories))[:, None]
        np.add.at(self._categories_GC, (rows_G1, world.intent_categories), world.intent_weights)
        items_M1, tastes_1T = np.arange(world.num_items)[:, None], np.arange(len(world.tastes))[None]
        self._affinities_MT = world.affinities(items_M1, tastes_1T)
        weights_M = np.diff(world.cumulative_weights)
        self._sums_MT = np.zeros((world.num_items + 1, len(world.tastes)))
        np.cumsum(weights_M[:, None] * self._affinities_MT, axis=0, out=self._sums_MT[1:])
        ends_C = world.end_items[:, target_day]
        self._totals_CT = self._sums_MT[ends_C] - self._sums_MT[world.first_items]
        self._weights_M = world.weights(items_M1[:, 0], target_day)
        self._shares_MT = self._weights_M[:, None] * self._affinities_MT / self._totals_CT[world.categories]

    def scores(self, histories: Ragged, outcomes: Ragged, session_numbers: Ragged, days: Ragged) -> np.ndarray:
        """The probability of every item, float64 [users, items]; rows sum to 1.

        Args:
          histories: item numbers of each user, oldest first, without consecutive repeats inside a session.
            May be empty.
          outcomes: VIEWED, CARTED or BOUGHT, in the same shape.
          session_numbers: in the same shape; a change of value opens a session.
          days: the day of the period of each item, in the same shape.

        Raises:
          ValueError: the shapes differ, an item is not launched on its day, or the item is impossible there in this
            world.
        """
        parts = (histories, outcomes, session_numbers, days)
        lengths = np.array([len(history) for history in histories], np.int64)
        if any(list(map(len, part)) != lengths.tolist() for part in parts):
            raise ValueError(
                "histories, outcomes, session_numbers and days must have the same users and the same lengths"
            )
        scores = np.empty((len(lengths), self._world.num_items))
        order = np.argsort(-lengths, kind="stable")
        for start in range(0, len(order), _USERS_AT_ONCE):
            rows = order[start : start + _USERS_AT_ONCE]
            items, results, sessions, on_days = (_padded(part, rows, lengths) for part in parts)
            scores[rows] = self._scores(items, results, sessions, on_days, lengths[rows])
        return scores

    def _scores(
        self, items: np.ndarray, outcomes: np.ndarray, sessions: np.ndarray, days: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        world = self._world
        intents_UG, tastes_UT, owned_U = self._filter(items, outcomes, sessions, days, lengths)
        scores_UM = tastes_UT @ self._shares_MT.T
        owners = np.flatnonzero(owned_U >= 0)
        for user in owners.tolist():  # no taste draws the owned item: the other items of its category share its part
            owned = owned_U[user]
            category = world.categories[owned]
            part = slice(world.first_items[category], world.end_items[category, self._day])
            rest_T = self._totals_CT[category] - self._weights_M[owned] * self._affinities_MT[owned]
            scores_UM[user, part] = self._weights_M[part] * (self._affinities_MT[part] @ (tastes_UT[user] / rest_T))
        scores_UM *= (intents_UG @ self._categories_GC)[:, world.categories]
        scores_UM[owners] *= 1 - REBUY
        scores_UM[owners, owned_U[owners]] = REBUY
        return scores_UM

    def _filter(
        self, items: np.ndarray, outcomes: np.ndarray, sessions: np.ndarray, days: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """After the history: P(intent at a session's first step) [U, G], P(taste) [U, T], the owned consumable [U].

        Users are sorted by the length of their history, longest first.
        """
        world = self._world
        prior_ZK = world.type_shares[:, None] * INTENT_WEIGHTS
        state_UZK = np.broadcast_to(prior_ZK, (len(lengths), *prior_ZK.shape)).copy()
        taste_UT = np.full((len(lengths), len(world.tastes)), 1 / len(world.tastes))
        owned_U = np.full(len(lengths), -1)
        for step in range(items.shape[1]):
            count = int((lengths > step).sum())
            item, outcome, day, owned = items[:count, step], outcomes[:count, step], days[:count, step], owned_U[:count]
            opens = np.ones(count, bool) if step == 0 else sessions[:count, step] != sessions[:count, step - 1]
            previous = np.where(opens, -1, items[:count, step - 1])
            if step > 0:
                state_UZK[:count] = _moved(state_UZK[:count], np.where(opens, 1 - RESUME, SHIFT))
            # a repeat purchase says nothing about intent and taste
            again = opens & (item == owned) & (outcome == BOUGHT)
            of_category_UG = self._category_likelihood(world.categories[item], previous)
            state_UZK[:count] *= np.where(again[:, None], 1.0, of_category_UG)[:, world.type_intents]
            of_item_UT = self._item_likelihood(item, outcome, previous, owned, day)
            taste_UT[:count] *= np.where(again[:, None], 1.0, of_item_UT)
            for state in (state_UZK[:count].reshape(count, -1), taste_UT[:count]):
                totals = state.sum(axis=1, keepdims=True)
                if not (totals > 0).all():
                    user = int(np.flatnonzero(totals.ravel() <= 0)[0])
                    raise ValueError(
                        f"this world cannot give item {items[user, step]} on day {days[user, step]} as a user's item "
                        f"number {step}: not launched, a repeat within a session, or a history of another world"
                    )
                state /= totals
            kept = (outcome == BOUGHT) & world.is_consumable[world.categories[item]]
            owned_U[:count] = np.where(kept, item, owned)
        state_UZK = _moved(state_UZK, np.full(len(lengths), 1 - RESUME))  # no effect without a history
        intents_UG = np.zeros((len(lengths), len(self._categories_GC)))
        np.add.at(intents_UG.T, world.type_intents.ravel(), state_UZK.reshape(len(lengths), -1).T)
        return intents_UG, taste_UT, owned_U

    def _category_likelihood(self, categories: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """P(category of this step | intent, the item before in the session), [U, G]."""
        likelihood_UG = self._categories_GC[:, categories].T.copy()
        inside = np.flatnonzero(previous >= 0)
        before = self._world.complements[self._world.categories[previous[inside]]]
        follows = ((before == categories[inside, None]) * COMPLEMENT_WEIGHTS).sum(axis=1)
        likelihood_UG[inside] = COMPLEMENT * follows[:, None] + (1 - COMPLEMENT) * likelihood_UG[inside]
        return likelihood_UG

    def _item_likelihood(
        self, items: np.ndarray, outcomes: np.ndarray, previous: np.ndarray, owned: np.ndarray, days: np.ndarray
    ) -> np.ndarray:
        """P(item and outcome of this step | category, taste, the items before), [U, T]."""
        world, sums = self._world, self._sums_MT
        categories = world.categories[items]
        totals_UT = sums[world.end_items[categories, days]] - sums[world.first_items[categories]]
        gain = RELATED * world.category_weights(categories, days) * (previous >= 0)
        for column in range(world.related.shape[1]):
            related = world.related[previous, column]
            totals_UT += (gain * (world.categories[related] == categories))[:, None] * self._affinities_MT[related]
        none = np.full(len(items), -1)
        weights = world.item_weights(previous, previous=none, owned=none, days=days)
        weights_of_owned = world.item_weights(
            owned, previous=previous, owned=none, days=days
        )  # 0 if it is the item before
        for left_out, weight in ((previous, weights), (owned, weights_of_owned)):
            here = (left_out >= 0) & (world.categories[left_out] == categories)
            totals_UT -= (here * weight)[:, None] * self._affinities_MT[left_out]
        weight = world.item_weights(items, previous=previous, owned=owned, days=days)
        chances_UT = np.take_along_axis(
            world.outcome_chances(items[:, None], np.arange(len(world.tastes))[None]), outcomes[:, None, None], axis=2
        )[..., 0]
        return weight[:, None] * self._affinities_MT[items] / totals_UT * chances_UT


def _padded(values: Ragged, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    padded = np.zeros((len(rows), int(lengths[rows].max(initial=0))), np.int64)
    for line, row in enumerate(rows):
        padded[line, : lengths[row]] = values[row]
    return padded


def _moved(state_UZK: np.ndarray, anew_U: np.ndarray) -> np.ndarray:
    """One transition: with probability `anew_U` the type draws a new intent."""
    types_UZ1 = state_UZK.sum(axis=2, keepdims=True)
    return (1 - anew_U)[:, None, None] * state_UZK + anew_U[:, None, None] * types_UZ1 * INTENT_WEIGHTS
