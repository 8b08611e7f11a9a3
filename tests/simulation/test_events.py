"""What the simulator writes, against what it reports."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.events import (
    BOT_VIEWS,
    BROKEN_KINDS,
    RAW_SCHEMA,
    Plan,
    block_rows,
    block_steps,
    human_users,
    user_id_of,
)
from kdlib.simulation.steps import BOUGHT, CARTED, ROWS_PER_STEP, VIEWED
from tests.simulation.definition import session_openings

PLAN = Plan(
    num_events=60_000,
    num_items=300,
    num_days=8,
    events_per_user=20,
    new_items_per_day=6,
    bot_fraction=0.001,
    duplicate_fraction=0.02,
    broken_fraction=0.01,
    seed=11,
    first_day=date(2026, 2, 23),
    until=date(2026, 3, 2),
)


@pytest.fixture(scope="module")
def written() -> tuple[pa.Table, Counter[str]]:
    """All rows of PLAN and the counts that the simulator reports."""
    blocks = [block_rows(PLAN, block) for block in range(PLAN.num_blocks)]
    return pa.concat_tables([table for table, _, _ in blocks]), sum((planted for _, _, planted in blocks), Counter())


def seconds_of(row: dict) -> float:
    """The row's time since the period's start."""
    return (datetime.fromisoformat(row["event_time"]) - datetime(2026, 2, 23, tzinfo=UTC)).total_seconds()


def clean_rows(table: pa.Table) -> list[dict]:
    """The rows that a correct cleaning keeps, judged by their content alone, sorted by user and time."""
    views = Counter((row["user_id"], row["event_time"][:10]) for row in table.to_pylist())
    bots = {user for (user, _), count in views.items() if user and count > 2_000}
    first = {row["event_id"]: row for row in table.to_pylist()}
    kept = [
        row
        for row in first.values()
        if row["user_id"]
        and row["user_id"] not in bots
        and row["item_id"]
        and row["event_type"] in ("view", "cart", "purchase")
        and "2026-02-23" <= row["event_time"][:10] <= "2026-03-02"
    ]
    return sorted(kept, key=lambda row: (row["user_id"], row["event_time"]))


def test_the_planted_counts_are_what_the_rows_hold(written: tuple[pa.Table, Counter[str]]) -> None:
    """Every kind of fault is counted exactly, and the kinds add up to the rows."""
    table, planted = written
    assert table.schema == RAW_SCHEMA
    assert planted.total() - planted["users"] == table.num_rows
    users = table["user_id"].to_pylist()
    times = table["event_time"].to_pylist()
    found = {
        "duplicate": table.num_rows - len(set(table["event_id"].to_pylist())),
        "missing_user": sum(not user for user in users),
        "missing_item": table["item_id"].null_count,
        "bad_time": sum(time == "2026-13-45T99:00" for time in times),
        "out_of_period": sum(time.startswith("2099") for time in times),
        "unknown_event_type": table["event_type"].to_pylist().count("heartbeat"),
    }
    assert found == {kind: planted[kind] for kind in found}
    assert {None, ""} <= set(users)
    assert min(planted[kind] for kind in BROKEN_KINDS) > 80
    assert planted["clean"] == len(clean_rows(table))
    assert planted["duplicate"] == pytest.approx(0.02 * planted["clean"], abs=PLAN.num_blocks)
    assert sum(planted[kind] for kind in BROKEN_KINDS) == pytest.approx(0.01 * planted["clean"], abs=PLAN.num_blocks)


def test_duplicates_are_equal_in_every_column(written: tuple[pa.Table, Counter[str]]) -> None:
    """Rows with the same event id are equal."""
    table, planted = written
    assert table.num_rows - len({tuple(row.values()) for row in table.to_pylist()}) == planted["duplicate"]


def test_every_bot_has_more_than_2000_views_on_one_day(written: tuple[pa.Table, Counter[str]]) -> None:
    """All rows of a bot are on one day. Nobody else has nearly as many."""
    table, planted = written
    bots = {user_id_of(number) for block in range(PLAN.num_blocks) for number in PLAN.bots_of(block)}
    days = Counter((row["user_id"], row["event_time"][:10]) for row in table.to_pylist() if row["user_id"])
    assert len(bots) == round(PLAN.num_users * 0.001) > 1
    assert {user for (user, _), count in days.items() if count > 2_000} == bots
    assert sum(user in bots for user, _ in days) == len(bots)
    assert sum(count for (user, _), count in days.items() if user in bots) == planted["bot_user"]
    assert max(count for (user, _), count in days.items() if user not in bots) < 500


def test_clean_rows_collapse_to_the_true_steps(written: tuple[pa.Table, Counter[str]]) -> None:
    """With sessions cut at 30 minutes and repeats collapsed, each user has the true items, outcomes, session numbers
    and days."""
    table, _ = written
    world = PLAN.world()
    number_of = {item_id: number for number, item_id in enumerate(world.item_ids())}
    outcome_of = {"view": VIEWED, "cart": CARTED, "purchase": BOUGHT}
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    user, item, time, session = "", "", 0.0, 0
    for row in clean_rows(table):
        gap = seconds_of(row) - time
        new_user = row["user_id"] != user
        session = 0 if new_user else session + (gap > 1800)
        if new_user or gap > 1800 or row["item_id"] != item:
            assert row["event_type"] == "view"
            assert new_user or gap < 600 or gap > 7200
            day = int(seconds_of(row) // 86_400)
            found.setdefault(row["user_id"], []).append((number_of[row["item_id"]], session, day, VIEWED))
        else:
            found[row["user_id"]][-1] = (*found[row["user_id"]][-1][:3], outcome_of[row["event_type"]])
        user, item, time = row["user_id"], row["item_id"], seconds_of(row)
    truth: dict[str, list[tuple[int, int, int, int]]] = {}
    for block in range(PLAN.num_blocks):
        steps, _ = block_steps(PLAN, block)
        numbers = human_users(PLAN, block)[steps.users]
        columns = (array.tolist() for array in (numbers, steps.items, steps.sessions, steps.days, steps.outcomes))
        for user, *step in zip(*columns, strict=True):
            truth.setdefault(user_id_of(user), []).append(tuple(step))
    assert found == truth


def test_carts_and_purchases_follow_a_view_of_their_item(written: tuple[pa.Table, Counter[str]]) -> None:
    """A purchase comes right after a cart, a cart right after a view, of the same user and item, within 20 seconds."""
    table, _ = written
    rows = clean_rows(table)
    before = {"cart": "view", "purchase": "cart"}
    for earlier, row in pairwise(rows):
        if row["event_type"] in before:
            assert (earlier["user_id"], earlier["item_id"]) == (row["user_id"], row["item_id"])
            assert earlier["event_type"] == before[row["event_type"]]
            assert 0 < seconds_of(row) - seconds_of(earlier) < 20
    outcomes = Counter(
        outcome for block in range(PLAN.num_blocks) for outcome in block_steps(PLAN, block)[0].outcomes.tolist()
    )
    assert Counter(row["event_type"] for row in rows) == {
        "view": outcomes.total(),
        "cart": outcomes[CARTED] + outcomes[BOUGHT],
        "purchase": outcomes[BOUGHT],
    }
    assert min(outcomes.values()) > 1_000


def test_new_items_appear_from_their_launch_day_on(written: tuple[pa.Table, Counter[str]]) -> None:
    """No row shows an item before its launch. Items launched in the period have rows, on their first day too."""
    table, _ = written
    world = PLAN.world()
    launch = dict(zip(world.item_ids(), world.launch_days.tolist(), strict=True))
    ages = [
        seconds_of(row) // 86_400 - launch[row["item_id"]] for row in clean_rows(table) if launch[row["item_id"]] > 0
    ]
    assert Counter(world.launch_days[world.launch_days > 0].tolist()) == dict.fromkeys(range(1, 8), 6)
    assert min(ages) == 0
    assert len(ages) > 500


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_events": 400_000, "num_days": 30, "events_per_user": 30},
        {"events_per_user": 5},
        {"num_days": 4, "bot_fraction": 0.01},
        {"taste_strength": 0.0},
        {"consumable_fraction": 0.5},
        {"mean_session_length": 6.0},
    ],
)
def test_the_number_of_rows_is_near_the_one_asked_for(changes: dict) -> None:
    """The mean number of a user's rows is `events_per_user`, within 2.5% and the spread of the sessions' lengths."""
    plan = replace(PLAN, **changes)
    plan = replace(plan, until=plan.first_day + timedelta(days=plan.num_days - 1))
    planted = sum((block_rows(plan, block)[2] for block in range(plan.num_blocks)), Counter())
    num_bots = round(plan.num_users * plan.bot_fraction)
    bot_rows, rows = planted["bot_user"], planted.total() - planted["users"] - planted["bot_user"]
    wanted = (plan.num_users - num_bots) * plan.events_per_user * 1.03  # 2% duplicates, 1% broken ones
    assert wanted + num_bots * sum(BOT_VIEWS) / 2 == pytest.approx(plan.num_events, abs=sum(BOT_VIEWS) / 4)
    num_sessions = wanted / (plan.mean_session_length * ROWS_PER_STEP)
    assert rows == pytest.approx(
        wanted, rel=0.025 + 2 / num_sessions**0.5
    )  # the standard deviation of a length is about its mean
    assert BOT_VIEWS[0] * num_bots <= bot_rows < BOT_VIEWS[1] * num_bots


def test_a_plan_hands_the_length_of_sessions_on() -> None:
    """Blocks have sessions of the plan's mean length, within 4 standard errors."""
    steps, _ = block_steps(replace(PLAN, mean_session_length=4.0), 0)
    lengths = np.diff(np.flatnonzero(session_openings(steps)), append=len(steps.items))
    assert abs(lengths.mean() - 4.0) < 4 * lengths.std() / len(lengths) ** 0.5


