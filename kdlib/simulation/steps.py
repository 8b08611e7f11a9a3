"""Draws what users look at: sessions in time, hidden intents, items. Vectorised over all steps of a block."""

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from kdlib.errors import ConfigError
from kdlib.simulation.world import (
    COMPLEMENT,
    COMPLEMENT_WEIGHTS,
    INTENT_WEIGHTS,
    REBUY,
    RESUME,
    SHIFT,
    World,
)

VIEWED, CARTED, BOUGHT = range(3)
"""Outcomes of a step, in the order of `World.outcome_chances`."""

SLOTS_PER_DAY = 6
"""A day has 4-hour slots. A user has at most one session in each slot."""
SLOT_WEIGHTS = np.array([0.5, 0.6, 1.1, 1.2, 1.4, 1.2])
WEEKEND_WEIGHT = 1.25
MAX_STEPS = 24
"""Length of the longest session, in items."""
ACTIVITY_SPREAD = 1.0
"""Sigma of a user's log-normal number of sessions."""
ROWS_PER_STEP = 1.16
"""Mean number of rows of a step: views, carts and purchases. Measured; 1.14 without tastes, since users with a taste
view more of the items that they tend to buy."""
LONGEST_GAP_SECONDS = 600
"""The gap between two steps of a session is shorter than this."""
SHORTEST_BREAK_SECONDS = 7_200
"""The gap between two sessions of a user is longer than this."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True)
class Steps:
    """One row a viewed item, sorted by user and time. All arrays have the same length."""

    users: np.ndarray
    """int64, from 0 within the block."""
    sessions: np.ndarray
    """int64, the user's session number from 0."""
    days: np.ndarray
    """int64, day of the period from 0."""
    times: np.ndarray
    """int64, milliseconds from the start of the period."""
    items: np.ndarray
    """int64, item numbers of the world."""
    outcomes: np.ndarray
    """int64, VIEWED, CARTED or BOUGHT."""


@dataclass(frozen=True)
class Activity:
    """How active users are. The values give each user `events_per_user` events on average."""

    mean_steps: float
    """Mean of the geometric session length, before the cut at `MAX_STEPS`."""
    log_sessions: float
    """Mean of the log of the number of sessions beyond the first."""
    max_sessions: int


@lru_cache(maxsize=1)
def activity_for(*, events_per_user: int, num_days: int, mean_session_length: float = 3.0) -> Activity:
    """Solve for the activity that gives the wanted mean number of events.

    If users have few events, sessions are shorter.

    Raises:
      ConfigError: the events do not fit into the days.
    """
    mean_steps = min(mean_session_length, events_per_user / (1.5 * ROWS_PER_STEP))
    max_sessions = num_days * SLOTS_PER_DAY // 2
    stop = 1 / mean_steps
    wanted = events_per_user / (ROWS_PER_STEP * (1 - (1 - stop) ** MAX_STEPS) / stop)
    if wanted > 0.5 * max_sessions:
        most = int(0.5 * max_sessions * ROWS_PER_STEP * mean_session_length)
        raise ConfigError(
            f"input.simulate: events_per_user {events_per_user} is too many for num_days {num_days}. "
            f"Give at most {most}, or more days"
        )
    quantiles = (np.arange(4096) + 0.5) / 4096
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        if _num_sessions(quantiles, middle, max_sessions).mean() < wanted:
            low = middle
        else:
            high = middle
    return Activity(mean_steps, high, max_sessions)


