"""The oracle against an enumeration of all hidden paths and tastes, and against drawn items."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from kdlib.simulation.build import build_world
from kdlib.simulation.oracle import Oracle
from kdlib.simulation.steps import BOUGHT, CARTED, VIEWED, Activity, Steps, draw_steps
from kdlib.simulation.world import INTENT_WEIGHTS, REBUY, RESUME, SHIFT, World
from tests.simulation.definition import category_chances, item_chances, outcome_chances

NUM_USERS = 20_000
TARGET_DAY = 5


@dataclass
class History:
    """A user's steps, as lists of the same length. `then` adds a step."""

    items: list[int]
    outcomes: list[int]
    sessions: list[int]
    days: list[int]

    def then(self, item: int, outcome: int = VIEWED, *, new_session: bool = False, days: int = 0) -> "History":
        """The history with one more item, in the same session or in a new one, on the same day or some days later."""
        session, day = (self.sessions[-1], self.days[-1]) if self.items else (0, 0)
        return History(
            [*self.items, int(item)],
            [*self.outcomes, outcome],
            [*self.sessions, session + new_session],
            [*self.days, day + days],
        )


EMPTY = History([], [], [], [])


def scores_of(world: World, histories: list[History], *, target_day: int) -> np.ndarray:
    columns = zip(*((one.items, one.outcomes, one.sessions, one.days) for one in histories), strict=True)
    return Oracle(world, target_day=target_day).scores(*columns)


@pytest.fixture(scope="module")
def tiny() -> World:
    """8 categories of 4 items each, and some launched items. Half of the categories are consumable."""
    return build_world(num_items=32, num_days=3, new_items_per_day=8, seed=3, consumable_fraction=0.5)


def enumerated(world: World, history: History, target_day: int) -> np.ndarray:
    """The predictive distribution by summing over every type, every sequence of intents and every taste."""
    num_intents, num_tastes = len(world.intent_categories), len(world.tastes)
    owned, count = -1, len(history.items)
    opens = [step == 0 or history.sessions[step] != history.sessions[step - 1] for step in range(count)] + [True]
    likelihoods_GT = []
    for step, (item, outcome, day) in enumerate(zip(history.items, history.outcomes, history.days, strict=True)):
        previous = -1 if opens[step] else history.items[step - 1]
        category = int(world.categories[item])
        of_category_G = np.array([category_chances(world, g, previous)[category] for g in range(num_intents)])
        of_item_T = (
            item_chances(world, category, previous, owned, day)[:, item] * outcome_chances(world)[outcome, :, item]
        )
        again = REBUY if opens[step] and owned >= 0 else 0.0
        is_again = item == owned and outcome == BOUGHT
        likelihoods_GT.append(again * is_again + (1 - again) * np.outer(of_category_G, of_item_T))
        owned = item if outcome == BOUGHT and world.is_consumable[category] else owned
    following_GTM = np.zeros((num_intents, num_tastes, world.num_items))
    for intent in range(num_intents):
        for category in np.flatnonzero(category_chances(world, intent, -1)).tolist():
            chance = category_chances(world, intent, -1)[category]
            following_GTM[intent] += chance * item_chances(world, category, -1, owned, target_day)
    if owned >= 0:
        following_GTM *= 1 - REBUY
        following_GTM[:, :, owned] += REBUY
    total_M = np.zeros(world.num_items)
    paths = np.array(list(itertools.product(range(len(INTENT_WEIGHTS)), repeat=count + 1)))
    chances = INTENT_WEIGHTS[paths[:, 0]]
    for step in range(1, count + 1):
        anew = 1 - RESUME if opens[step] else SHIFT
        chances = chances * (
            (1 - anew) * (paths[:, step] == paths[:, step - 1]) + anew * INTENT_WEIGHTS[paths[:, step]]
        )
    for intents, share in zip(world.type_intents, world.type_shares, strict=True):
        joint_PT = np.repeat(share * chances[:, None] / num_tastes, num_tastes, axis=1)
        for step, likelihood_GT in enumerate(likelihoods_GT):
            joint_PT *= likelihood_GT[intents[paths[:, step]]]
        for column, intent in enumerate(intents):
            total_M += joint_PT[paths[:, -1] == column].sum(axis=0) @ following_GTM[intent]
    assert total_M.sum() > 0, "no type of user can have this history"
    return total_M / total_M.sum()


