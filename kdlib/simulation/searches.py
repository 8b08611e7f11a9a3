"""The simulated search log: some sessions begin with a query for their first item and a click on it.

The log has random numbers of its own: the events are the same with and without searches. Carts and purchases of a
searched item are those of the events.
"""

from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from kdlib.config.data import SEARCH_EVENT_TYPES
from kdlib.simulation.events import USER_DIGITS, Plan, block_steps, draw_sales, human_users, write_days
from kdlib.simulation.names import BRANDS, category_names, noun_of
from kdlib.simulation.steps import DAY_MS
from kdlib.simulation.text import number_texts, time_texts
from kdlib.simulation.world import ITEM_DIGITS, World

SEARCH_SCHEMA = pa.schema(
    [
        ("event_time", pa.string()),  # 2026-11-22T13:45:12.345Z
        ("user_id", pa.string()),
        ("query", pa.string()),  # as it was typed
        ("event_type", pa.string()),  # one of SEARCH_EVENT_TYPES
        ("item_id", pa.string()),  # null for a search
        ("position", pa.int32()),  # the rank at which the item was shown, from 1; null for a search
    ]
)
MAX_RANK = 20
"""The highest rank of a clicked item. Rank r has a probability ∝ 1/r: people look at the first results most."""
KIND_WEIGHTS = np.array([0.35, 0.4, 0.25])
"""Shares of the three kinds of queries: a noun; a category's name; a brand and a noun."""
TYPO, UPPER, BLANKS = 0.06, 0.04, 0.03
"""Shares of the queries with two letters swapped, in capitals, and with doubled blanks."""
LEAST_DELAY_MS, MOST_DELAY_MS = 2_000, 15_000
"""Range of the time from a query to its click."""
_SEARCH, _CLICK, _CART, _PURCHASE = range(len(SEARCH_EVENT_TYPES))


def search_rows(plan: Plan, block: int) -> tuple[pa.Table, np.ndarray, Counter[str]]:
    """The search log of a block up to the last day that is written, in the order of time.

    Returns:
      The table with SEARCH_SCHEMA; the first row of each day, int64 [days + 1]; the number of rows of each event type.
    """
    world = plan.world()
    steps, rng_of_events = block_steps(plan, block)
    sales = draw_sales(steps, rng_of_events)
    rng = np.random.default_rng([plan.seed, 3, block])
    opens = np.diff(steps.users, prepend=-1) != 0
    opens |= np.diff(steps.sessions, prepend=-1) != 0
    first = np.flatnonzero(opens)
    searched = first[rng.random(len(first)) < plan.search_fraction]
    queries = np.array(_typed(world, steps.items[searched], rng), dtype=object)
    chances = 1.0 / np.arange(1, MAX_RANK + 1)
    ranks = rng.choice(MAX_RANK, len(searched), p=chances / chances.sum()) + 1
    delays = rng.integers(LEAST_DELAY_MS, MOST_DELAY_MS, len(searched))
    search_of = np.full(len(steps.items), -1)  # step → number of the search before it
    search_of[searched] = np.arange(len(searched))
    carts = np.flatnonzero(search_of[sales.carted] >= 0)
    purchases = np.flatnonzero(search_of[sales.carted[sales.bought]] >= 0)
    row_steps = np.concatenate([searched, searched, sales.carted[carts], sales.carted[sales.bought[purchases]]])
    times = np.concatenate(
        [
            np.maximum(steps.times[searched] - delays, 0),  # a search cannot lie before the period
            steps.times[searched],
            sales.cart_times[carts],
            sales.purchase_times[purchases],
        ]
    )
    types = np.repeat(np.arange(4), [len(searched), len(searched), len(carts), len(purchases)])
    order = np.lexsort((types, times))
    order = order[: np.searchsorted(times[order], plan.num_days_written * DAY_MS)]
    row_steps, times, types = row_steps[order], times[order], types[order]
    of_search, is_search = search_of[row_steps], types == _SEARCH
    items = number_texts("i", world.codes[steps.items[row_steps]], ITEM_DIGITS).to_numpy(zero_copy_only=False)
    table = pa.table(
        {
            "event_time": time_texts(times, plan.first_day),
            "user_id": number_texts("u", human_users(plan, block)[steps.users[row_steps]], USER_DIGITS),
            "query": pa.array(queries[of_search], pa.string()),
            "event_type": pa.array(SEARCH_EVENT_TYPES).take(pa.array(types)),
            "item_id": pa.array(items, pa.string(), mask=is_search),
            "position": pa.array(ranks[of_search].astype(np.int32), mask=is_search),
        },
        schema=SEARCH_SCHEMA,
    )
    counts: Counter[str] = Counter()
    counts.update(dict(zip(SEARCH_EVENT_TYPES, np.bincount(types, minlength=4).tolist(), strict=True)))
    return table, np.searchsorted(times, np.arange(plan.num_days_written + 1) * DAY_MS), counts


def write_search_task(plan: Plan, number: int, folder: Path) -> Counter[str]:
    """Write the searches of `plan.tasks()[number]` in the same folders and files as `write_task` writes events.

    Returns:
      The number of rows of each event type.
    """
    dictionary = [name for name in SEARCH_SCHEMA.names if name != "event_time"]
    return write_days(plan, number, folder, rows=search_rows, schema=SEARCH_SCHEMA, dictionary=dictionary)


def _typed(world: World, items: np.ndarray, rng: np.random.Generator) -> list[str]:
    """The query that a user types to find each item."""
    names, nouns = _words(len(world.first_items))
    brands = world.brands[items].tolist()
    kinds = rng.choice(len(KIND_WEIGHTS), len(items), p=KIND_WEIGHTS).tolist()
    slips, places = rng.random(len(items)).tolist(), rng.random(len(items)).tolist()
    typed = []
    for category, brand, kind, slip, place in zip(
        world.categories[items].tolist(), brands, kinds, slips, places, strict=True
    ):
        text = (nouns[category], names[category], f"{BRANDS[brand]} {nouns[category]}")[kind]
        if slip < TYPO:
            at = int(place * (len(text) - 1))
            text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        elif slip < TYPO + UPPER:
            text = text.upper()
        elif slip < TYPO + UPPER + BLANKS:
            text = text.replace(" ", "  ")
        typed.append(text)
    return typed


@lru_cache(maxsize=1)
def _words(num_categories: int) -> tuple[list[str], list[str]]:
    names = category_names(num_categories)
    return names, [noun_of(name) for name in names]
