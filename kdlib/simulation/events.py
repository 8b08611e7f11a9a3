"""Turns drawn steps into raw rows like a shop's, with carts, purchases, bots, duplicates and broken rows.

Writes the rows as Parquet. The settings alone cut the work into blocks of users. Each block has random numbers of its
own, so the files do not depend on the number of processes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdlib.simulation.build import build_world
from kdlib.simulation.steps import BOUGHT, DAY_MS, VIEWED, Steps, activity_for, draw_steps
from kdlib.simulation.text import address_texts, number_texts, scrambled, scrambled_hex_texts, time_texts
from kdlib.simulation.world import ITEM_DIGITS, World

RAW_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_time", pa.string()),  # 2026-11-22T13:45:12.345Z
        ("event_type", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("price", pa.float64()),
        ("ip", pa.string()),
        ("user_agent", pa.string()),
    ]
)
BROKEN_KINDS = ("missing_user", "missing_item", "bad_time", "out_of_period", "unknown_event_type")
"""Kinds of broken rows, named after the quarantine reasons of `kdlib.features.clean`. All kinds are equally
frequent."""
PLANTED = ("clean", "duplicate", "bot_user", *BROKEN_KINDS)
BOT_VIEWS = (2_200, 3_800)
"""Range of a bot's number of views on its one day; above any sensible `max_events_per_user_day`."""
ROWS_PER_BLOCK = 500_000
BLOCKS_PER_TASK = 16
USER_DIGITS = 10
_CLEAN, _DUPLICATE, _BOT, _BROKEN = 0, 1, 2, 3
_REPETITIVE = [name for name in RAW_SCHEMA.names if name not in ("event_id", "event_time")]
_EVENT_TYPES = pa.array(["view", "cart", "purchase", "heartbeat"])
_BAD_TIME, _FAR_TIME = "2026-13-45T99:00", "2099-06-01T12:00:00.000Z"
_AGENTS = pa.array(
    [
        f"Mozilla/5.0 ({system}) {browser}"
        for system in ("Windows NT 10.0; Win64; x64", "Macintosh; Mac OS X", "X11; Linux x86_64", "Linux; Android 15")
        for browser in ("Firefox/141.0", "Chrome/139.0.0.0 Safari/537.36")
    ]
)