def possible_history(world: World, sessions: list[int], days: list[int], seed: int) -> History:
    """A history that some type can have.

    Complements, carts, purchases and rebuys are far more frequent than in draws.
    """
    rng = np.random.default_rng(seed)
    intents, history, owned = world.type_intents[seed % len(world.type_shares)], EMPTY, -1
    for step, day in enumerate(days):
        opens = step == 0 or sessions[step] != sessions[step - 1]
        previous, outcome = (-1 if opens else history.items[-1]), int(rng.integers(3))
        if opens and owned >= 0 and rng.random() < 0.5:
            item, outcome = owned, BOUGHT
        else:
            chances = category_chances(world, int(rng.choice(intents)), previous)
            category = int(rng.choice(np.flatnonzero(chances)))
            items = np.flatnonzero(item_chances(world, category, previous, owned, day)[0])
            item = int(rng.choice(items))
        history = replace(history.then(item, outcome), sessions=sessions[: step + 1], days=days[: step + 1])
        owned = item if outcome == BOUGHT and world.is_consumable[world.categories[item]] else owned
    return history


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
    for seed in range(3):
        history = possible_history(tiny, sessions, days, seed)
        found = scores_of(tiny, [history], target_day=1)[0]
        np.testing.assert_allclose(found, enumerated(tiny, history, 1), rtol=1e-9, atol=1e-15)


def special_histories(world: World) -> Iterator[tuple[str, History]]:
    """A history for each mechanism of the model, with a name that says which."""
    there = world.launch_days <= 0
    category = int(np.flatnonzero(world.is_consumable)[0])
    durable = int(np.flatnonzero(there & ~world.is_consumable[world.categories])[0])
    consumable, another, third = np.flatnonzero(there & (world.categories == category))[:3].tolist()
    owner = EMPTY.then(consumable, BOUGHT)
    again = owner.then(consumable, BOUGHT, new_session=True)
    yield "a consumable was bought", owner
    yield "it is bought again", again
    yield "it is bought a third time, a day later", again.then(consumable, BOUGHT, new_session=True, days=1)
    yield "the session goes on in its category", again.then(another).then(third, CARTED)
    yield "the owned item is left out within the session", owner.then(another).then(third)
    yield "the owned item is left out of a new session", owner.then(another, new_session=True).then(third)
    yield "the last one bought counts", owner.then(another, BOUGHT).then(another, BOUGHT, new_session=True)
    yield "the one bought before it is drawn again", owner.then(another, BOUGHT).then(consumable, CARTED)
    yield "a consumable in the cart is not owned", EMPTY.then(consumable, CARTED).then(consumable, new_session=True)
    yield "what is no consumable is not owned", EMPTY.then(durable, BOUGHT).then(durable, BOUGHT, new_session=True)
    for outcome, name in ((VIEWED, "only viewed"), (CARTED, "put into a cart"), (BOUGHT, "bought")):
        yield f"an item is {name}", EMPTY.then(durable, outcome)
    for column, related in enumerate(world.related[consumable].tolist()):
        kind = "substitute" if world.categories[related] == category else "complement"
        yield f"related item {column} follows, a {kind}", EMPTY.then(consumable).then(related)
        yield f"related item {column} follows the owned item", owner.then(related)
    low, high = np.flatnonzero(there & (world.related == consumable).any(axis=1))[:2]
    yield (
        "the owned item is related to the one before",
        owner.then(low, new_session=True).then(another if low != another else third),
    )
    yield (
        "the same for another item before",
        owner.then(high, new_session=True).then(another if high != another else third),
    )
    late = int(np.flatnonzero(world.launch_days == 1)[0])
    yield "an item is seen on its launch day", EMPTY.then(durable).then(late, new_session=True, days=1)
    sibling = int(np.flatnonzero(there & (world.categories == world.categories[late]))[0])
    yield "a category grows in between", EMPTY.then(sibling).then(sibling, new_session=True, days=1)


def test_the_oracle_equals_the_sum_for_everything_that_the_model_does(tiny: World) -> None:
    """Rebuys, owned items, related items, outcomes and launches change the probabilities as the enumeration says."""
    special = dict(special_histories(tiny))
    assert len(special) == 25
    for name, history in special.items():
        found = scores_of(tiny, [history], target_day=2)[0]
        np.testing.assert_allclose(found, enumerated(tiny, history, 2), rtol=1e-9, atol=1e-15, err_msg=name)


def test_an_owner_opens_with_the_owned_item_with_probability_rebuy(tiny: World) -> None:
    """The consumable that was bought last has the probability REBUY, whatever else is in the history."""
    special = dict(special_histories(tiny))
    for name in ("a consumable was bought", "it is bought again", "the owned item is left out within the session"):
        history = special[name]
        assert scores_of(tiny, [history], target_day=2)[0, history.items[0]] == REBUY
    assert scores_of(tiny, [EMPTY], target_day=2).max() < REBUY