def draw_steps(world: World, rng: np.random.Generator, *, num_users: int, activity: Activity) -> Steps:
    """Draw all items of `num_users` new users."""
    types = rng.choice(len(world.type_shares), num_users, p=world.type_shares)
    tastes = rng.integers(0, len(world.tastes), num_users)
    strata = (np.arange(num_users) + rng.random(num_users)) / max(num_users, 1)  # stratified, to keep the total steady
    num_sessions = _num_sessions(rng.permutation(strata), activity.log_sessions, activity.max_sessions)
    starts = _session_starts(rng, num_sessions, world.num_days)
    session_users = np.repeat(np.arange(num_users), num_sessions)
    lengths = np.minimum(rng.geometric(1 / activity.mean_steps, len(starts)), MAX_STEPS)
    first = np.concatenate([[0], lengths.cumsum()[:-1]]).astype(np.int64)  # number of each session's first step
    of_session = np.repeat(np.arange(len(starts)), lengths)
    users = session_users[of_session]
    position = np.arange(len(users)) - first[of_session]
    days = (starts // DAY_MS)[of_session]
    intents = _draw_intents(world, rng, types[users], users, position)
    items, outcomes = _draw_items(world, rng, intents, tastes, users, days, position)
    return Steps(
        users=users,
        sessions=_running_number(session_users)[of_session],
        days=days,
        times=starts[of_session] + _offsets(rng, position, of_session, first),
        items=items,
        outcomes=outcomes,
    )


def _num_sessions(quantiles: np.ndarray, log_mean: float, max_sessions: int) -> np.ndarray:
    """The quantile function of 1 + ⌊log-normal⌋, cut at `max_sessions`."""
    deviates = np.interp(quantiles, *_normal_quantiles())
    return np.minimum(1 + np.floor(np.exp(log_mean + ACTIVITY_SPREAD * deviates)), max_sessions).astype(np.int64)


@lru_cache(maxsize=1)
def _normal_quantiles() -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(0.0, 1.0, 4097)[1:-1]
    return grid, np.array([NormalDist().inv_cdf(p) for p in grid.tolist()])


def _session_starts(rng: np.random.Generator, num_sessions: np.ndarray, num_days: int) -> np.ndarray:
    """Start of every session in ms, ascending per user.

    Each user has an offset of up to two hours. A session starts in a 4-hour slot, at most an hour after this offset,
    and lasts less than an hour. So no session crosses midnight, and sessions of a user are at least two hours apart.
    """
    slots = num_days * SLOTS_PER_DAY
    users = np.repeat(np.arange(len(num_sessions)), num_sessions)
    order = _running_number(users)
    latest = np.minimum(0.7 * slots, slots - 2.0 * num_sessions).clip(0)
    joined = np.where(rng.random(len(num_sessions)) < 0.5, rng.random(len(num_sessions)) * latest, 0.0)[users]
    day_weights = np.where(np.arange(num_days) % 7 < 5, 1.0, WEEKEND_WEIGHT)
    weights = np.concatenate([[0.0], np.outer(day_weights, SLOT_WEIGHTS).ravel().cumsum()])
    from_weight = np.interp(joined, np.arange(slots + 1), weights)
    levels = from_weight + rng.random(len(users)) * (weights[-1] - from_weight)
    drawn = np.searchsorted(weights, levels, side="right") - 1
    wide = users * (2 * slots)  # keeps the users apart in one sort
    drawn = np.sort(wide + drawn) - wide
    distinct = np.maximum.accumulate(wide + drawn - order) - wide + order
    distinct = np.minimum(distinct, slots - num_sessions[users] + order)
    own_offset = rng.integers(0, 2 * HOUR_MS, len(num_sessions))[users]
    return distinct * (4 * HOUR_MS) + own_offset + rng.integers(0, HOUR_MS, len(users))


def _offsets(rng: np.random.Generator, position: np.ndarray, of_session: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Time of each step since its session's start, in ms. Gaps are 20 s to 10 min and add up to less than an hour."""
    extra = np.minimum(rng.lognormal(3.4, 1.1, len(position)), 575.0)
    extra[first] = 0.0
    summed = extra.cumsum()
    so_far = summed - summed[first][of_session]
    last = np.concatenate([first[1:], [len(position)]]) - 1
    scale = np.minimum(1.0, 3_000.0 / np.maximum(so_far[last], 1.0))
    return ((20.0 * position + so_far * scale[of_session]) * 1000).astype(np.int64)


def _draw_intents(
    world: World, rng: np.random.Generator, types: np.ndarray, users: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """The intent of each step: a new draw at some steps, else the intent of the step before."""
    chance = np.where(position == 0, 1 - RESUME, SHIFT)
    anew = rng.random(len(users)) < chance
    anew[np.flatnonzero(np.diff(users, prepend=-1))] = True  # a user's first step
    where = np.flatnonzero(anew)
    drawn = world.type_intents[types[where], _draw_columns(rng, INTENT_WEIGHTS, len(where))]
    return drawn[anew.cumsum() - 1]


def _draw_items(
    world: World,
    rng: np.random.Generator,
    intents: np.ndarray,
    tastes_U: np.ndarray,
    users: np.ndarray,
    days: np.ndarray,
    position: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Items and outcomes of all steps: the first step of every user, then the second step of every user, and so on.

    Args:
      intents: the intent of each step.
      tastes_U: the taste of each user.
      users: the user of each step, ascending.
      days: the day of each step.
      position: the position of each step in its session, from 0.
    """
    items, outcomes = np.empty(len(users), np.int64), np.empty(len(users), np.int64)
    counts_U = np.bincount(users, minlength=len(tastes_U))
    first_U = np.cumsum(counts_U) - counts_U
    longest_first = np.argsort(-counts_U, kind="stable")
    owned_U = np.full(len(tastes_U), -1)
    for number in range(int(counts_U.max(initial=0))):
        who = longest_first[: np.searchsorted(-counts_U[longest_first], -number)]
        now = first_U[who] + number
        opens = position[now] == 0
        previous = np.where(opens, -1, items[now - 1])
        categories = _draw_categories(world, rng, intents[now], previous)
        drawn = _draw_in_categories(world, rng, categories, tastes_U[who], days[now], previous, owned_U[who])
        chances = world.outcome_chances(drawn, tastes_U[who])
        outcome = (rng.random(len(now))[:, None] >= chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
        again = opens & (owned_U[who] >= 0) & (rng.random(len(now)) < REBUY)
        items[now] = np.where(again, owned_U[who], drawn)
        outcomes[now] = np.where(again, BOUGHT, outcome)
        kept = (outcomes[now] == BOUGHT) & world.is_consumable[world.categories[items[now]]]
        owned_U[who[kept]] = items[now[kept]]
    return items, outcomes


def _draw_categories(world: World, rng: np.random.Generator, intents: np.ndarray, previous: np.ndarray) -> np.ndarray:
    limits = world.intent_weights.cumsum(axis=1)[:, :-1]
    columns = (rng.random(len(intents))[:, None] >= limits[intents]).sum(axis=1)
    complements = world.complements[world.categories[previous], _draw_columns(rng, COMPLEMENT_WEIGHTS, len(intents))]
    goes_on = (previous >= 0) & (rng.random(len(intents)) < COMPLEMENT)
    return np.where(goes_on, complements, world.intent_categories[intents, columns])


def _draw_in_categories(
    world: World,
    rng: np.random.Generator,
    categories: np.ndarray,
    tastes: np.ndarray,
    days: np.ndarray,
    previous: np.ndarray,
    owned: np.ndarray,
) -> np.ndarray:
    """Draw an item of each category, by weight and taste."""
    first, end = world.first_items[categories], world.end_items[categories, days]
    places = first[:, None] + np.arange(int((end - first).max(initial=1)))
    inside = places < end[:, None]
    places = np.where(inside, places, first[:, None])
    weights = world.item_weights(places, previous=previous[:, None], owned=owned[:, None], days=days[:, None])
    weights *= inside * world.affinities(places, tastes[:, None])
    sums = weights.cumsum(axis=1)
    levels = rng.random(len(categories)) * sums[:, -1]
    drawn = (sums <= levels[:, None]).sum(axis=1)
    return first + np.minimum(drawn, end - first - 1)  # rounding can pass the end of the range


def _draw_columns(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    return np.searchsorted(weights.cumsum()[:-1], rng.random(count), side="right")


def _running_number(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2 … within each run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
