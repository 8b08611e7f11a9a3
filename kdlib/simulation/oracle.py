"""The best possible prediction: exact forward filtering over the hidden states of the simulated world.

Letters: U users, Z types, K intents of a type, G intents, C categories, M items.
"""

from collections.abc import Sequence

import numpy as np

from kdlib.simulation.world import FOLLOW, INTENT_WEIGHTS, RESUME, SHIFT, SUCCESSOR_WEIGHTS, World

_USERS_AT_ONCE = 1024


def oracle_scores(
    world: World,
    histories: Sequence[Sequence[int] | np.ndarray],
    session_numbers: Sequence[Sequence[int] | np.ndarray],
    days: Sequence[Sequence[int] | np.ndarray],
    *,
    target_day: int,
) -> np.ndarray:
    """P(the first item of a user's next session, on `target_day` | the user's whole history).

    A Bayesian forward filter over (user type, intent). No model can rank that item better in the mean.

    Args:
      world: the world that the histories were drawn from.
      histories: item numbers of each user, oldest first; without consecutive repeats inside a session. May be empty.
      session_numbers: in the same shape; a change of value opens a session.
      days: in the same shape; day of the period of each item.
      target_day: day of the period on which the predicted session takes place.

    Returns:
      float64 [users, items]; rows sum to 1. Memory: users × items × 8 bytes, and intents × categories × 8 bytes.

    Raises:
      ValueError: the three shapes differ, an item is not launched on its day, or repeats within a session.
    """
    intent_categories_GC = np.zeros((len(world.intent_categories), len(world.first_items)))
    rows_G1 = np.arange(len(world.intent_categories))[:, None]
    np.add.at(intent_categories_GC, (rows_G1, world.intent_categories), world.intent_weights)
    within_M = world.weights_in_category(np.arange(world.num_items), target_day)
    lengths = np.array([len(history) for history in histories], np.int64)
    if [list(map(len, session_numbers)), list(map(len, days))] != [lengths.tolist()] * 2:
        raise ValueError("histories, session_numbers and days must have the same users and the same lengths")
    scores = np.empty((len(lengths), world.num_items))
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), _USERS_AT_ONCE):
        rows = order[start : start + _USERS_AT_ONCE]
        items, sessions, on_days = (_padded(values, rows, lengths) for values in (histories, session_numbers, days))
        intents_UG = _filter(world, intent_categories_GC, items, sessions, on_days, lengths[rows])
        scores[rows] = (intents_UG @ intent_categories_GC)[:, world.categories] * within_M
    return scores


def _padded(values: Sequence[Sequence[int] | np.ndarray], rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    padded = np.zeros((len(rows), int(lengths[rows].max(initial=0))), np.int64)
    for line, row in enumerate(rows):
        padded[line, : lengths[row]] = values[row]
    return padded


def _filter(
    world: World, weights_GC: np.ndarray, items: np.ndarray, sessions: np.ndarray, days: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """P(intent at the first item of a new session | history), [U, G]; users sorted by length, longest first."""
    prior_ZK = world.type_shares[:, None] * INTENT_WEIGHTS
    state_UZK = np.broadcast_to(prior_ZK, (len(lengths), *prior_ZK.shape)).copy()
    for step in range(items.shape[1]):
        count = int((lengths > step).sum())
        opens = np.ones(count, bool) if step == 0 else sessions[:count, step] != sessions[:count, step - 1]
        if step > 0:
            state_UZK[:count] = _moved(state_UZK[:count], np.where(opens, 1 - RESUME, SHIFT))
        seen_UG = _likelihood(world, weights_GC, items, days, step, count, opens)
        state_UZK[:count] *= seen_UG[:, world.type_intents]
        totals = state_UZK[:count].sum(axis=(1, 2), keepdims=True)
        if not (totals > 0).all():
            user = int(np.flatnonzero(totals.ravel() <= 0)[0])
            raise ValueError(
                f"this world cannot give item {items[user, step]} on day {days[user, step]} as a user's item number "
                f"{step}: not launched, a repeat within a session, or a history of another world"
            )
        state_UZK[:count] /= totals
    known = (lengths > 0)[:, None, None]
    state_UZK = np.where(known, _moved(state_UZK, np.full(len(lengths), 1 - RESUME)), state_UZK)
    intents_UG = np.zeros((len(lengths), len(weights_GC)))
    np.add.at(intents_UG.T, world.type_intents.ravel(), state_UZK.reshape(len(lengths), -1).T)
    return intents_UG


def _moved(state_UZK: np.ndarray, anew_U: np.ndarray) -> np.ndarray:
    """One transition: with probability `anew` the intent is drawn again from the type."""
    types_UZ1 = state_UZK.sum(axis=2, keepdims=True)
    return (1 - anew_U)[:, None, None] * state_UZK + anew_U[:, None, None] * types_UZ1 * INTENT_WEIGHTS


def _likelihood(
    world: World, weights_GC: np.ndarray, items: np.ndarray, days: np.ndarray, step: int, count: int, opens: np.ndarray
) -> np.ndarray:
    """P(item of this step | intent, item before it in the session), [U, G]."""
    item, day = items[:count, step], days[:count, step]
    by_intent_UG = weights_GC[:, world.categories[item]].T * world.weights_in_category(item, day)[:, None]
    inside = np.flatnonzero(~opens)
    if len(inside):
        item, day, previous = item[inside], day[inside], items[:count, step - 1][inside]
        follows = ((world.successors[previous] == item[:, None]) * SUCCESSOR_WEIGHTS).sum(axis=1)
        repeat_UG = weights_GC[:, world.categories[previous]].T * world.weights_in_category(previous, day)[:, None]
        mixed_UG = FOLLOW * follows[:, None] + (1 - FOLLOW) * by_intent_UG[inside]
        by_intent_UG[inside] = mixed_UG / (1 - (1 - FOLLOW) * repeat_UG) * (item != previous)[:, None]
    return by_intent_UG