def test_users_of_different_lengths_do_not_disturb_each_other(tiny: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch each user gets the same scores as alone, in the order given. Rows sum to 1."""
    monkeypatch.setattr("kdlib.simulation.oracle._USERS_AT_ONCE", 3)
    sessions = [[0], [0, 0, 1, 1, 2], [], [0, 1, 1], [0, 1, 2, 3, 3, 3, 3]]
    histories = [possible_history(tiny, one, [0] * len(one), seed) for seed, one in enumerate(sessions)]
    owner = EMPTY.then(int(np.flatnonzero(tiny.is_consumable[tiny.categories])[0]), BOUGHT)
    histories += [owner, owner.then(owner.items[0], BOUGHT, new_session=True, days=1)]
    together = scores_of(tiny, histories, target_day=2)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(together[row], scores_of(tiny, [history], target_day=2)[0], rtol=1e-12)
    np.testing.assert_allclose(together.sum(axis=1), 1.0)


def test_items_not_launched_by_the_target_day_get_no_probability(tiny: World) -> None:
    """The predicted probability is 0 exactly for items that are launched later, for owners too."""
    owner = EMPTY.then(int(np.flatnonzero(tiny.is_consumable[tiny.categories])[0]), BOUGHT)
    for scores in scores_of(tiny, [EMPTY, owner], target_day=1):
        assert (scores == 0).tolist() == (tiny.launch_days > 1).tolist()
    assert (tiny.launch_days > 1).sum() == 8


def test_a_history_that_the_world_cannot_give_is_refused(tiny: World) -> None:
    """A repeat in a session, an item before its launch and an owned item within a session are errors that name item
    and place."""
    late = int(np.flatnonzero(tiny.launch_days == 2)[0])
    consumable = int(np.flatnonzero((tiny.launch_days <= 0) & tiny.is_consumable[tiny.categories])[0])
    substitute = int(tiny.related[consumable, 0])
    owner = EMPTY.then(consumable, BOUGHT)
    for history, message in (
        (EMPTY.then(0).then(0), "cannot give item 0 on day 0 as a user's item number 1"),
        (EMPTY.then(late, days=1), f"cannot give item {late} on day 1 as a user's item number 0"),
        (owner.then(consumable, CARTED, new_session=True), f"item {consumable} on day 0 as a user's item number 1"),
        (owner.then(substitute).then(consumable, BOUGHT), f"item {consumable} on day 0 as a user's item number 2"),
    ):
        with pytest.raises(ValueError, match=message):
            scores_of(tiny, [EMPTY, history], target_day=2)
    oracle = Oracle(tiny, target_day=1)
    for short in range(1, 4):
        parts = [[[0]] if part == short else [[0, 1]] for part in range(4)]
        with pytest.raises(ValueError, match="the same lengths"):
            oracle.scores(*parts)
    with pytest.raises(ValueError, match="the same users"):
        oracle.scores([[0]], [[0]], [[0]], [[0], [0]])


@dataclass
class Openings:
    """Users' histories before their first session of a day, and the first item of that session."""

    columns: list[list[np.ndarray]]
    targets: np.ndarray

    def log_likelihoods(self, world: World) -> np.ndarray:
        """The log-likelihood of each target."""
        scores = Oracle(world, target_day=TARGET_DAY).scores(*self.columns)
        return np.log(scores[np.arange(len(self.targets)), self.targets])


def openings_of(steps: Steps, *, target_day: int) -> Openings:
    columns, targets = [[], [], [], []], []
    for rows in np.split(np.arange(len(steps.users)), np.flatnonzero(np.diff(steps.users)) + 1):
        count = int(np.searchsorted(steps.days[rows], target_day))
        if count < len(rows) and steps.days[rows[count]] == target_day:
            for column, values in zip(columns, (steps.items, steps.outcomes, steps.sessions, steps.days), strict=True):
                column.append(values[rows[:count]])
            targets.append(steps.items[rows[count]])
    return Openings(columns, np.array(targets))


@pytest.fixture(scope="module")
def drawn() -> tuple[World, Openings]:
    """A small world with many consumables and few tastes, and the steps of many users with short sessions."""
    world = build_world(num_items=60, num_days=6, new_items_per_day=4, seed=5, consumable_fraction=0.5)
    world = replace(world, tastes=world.tastes[::7])
    activity = Activity(mean_steps=4.0, log_sessions=0.5, max_sessions=12)
    steps = draw_steps(world, np.random.default_rng(1), num_users=NUM_USERS, activity=activity)
    return world, openings_of(steps, target_day=TARGET_DAY)


def test_predicted_probabilities_match_what_is_drawn(drawn: tuple[World, Openings]) -> None:
    """Per item and per level of probability, the predicted sum is near the number of times that the items were
    drawn."""
    world, openings = drawn
    scores = Oracle(world, target_day=TARGET_DAY).scores(*openings.columns)
    hits = np.zeros_like(scores)
    hits[np.arange(len(scores)), openings.targets] = 1.0
    deviation = np.sqrt((scores * (1 - scores)).sum(axis=0))
    surprise = (hits.sum(axis=0) - scores.sum(axis=0)) / np.maximum(deviation, 1e-9)
    assert len(scores) > 9_000
    assert np.abs(surprise).max() < 4.5
    assert 0.7 < np.square(surprise).mean() < 1.4
    levels = np.digitize(scores, [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3])
    for level in range(8):
        predicted = scores[levels == level].sum()
        assert abs(hits[levels == level].sum() - predicted) < 4.5 * np.sqrt(predicted) + 1e-9, level


PERTURBED = (
    ("RESUME", ("oracle",), (0.15, 0.85)),
    ("SHIFT", ("oracle",), (0.001, 0.4)),
    ("COMPLEMENT", ("oracle",), (0.01, 0.7)),
    ("REBUY", ("oracle",), (0.1, 0.5)),
    ("RELATED", ("oracle", "world"), (0.001, 1.0)),
    ("CART_BY_PRICE", ("world",), (np.array([1.5, 0.75]), np.array([0.4, 4.0]))),
    ("PURCHASE_BY_BRAND", ("world",), (np.array([1.3, 0.85]),)),
)
"""Constants, the modules of `kdlib.simulation` that read them, and wrong values for them."""


def test_no_perturbed_model_explains_the_drawn_items_better(drawn: tuple[World, Openings]) -> None:
    """With any other constant or taste strength the mean log-likelihood of the drawn items is lower."""
    world, openings = drawn
    truth = openings.log_likelihoods(world).mean()
    for name, modules, values in PERTURBED:
        for value in values:
            with pytest.MonkeyPatch.context() as patches:
                for module in modules:
                    patches.setattr(f"kdlib.simulation.{module}.{name}", value)
                assert openings.log_likelihoods(world).mean() < truth, (name, value)
    for strength in (0.5, 1.5):
        assert openings.log_likelihoods(replace(world, taste_strength=strength)).mean() < truth, strength


def seen_counts(histories: list[np.ndarray], num_items: int) -> np.ndarray:
    """float64 [users, M]: how often each user has seen each item."""
    return np.stack([np.bincount(items, minlength=num_items) for items in histories]).astype(np.float64)


def lists_by_transitions(seen: np.ndarray, *, others: Openings) -> np.ndarray:
    """int64 [users, 10]: the items with which other users opened sessions after they had seen the same items,
    without oracle."""
    num_items = seen.shape[1]
    transitions = seen_counts(others.columns[0], num_items).T @ np.eye(num_items)[others.targets]
    shares = transitions / (1 + transitions.sum(axis=1, keepdims=True))
    popularity = np.bincount(others.targets, minlength=num_items) / len(others.targets)
    return np.argsort(-(seen @ shares + popularity), axis=1)[:, :10]


def test_the_oracle_expects_the_ndcg_that_10000_fresh_users_realise() -> None:
    """Realised − expected NDCG@10 of lists by other users' transitions is 0 within 3 standard errors.

    A seen item counts 0.
    """
    world = build_world(num_items=300, num_days=4, new_items_per_day=10, seed=8)
    activity = Activity(mean_steps=4.0, log_sessions=1.2, max_sessions=12)
    others, fresh = (
        openings_of(draw_steps(world, np.random.default_rng(seed), num_users=16_000, activity=activity), target_day=3)
        for seed in (1, 2)
    )
    targets, columns = fresh.targets[:10_000], [column[:10_000] for column in fresh.columns]
    seen = seen_counts(columns[0], world.num_items)
    lists = lists_by_transitions(seen, others=others)
    gains = np.where(np.take_along_axis(seen, lists, axis=1) > 0, 0.0, 1 / np.log2(np.arange(2, 12)))
    realised = (gains * (lists == targets[:, None])).sum(axis=1)
    scores = Oracle(world, target_day=3).scores(*columns)
    expected = (gains * np.take_along_axis(scores, lists, axis=1)).sum(axis=1)
    standard_error = (realised - expected).std(ddof=1) / np.sqrt(len(targets))
    assert len(targets) == 10_000
    assert standard_error < 0.05 * realised.mean()  # a difference of some per cent would show
    assert abs((realised - expected).mean()) < 3 * standard_error