def test_an_earlier_night_of_a_period_sees_the_same_shop_up_to_its_day(written: tuple[pa.Table, Counter[str]]) -> None:
    """Its rows are exactly the rows of the whole period up to the end of its day.

    More users, bots and products come later.
    """
    table, planted = written
    early = replace(PLAN, until=date(2026, 2, 26))
    blocks = [block_rows(early, block) for block in range(early.num_blocks)]
    seen = pa.concat_tables([rows for rows, _, _ in blocks]).to_pylist()
    assert all(len(starts) == 5 and starts[-1] == rows.num_rows for rows, starts, _ in blocks)
    whole = [row for row in table.to_pylist() if row["event_time"][:4] == "2026"]  # a broken time has no day
    assert [row for row in seen if row["event_time"][:4] == "2026" and row["event_time"][5:7] != "13"] == [
        row for row in whole if row["event_time"][:10] <= "2026-02-26"
    ]
    counts = sum((found for _, _, found in blocks), Counter())
    assert counts.total() - counts["users"] == len(seen)
    assert counts["users"] < planted["users"]
    products = catalogue(PLAN.world(), seed=PLAN.seed, until_day=3)
    later = catalogue(PLAN.world(), seed=PLAN.seed, until_day=7)
    assert products.num_rows == 300 + 3 * 6
    assert set(products["item_id"].to_pylist()) < set(later["item_id"].to_pylist())
    assert {row["item_id"] for row in seen if row["item_id"]} <= set(products["item_id"].to_pylist())
