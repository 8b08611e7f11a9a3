"""The simulated search log, against the events beside it."""

from collections import Counter
from dataclasses import replace
from datetime import date, datetime
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from kdlib.data.queries import normalise_query
from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.events import Plan, block_rows, block_steps
from kdlib.simulation.names import category_names, noun_of
from kdlib.simulation.searches import MAX_RANK, SEARCH_SCHEMA, search_rows
from kdlib.simulation.steps import BOUGHT, CARTED
from tests.simulation.definition import session_openings

PLAN = Plan(
    num_events=60_000,
    num_items=300,
    num_days=8,
    events_per_user=20,
    new_items_per_day=6,
    bot_fraction=0.001,
    duplicate_fraction=0.0,
    broken_fraction=0.0,
    seed=11,
    first_day=date(2026, 2, 23),
    until=date(2026, 3, 2),
    search_fraction=0.3,
)


def whole(rows, plan=PLAN) -> tuple[pa.Table, Counter[str]]:
    blocks = [rows(plan, block) for block in range(plan.num_blocks)]
    return pa.concat_tables([table for table, _, _ in blocks]), sum((counts for _, _, counts in blocks), Counter())


@pytest.fixture(scope="module")
def log() -> tuple[list[dict], Counter[str]]:
    """All searches of PLAN and the counts that the simulator reports."""
    table, counts = whole(search_rows)
    assert table.schema == SEARCH_SCHEMA
    return table.to_pylist(), counts


@pytest.fixture(scope="module")
def events() -> list[dict]:
    return whole(block_rows)[0].to_pylist()


def test_the_counts_are_what_the_rows_hold(log) -> None:
    """Every search has one click (midnight may cut one off), and the counts of all types are right."""
    rows, counts = log
    assert Counter(row["event_type"] for row in rows) == counts
    assert 0 <= counts["search"] - counts["click"] <= 2


def test_searched_items_are_carted_and_bought_like_all_first_items(log) -> None:
    """Clicks lead to carts and purchases as often as sessions' first items do, within 4 standard deviations."""
    counts = log[1]
    steps = [block_steps(PLAN, block)[0] for block in range(PLAN.num_blocks)]
    outcomes = np.concatenate([one.outcomes[session_openings(one)] for one in steps])
    for event_type, outcome in (("cart", CARTED), ("purchase", BOUGHT)):
        share = (outcomes >= outcome).mean()
        assert abs(counts[event_type] - share * counts["click"]) < 4 * np.sqrt(share * (1 - share) * counts["click"])


def test_the_asked_share_of_sessions_begins_with_a_search(log, events) -> None:
    """A gap of half an hour separates sessions, as in the feature job."""
    bots = {user for user, n in Counter(row["user_id"] for row in events).items() if n > 2_000}
    visits = sorted((row["user_id"], datetime.fromisoformat(row["event_time"])) for row in events)
    visits = [visit for visit in visits if visit[0] not in bots]
    starts = 1 + sum(a[0] != b[0] or (b[1] - a[1]).total_seconds() > 1_800 for a, b in pairwise(visits))
    assert log[1]["search"] / starts == pytest.approx(0.3, abs=0.02)
    assert not bots & {row["user_id"] for row in log[0]}


def test_a_search_comes_some_seconds_before_its_click(log) -> None:
    """They have the same user and query and are 2 to 15 seconds apart. A search has no item and no rank."""
    by_user: dict[str, list[dict]] = {}
    for row in log[0]:
        by_user.setdefault(row["user_id"], []).append(row)
        assert (row["item_id"] is None) == (row["position"] is None) == (row["event_type"] == "search")
    for rows in by_user.values():
        for before, row in pairwise(sorted(rows, key=lambda row: row["event_time"])):
            if row["event_type"] == "click":
                then, now = (datetime.fromisoformat(one["event_time"]) for one in (before, row))
                assert before["event_type"] == "search"
                assert before["query"] == row["query"]
                assert 2 <= (now - then).total_seconds() < 15


def test_what_was_clicked_put_into_a_cart_or_bought_is_in_the_events(log, events) -> None:
    """It has the same time and user there: the log explains steps of the events and adds none."""
    found = {(row["user_id"], row["item_id"], row["event_type"], row["event_time"]) for row in events}
    for row in log[0]:
        if row["event_type"] != "search":
            type_ = row["event_type"].replace("click", "view")
            assert (row["user_id"], row["item_id"], type_, row["event_time"]) in found


def test_queries_name_the_item_at_times_misspelt(log) -> None:
    """A query is a noun, a category, or the item's brand and noun.

    Letters may be swapped or in capitals, and blanks doubled.
    """
    products = {row["item_id"]: row for row in catalogue(PLAN.world(), seed=PLAN.seed, until_day=7).to_pylist()}
    kinds: Counter[str] = Counter()
    for row in log[0]:
        if row["event_type"] != "click":
            continue
        product, query = products[row["item_id"]], normalise_query(row["query"])
        noun = noun_of(product["category"])
        brand = normalise_query(product["brand"])
        if query == noun or query == product["category"]:
            kinds["noun" if query == noun else "category"] += 1
        elif query == f"{brand} {noun}":
            kinds["brand"] += 1
        else:
            kinds["typo"] += 1
            texts = (noun, product["category"], f"{brand} {noun}")
            assert sorted(query.replace(" ", "")) in [sorted(text.replace(" ", "")) for text in texts]
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    assert shares == pytest.approx({"noun": 0.33, "category": 0.38, "brand": 0.24, "typo": 0.05}, abs=0.04)
    typed = [row["query"] for row in log[0]]
    assert any(query.isupper() for query in typed)
    assert any("  " in query for query in typed)


def test_ranks_fall_off_as_one_over_the_rank(log) -> None:
    """The first rank is about twice as frequent as the second, and no rank is beyond `MAX_RANK`."""
    ranks = np.bincount([row["position"] for row in log[0] if row["event_type"] == "click"], minlength=MAX_RANK + 1)
    assert ranks[0] == 0
    assert len(ranks) == MAX_RANK + 1
    chances = 1 / np.arange(1, MAX_RANK + 1)
    assert ranks[1:] / ranks.sum() == pytest.approx(chances / chances.sum(), abs=0.02)


def test_searches_change_nothing_of_the_events() -> None:
    """The events are the same for any share of searches. With a share of 0 the log is empty."""
    none, most = (replace(PLAN, search_fraction=fraction) for fraction in (0.0, 0.9))
    assert whole(block_rows, none)[0].equals(whole(block_rows, most)[0])
    assert whole(search_rows, none)[0].num_rows == 0


def test_an_earlier_night_of_a_period_sees_the_same_searches_up_to_its_day(log) -> None:
    """The searches of each day are the same, so that runs can follow each other."""
    early = replace(PLAN, until=date(2026, 2, 26))
    assert whole(search_rows, early)[0].to_pylist() == [
        row
        for block in range(PLAN.num_blocks)
        for row in search_rows(PLAN, block)[0].to_pylist()
        if row["event_time"][:10] <= "2026-02-26"
    ]
    _, starts, _ = search_rows(early, 0)
    assert len(starts) == 5


def test_a_noun_is_what_all_kinds_of_a_category_share() -> None:
    """The noun does not depend on the words before it or on the series."""
    names = category_names(2_000)
    assert {noun_of(names[n]) for n in (0, 128, 1_999)} == {"boots", noun_of(names[1_999])}
    assert noun_of("women's hiking boots series 2") == noun_of("boots") == "boots"
