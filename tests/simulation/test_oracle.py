"""The oracle against an enumeration of all hidden paths, and against what was really drawn."""

import itertools
from functools import cache

import numpy as np
import pytest

from jobs._oracle import _without_repeats
from kdlib.simulation.oracle import oracle_scores
from kdlib.simulation.steps import Activity, Steps, draw_steps
from kdlib.simulation.world import FOLLOW, INTENT_WEIGHTS, RESUME, SHIFT, SUCCESSOR_WEIGHTS, World, build_world

NUM_USERS = 20_000
TARGET_DAY = 5


@pytest.fixture(scope="module")
def tiny() -> World:
    return build_world(num_items=16, num_days=3, new_items_per_day=8, seed=3)


@pytest.fixture(scope="module")
def drawn() -> tuple[World, Steps]:
    """A small world and the steps of many users with short sessions."""
    world = build_world(num_items=60, num_days=6, new_items_per_day=4, seed=5)
    activity = Activity(mean_steps=4.0, log_sessions=0.5, max_sessions=12)
    return world, draw_steps(world, np.random.default_rng(1), num_users=NUM_USERS, activity=activity)


def test_repeats_over_midnight_are_one_step(tiny: World) -> None:
    """Histories keep what happened after midnight apart, where the simulator has one step."""
    first, second = np.flatnonzero(tiny.launch_days <= 0)[:2].tolist()
    items, sessions, days = (np.array(one) for one in ([first] * 3 + [second], [0, 0, 1, 1], [0, 1, 1, 1]))
    found = _without_repeats(items, sessions, days)
    assert [one.tolist() for one in found] == [[first, first, second], [0, 1, 1], [0, 1, 1]]
    oracle_scores(tiny, *([one] for one in found), target_day=2)
    with pytest.raises(ValueError, match="a repeat within a session"):
        oracle_scores(tiny, [items], [sessions], [days], target_day=2)


@cache
def item_given_intent(world: World, intent: int, day: int) -> np.ndarray:
    """P(item | intent, day) from the definition: a plain sum over categories and launched items."""
    weights = np.diff(world.cumulative_weights)
    result = np.zeros(world.num_items)
    for category, share in zip(world.intent_categories[intent], world.intent_weights[intent], strict=True):
        launched = (world.categories == category) & (world.launch_days <= day)
        result += share * np.where(launched, weights, 0.0) / weights[launched].sum()
    return result


@cache
def item_given_previous(world: World, intent: int, previous: int, day: int) -> np.ndarray:
    """P(item | intent, previous item of the session, day) from the definition."""
    result = (1 - FOLLOW) * item_given_intent(world, intent, day)
    for successor, weight in zip(world.successors[previous], SUCCESSOR_WEIGHTS, strict=True):
        result[successor] += FOLLOW * weight
    result[previous] = 0.0
    return result / result.sum()


def enumerated(world: World, items: list[int], sessions: list[int], days: list[int], target_day: int) -> np.ndarray:
    """The predictive distribution by summing over every type and every sequence of intents."""
    total = np.zeros(world.num_items)
    for kind, share in enumerate(world.type_shares):
        intents = dict(zip(world.type_intents[kind].tolist(), INTENT_WEIGHTS.tolist(), strict=True))
        for path in itertools.product(intents, repeat=len(items) + 1):
            probability = share * intents[path[0]]
            for step, intent in enumerate(path):
                opens = step == len(items) or step == 0 or sessions[step] != sessions[step - 1]
                if step > 0:
                    anew = 1 - RESUME if opens else SHIFT
                    probability *= (1 - anew) * (intent == path[step - 1]) + anew * intents[intent]
                if step == len(items):
                    total += probability * item_given_intent(world, intent, target_day)
                elif opens:
                    probability *= item_given_intent(world, intent, days[step])[items[step]]
                else:
                    probability *= item_given_previous(world, intent, items[step - 1], days[step])[items[step]]
    return total / total.sum()


def possible_history(world: World, sessions: list[int], days: list[int], seed: int) -> list[int]:
    """Items of one hidden type at random, as the model could draw them."""
    rng = np.random.default_rng(seed)
    intents, items = world.type_intents[seed % len(world.type_shares)], []
    for step, day in enumerate(days):
        intent = int(rng.choice(intents))
        inside = step > 0 and sessions[step] == sessions[step - 1]
        first = item_given_intent(world, intent, day)
        items.append(
            int(rng.choice(world.num_items, p=item_given_previous(world, intent, items[-1], day) if inside else first))
        )
    return items