@dataclass(frozen=True)
class Plan:
    """All values that the events depend on. The fields mean the same as in `SimulateConfig`."""

    num_events: int
    num_items: int
    num_days: int
    events_per_user: int
    new_items_per_day: int
    bot_fraction: float
    duplicate_fraction: float
    broken_fraction: float
    seed: int
    first_day: date
    """The period's day 0."""
    until: date
    """The last day that is written. All runs of a period see the same shop, and each later run sees more days."""
    items_per_category: int = 24
    popularity_exponent: float = 0.6
    taste_strength: float = 1.0
    consumable_fraction: float = 0.15
    mean_session_length: float = 3.0
    search_fraction: float = 0.0
    """For the searches only (`kdlib.simulation.searches`)."""

    @property
    def num_days_written(self) -> int:
        """Number of days of the period up to `until`, included."""
        return (self.until - self.first_day).days + 1

    @property
    def num_users(self) -> int:
        """Number of users, bots included, that gives about `num_events` rows of all kinds."""
        human = self.events_per_user * (1 + self.duplicate_fraction + self.broken_fraction)
        bot = sum(BOT_VIEWS) / 2
        return max(1, round(self.num_events / ((1 - self.bot_fraction) * human + self.bot_fraction * bot)))

    @property
    def num_blocks(self) -> int:
        """Number of blocks of users. Small data has several too, so that a laptop's cores share the work."""
        return max(min(4, self.num_events // 50_000), -(-self.num_events // ROWS_PER_BLOCK), 1)

    def world(self) -> World:
        """The world of this plan, which the events do not show."""
        return build_world(
            num_items=self.num_items,
            num_days=self.num_days,
            new_items_per_day=self.new_items_per_day,
            seed=self.seed,
            items_per_category=self.items_per_category,
            popularity_exponent=self.popularity_exponent,
            taste_strength=self.taste_strength,
            consumable_fraction=self.consumable_fraction,
        )

    def users_of(self, block: int) -> range:
        """The numbers of a block's users."""
        return range(self.num_users * block // self.num_blocks, self.num_users * (block + 1) // self.num_blocks)

    def bots_of(self, block: int) -> np.ndarray:
        """The numbers of a block's bots, which are spread evenly over all users."""
        num_bots = round(self.num_users * self.bot_fraction)
        bots = (np.arange(num_bots) * self.num_users + self.num_users // 2) // max(num_bots, 1)
        users = self.users_of(block)
        return bots[(bots >= users.start) & (bots < users.stop)]

    def tasks(self) -> list[range]:
        """Ranges of blocks. One process writes each range, into files of its own."""
        size = max(1, min(BLOCKS_PER_TASK, self.num_blocks // 4))
        return [range(start, min(start + size, self.num_blocks)) for start in range(0, self.num_blocks, size)]


def user_id_of(number: int) -> str:
    """The id of a user number."""
    return f"u{number:0{USER_DIGITS}d}"


def block_steps(plan: Plan, block: int) -> tuple[Steps, np.random.Generator]:
    """The true steps of a block's users without bots, and the random generator for the draws that follow.

    `Steps.users` numbers the block's users without bots from 0, in the order of their numbers.
    """
    rng = np.random.default_rng([plan.seed, 2, block])
    activity = activity_for(
        events_per_user=plan.events_per_user, num_days=plan.num_days, mean_session_length=plan.mean_session_length
    )
    num_users = len(plan.users_of(block)) - len(plan.bots_of(block))
    return draw_steps(plan.world(), rng, num_users=num_users, activity=activity), rng


def human_users(plan: Plan, block: int) -> np.ndarray:
    """int64, the user numbers behind the values of `Steps.users`."""
    return np.setdiff1d(np.array(plan.users_of(block), np.int64), plan.bots_of(block))


@dataclass(frozen=True)
class Sales:
    """The carts and purchases that follow some steps."""

    carted: np.ndarray
    """int64, the numbers of the steps whose item is put into a cart."""
    bought: np.ndarray
    """int64, the places in `carted` of the items that are bought."""
    cart_times: np.ndarray
    """int64, as long as `carted`; milliseconds from the start of the period."""
    purchase_times: np.ndarray
    """int64, as long as `bought`."""


def draw_sales(steps: Steps, rng: np.random.Generator) -> Sales:
    """The carts and purchases of a block. Pass `rng` as `block_steps` returned it: the times are its next draws."""
    carted = np.flatnonzero(steps.outcomes > VIEWED)
    bought = np.flatnonzero(steps.outcomes[carted] == BOUGHT)
    cart_times = steps.times[carted] + rng.integers(2_000, 8_000, len(carted))
    return Sales(carted, bought, cart_times, cart_times[bought] + rng.integers(3_000, 10_000, len(bought)))


def block_rows(plan: Plan, block: int) -> tuple[pa.Table, np.ndarray, Counter[str]]:
    """The raw rows of a block up to the last day that is written, in the order of time.

    Returns:
      The table with RAW_SCHEMA; the first row of each day, int64 [days + 1]; counts.

      counts: the number of rows of each kind in PLANTED, and the number of `users`.
    """
    world = plan.world()
    steps, rng = block_steps(plan, block)
    sales = draw_sales(steps, rng)
    carted, bought = sales.carted, sales.bought
    bots = plan.bots_of(block)
    bot_users = np.repeat(bots, rng.integers(*BOT_VIEWS, len(bots)))
    bot_days = rng.integers(0, plan.num_days, len(bots))[np.searchsorted(bots, bot_users)]
    there = np.flatnonzero(world.launch_days <= 0)
    row_steps = np.concatenate([np.arange(len(steps.items)), carted, carted[bought]])
    num_clean = len(row_steps)
    users = np.concatenate([human_users(plan, block)[steps.users[row_steps]], bot_users])
    items = np.concatenate([steps.items[row_steps], there[rng.integers(0, len(there), len(bot_users))]])
    bot_times = bot_days * DAY_MS + rng.integers(0, DAY_MS, len(bot_users))
    times = np.concatenate([steps.times, sales.cart_times, sales.purchase_times, bot_times])
    types = np.repeat([0, 1, 2, 0], [len(steps.items), len(carted), len(bought), len(bot_users)])
    copied = rng.choice(num_clean, round(plan.duplicate_fraction * num_clean), replace=False)
    spoilt = rng.choice(num_clean, round(plan.broken_fraction * num_clean), replace=False)
    source = np.concatenate([np.arange(len(users)), copied, spoilt])
    kinds = np.repeat([_CLEAN, _BOT, _DUPLICATE, _BROKEN], [num_clean, len(bot_users), len(copied), len(spoilt)])
    kinds[len(kinds) - len(spoilt) :] += np.arange(len(spoilt)) % len(BROKEN_KINDS)
    numbers = np.where(kinds < _BROKEN, source, np.arange(len(source)))  # a duplicate has the event id of its source
    order = np.argsort(times[source], kind="stable")
    order = order[: np.searchsorted(times[source[order]], plan.num_days_written * DAY_MS)]
    source, kinds, numbers = source[order], kinds[order], numbers[order]
    row_times = times[source]
    columns = {
        "event_id": scrambled_hex_texts((np.uint64(block) << np.uint64(32)) + numbers.astype(np.uint64)),
        "event_time": time_texts(row_times, plan.first_day),
        "event_type": _EVENT_TYPES.take(pa.array(types[source])),
        "user_id": number_texts("u", users[source], USER_DIGITS),
        "item_id": number_texts("i", world.codes[items[source]], ITEM_DIGITS),
        "price": pa.array(world.prices[items[source]]),
        "ip": address_texts(users[source]),
        "user_agent": _AGENTS.take(pa.array(scrambled(users[source]) % np.uint64(len(_AGENTS)))),
    }
    table = pa.table(_spoil(columns, kinds), schema=RAW_SCHEMA)
    found = np.bincount(kinds, minlength=_BROKEN + len(BROKEN_KINDS)).tolist()
    planted = Counter({"clean": found[_CLEAN], "duplicate": found[_DUPLICATE], "bot_user": found[_BOT]})
    planted.update(dict(zip(BROKEN_KINDS, found[_BROKEN:], strict=True)) | {"users": len(np.unique(users[source]))})
    return table, np.searchsorted(row_times, np.arange(plan.num_days_written + 1) * DAY_MS), planted


def write_task(plan: Plan, number: int, folder: Path) -> Counter[str]:
    """Write the blocks of `plan.tasks()[number]` as `day=YYYY-MM-DD/part-<number>.parquet`, one row group a block.

    Returns:
      The number of rows of each kind in PLANTED, and the number of `users` that have a row.
    """
    return write_days(plan, number, folder, rows=block_rows, schema=RAW_SCHEMA, dictionary=_REPETITIVE)


def write_days(
    plan: Plan,
    number: int,
    folder: Path,
    *,
    rows: Callable[[Plan, int], tuple[pa.Table, np.ndarray, Counter[str]]],
    schema: pa.Schema,
    dictionary: Any,  # the type stub knows bool only
) -> Counter[str]:
    """Write a task's blocks as `day=YYYY-MM-DD/part-<number>.parquet`, one row group a block.

    Args:
      plan: the values of the simulation.
      number: number of the task.
      folder: folder for the files.
      rows: gives a block's rows, the first row of each day, and counts, as `block_rows` does.
      schema: schema of the rows.
      dictionary: names of the columns whose values repeat.

    Returns:
      The sums of the counts.
    """
    writers: dict[int, pq.ParquetWriter] = {}
    planted: Counter[str] = Counter()
    try:
        for block in plan.tasks()[number]:
            table, starts, found = rows(plan, block)
            planted.update(found)
            for day in np.flatnonzero(np.diff(starts)).tolist():
                if day not in writers:
                    home = folder / f"day={(plan.first_day + timedelta(days=day)).isoformat()}"
                    home.mkdir(exist_ok=True)
                    path = home / f"part-{number:05d}.parquet"
                    writers[day] = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=dictionary)
                writers[day].write_table(table.slice(starts[day], starts[day + 1] - starts[day]))
    finally:
        for writer in writers.values():
            writer.close()
    return planted


def _spoil(columns: dict[str, pa.Array], kinds: np.ndarray) -> dict[str, pa.Array]:
    """Break the rows of the broken kinds."""
    rows = {kind: np.flatnonzero(kinds == _BROKEN + number) for number, kind in enumerate(BROKEN_KINDS)}
    bad_users: list[str | None] = [None if number % 2 else "" for number in range(len(rows["missing_user"]))]
    for column, kind, values in (
        ("user_id", "missing_user", bad_users),
        ("item_id", "missing_item", [None] * len(rows["missing_item"])),
        ("event_time", "bad_time", [_BAD_TIME] * len(rows["bad_time"])),
        ("event_time", "out_of_period", [_FAR_TIME] * len(rows["out_of_period"])),
        ("event_type", "unknown_event_type", ["heartbeat"] * len(rows["unknown_event_type"])),
    ):
        mask = np.zeros(len(kinds), bool)
        mask[rows[kind]] = True
        columns[column] = pc.call_function(
            "replace_with_mask", [columns[column], pa.array(mask), pa.array(values, pa.string())]
        )
    return columns
