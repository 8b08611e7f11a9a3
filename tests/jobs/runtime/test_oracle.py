"""The simulator's true model judges lists, from tables as `build-features` makes them."""

from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from jobs.runtime.oracle import BEST, knows_the_truth, truth_of
from kdlib.config.data import EVENT_TYPES
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows
from kdlib.simulation.input import plan_of
from kdlib.simulation.oracle import Oracle
from kdlib.simulation.steps import BOUGHT, CARTED, VIEWED
from kdlib.store import tables

DS, FIRST = date(2026, 3, 4), date(2026, 3, 1)
SIMULATE = {"num_events": 10_000, "num_items": 200, "num_days": 4, "events_per_user": 12}


def config(**features) -> RunConfig:
    document = {"name": "x", "ds": DS, "output_dir": "out", "input": {"simulate": SIMULATE}, "features": features}
    return RunConfig.model_validate(document)


def histories(rows: list[tuple[list[int], list[int], list[str], list[int], int | None]]) -> pa.Table:
    """Rows of (items, days, event types, sessions, test position)."""
    items, days, types, sessions, test = (list(column) for column in zip(*rows, strict=True))
    start = datetime(2026, 3, 1, 8)
    return pa.table(
        {
            "user_id": [f"u{number}" for number in range(len(rows))],
            "item_indices": items,
            "event_types": [[EVENT_TYPES.index(one) for one in row] for row in types],
            "event_times": [
                [start + timedelta(days=day, minutes=place) for place, day in enumerate(row)] for row in days
            ],
            "session_numbers": sessions,
            "num_train": [len(row) for row in items],
            "validation_position": pa.nulls(len(rows), pa.int32()),
            "test_position": pa.array(test, pa.int32()),
            "user_values": [[]] * len(rows),
        }
    ).cast(tables.HISTORIES.schema)


@pytest.fixture
def found():
    """The world, its vocabulary in the order of the ids, four histories, and the four items in them."""
    world = plan_of(config()).world()
    there = np.flatnonzero(world.launch_days <= 0).tolist()
    item_ids = sorted(world.item_id_of(number) for number in there)
    category = world.categories[world.number_of(item_ids[0])]
    near = [v for v, item in enumerate(item_ids) if world.categories[world.number_of(item)] == category][:4]
    a, b, c, d = near
    table = histories(
        [
            ([a, b, c], [0, 0, 3], ["view", "cart", "view"], [0, 0, 1], 2),
            ([a, b], [0, 1], ["purchase", "favourite"], [0, 1], None),
            ([a, a, b], [0, 1, 1], ["view", "cart", "view"], [0, 0, 0], None),  # a view and its cart are one step
            ([d, a], [0, 3], ["view", "view"], [0, 1], 1),
        ]
    )
    return world, item_ids, table, near


def test_a_list_is_worth_the_true_probabilities_of_its_items(found) -> None:
    """Outcomes, sessions and days come from the histories. A place after the end of a list is worth 0."""
    world, item_ids, table, (a, b, c, d) = found
    rows = evaluation_rows(table, position_column="test_position", with_marks=True, everyone=True)
    lists = {"student": np.tile([c, d, -1], (4, 1))}
    truth = truth_of(config(), table, item_ids, rows, lists, top=3)
    numbers = np.array([world.number_of(item) for item in item_ids])
    history = (numbers[[a, b]], [VIEWED, CARTED], [0, 0], [0, 0])
    second = (numbers[[a, b]], [BOUGHT, VIEWED], [0, 1], [0, 1])
    third = (numbers[[a, b]], [CARTED, VIEWED], [0, 0], [0, 1])
    fourth = (numbers[[d]], [VIEWED], [0], [0])
    scores = Oracle(world, target_day=3).scores(*zip(history, second, third, fourth, strict=True))[:, numbers]
    np.testing.assert_allclose(truth.probabilities["student"][:, :2], scores[:, [c, d]])
    assert (truth.probabilities["student"][:, 2] == 0).all()


def test_the_best_list_holds_the_most_probable_new_items(found) -> None:
    """No list of unseen items has a higher probability. The target's rank is its rank under the true model."""
    _, item_ids, table, (a, b, c, d) = found
    rows = evaluation_rows(table, position_column="test_position", with_marks=True, everyone=True)
    everything = np.argsort(np.random.default_rng(1).random((4, len(item_ids))), axis=1)
    truth = truth_of(config(), table, item_ids, rows, {"all": everything}, top=3)
    for row, seen in enumerate([{a, b}, {a, b}, {a, b}, {d}]):
        chances = {
            item: p
            for item, p in zip(everything[row], truth.probabilities["all"][row], strict=True)
            if item not in seen
        }
        np.testing.assert_allclose(truth.probabilities[BEST][row], sorted(chances.values(), reverse=True)[:3])
        target = rows.targets[row]
        better = sum(p > chances[target] for p in chances.values()) if target >= 0 else -1
        assert truth.ranks[row] == better
    assert rows.targets.tolist() == [c, -1, -1, a]


def test_the_truth_is_known_of_simulated_events_split_by_time_alone() -> None:
    """The truth is not known where the histories leave items out, or with another split."""
    assert knows_the_truth(config())
    assert not knows_the_truth(config(max_items=50))
    assert not knows_the_truth(config(split={"kind": "leave_one_out"}))


def test_the_truth_is_not_known_where_features_cut_sessions_or_bots_differently() -> None:
    """Sessions, bots and the start of the period must be those of the simulator."""
    assert knows_the_truth(config(session_gap_seconds=600, period_start=FIRST))
    assert not knows_the_truth(config(session_gap_seconds=599))
    assert not knows_the_truth(config(session_gap_seconds=7_201))
    assert not knows_the_truth(config(max_events_per_user_day=3_000))
    assert not knows_the_truth(config(period_start=FIRST + timedelta(days=1)))


def test_a_user_who_first_comes_in_the_test_is_judged_after_it_came(found) -> None:
    """Without a test item the day is the test's first day, or the day of the user's last event if that is later."""
    world, item_ids, _, (a, b, *_) = found
    table = histories([([a], [0], ["view"], [0], None), ([a, b], [2, 3], ["view", "view"], [0, 1], None)])
    settings = config(split={"kind": "time", "test_days": 3})
    rows = evaluation_rows(table, position_column="test_position", with_marks=True, everyone=True)
    everything = np.tile(np.arange(len(item_ids)), (2, 1))
    truth = truth_of(settings, table, item_ids, rows, {"all": everything}, top=3)
    numbers = np.array([world.number_of(item) for item in item_ids])
    history = ([numbers[[a]], numbers[[a, b]]], [[VIEWED], [VIEWED, VIEWED]], [[0], [0, 1]], [[0], [2, 3]])
    scores = {day: Oracle(world, target_day=day).scores(*history)[:, numbers] for day in (1, 2, 3)}
    np.testing.assert_allclose(truth.probabilities["all"], [scores[1][0], scores[3][1]])
    assert not np.allclose(scores[1][0], scores[2][0]), "the day changes the truth"
    assert not np.allclose(scores[2][1], scores[3][1]), "the day changes the truth"