@pytest.mark.parametrize(
    ("sessions", "days"),
    [
        ([], []),
        ([0], [0]),
        ([0, 0, 0], [0, 0, 0]),
        ([0, 1, 2], [0, 1, 2]),
        ([0, 0, 1, 1], [0, 0, 2, 2]),
        ([4, 4, 4, 9], [1, 1, 1, 1]),
    ],
)
def test_the_oracle_equals_the_sum_over_all_hidden_paths(tiny: World, sessions: list[int], days: list[int]) -> None:
    """Forward filtering gives the enumeration's probabilities, for sessions and launch days of every kind."""
    for seed in range(2):
        items = possible_history(tiny, sessions, days, seed)
        found = oracle_scores(tiny, [items], [sessions], [days], target_day=1)
        np.testing.assert_allclose(found[0], enumerated(tiny, items, sessions, days, 1), rtol=1e-9, atol=1e-15)


def test_users_of_different_lengths_do_not_disturb_each_other(tiny: World) -> None:
    """A batch gives each user, in the order given, what that user gets alone; rows sum to 1."""
    sessions = [[0], [0, 0, 1, 1, 2], [], [0, 1, 1]]
    days = [[0] * len(numbers) for numbers in sessions]
    histories = [possible_history(tiny, s, d, seed) for seed, (s, d) in enumerate(zip(sessions, days, strict=True))]
    together = oracle_scores(tiny, histories, sessions, days, target_day=2)
    for row in range(4):
        alone = oracle_scores(tiny, [histories[row]], [sessions[row]], [days[row]], target_day=2)
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-12)
    np.testing.assert_allclose(together.sum(axis=1), 1.0)


def test_items_not_launched_by_the_target_day_get_no_probability(tiny: World) -> None:
    """The predicted probability is 0 exactly for the items that are launched later."""
    scores = oracle_scores(tiny, [[]], [[]], [[]], target_day=1)[0]
    assert (scores == 0).tolist() == (tiny.launch_days > 1).tolist()
    assert (tiny.launch_days > 1).sum() == 8


def last_sessions(steps: Steps) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Histories before each user's first session of the target day, and the first item of that session."""
    histories, sessions, days, targets = [], [], [], []
    for rows in np.split(np.arange(len(steps.users)), np.flatnonzero(np.diff(steps.users)) + 1):
        count = int((steps.days[rows] < TARGET_DAY).sum())
        if count < len(rows):
            histories.append(steps.items[rows[:count]])
            sessions.append(steps.sessions[rows[:count]])
            days.append(steps.days[rows[:count]])
            targets.append(steps.items[rows[count]])
    return histories, sessions, days, np.array(targets)


def test_predicted_probabilities_match_what_is_drawn(drawn: tuple[World, Steps]) -> None:
    """Per item, and per level of probability, the predicted sum is the number of times the items were drawn."""
    world, steps = drawn
    *history, targets = last_sessions(steps)
    scores = oracle_scores(world, *history, target_day=TARGET_DAY)
    hits = np.zeros_like(scores)
    hits[np.arange(len(targets)), targets] = 1.0
    deviation = np.sqrt((scores * (1 - scores)).sum(axis=0))
    surprise = (hits.sum(axis=0) - scores.sum(axis=0)) / np.maximum(deviation, 1e-9)
    assert len(targets) > 4_000
    assert np.abs(surprise).max() < 4.5
    assert 0.7 < np.square(surprise).mean() < 1.4
    levels = np.digitize(scores, [0.001, 0.003, 0.01, 0.03, 0.1, 0.2])
    for level in range(7):
        predicted = scores[levels == level].sum()
        assert abs(hits[levels == level].sum() - predicted) < 4.5 * np.sqrt(predicted) + 1e-9, level


def test_no_perturbed_model_explains_the_drawn_items_better(
    drawn: tuple[World, Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other resume, shift or follow probabilities the mean log-likelihood of the drawn items is lower."""
    world, steps = drawn
    *history, targets = last_sessions(steps)

    def log_likelihood() -> np.ndarray:
        return np.log(oracle_scores(world, *history, target_day=TARGET_DAY)[np.arange(len(targets)), targets])

    truth = log_likelihood()
    for name, values in {"RESUME": (0.15, 0.85), "SHIFT": (0.001, 0.4), "FOLLOW": (0.001, 0.9)}.items():
        for value in values:
            with monkeypatch.context() as patch:
                patch.setattr(f"kdlib.simulation.oracle.{name}", value)
                assert truth.mean() > log_likelihood().mean(), (name, value)


def test_a_history_that_the_world_cannot_give_is_refused(tiny: World) -> None:
    """A repeat within a session and an item before its launch are errors that name the item and its place."""
    late = int(np.flatnonzero(tiny.launch_days == 2)[0])
    with pytest.raises(ValueError, match="cannot give item 0 on day 0 as a user's item number 1"):
        oracle_scores(tiny, [[0, 0]], [[0, 0]], [[0, 0]], target_day=1)
    with pytest.raises(ValueError, match=f"cannot give item {late} on day 1 as a user's item number 0"):
        oracle_scores(tiny, [[late]], [[0]], [[1]], target_day=1)
    with pytest.raises(ValueError, match="the same lengths"):
        oracle_scores(tiny, [[0, 1]], [[0]], [[0, 0]], target_day=1)
