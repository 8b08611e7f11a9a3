"""Drawn steps against the model's definition: sessions, items, outcomes, rebuys and tastes."""

from dataclasses import replace

import numpy as np
import pytest

from kdlib.errors import ConfigError
from kdlib.simulation.build import build_world
from kdlib.simulation.steps import (
    BOUGHT,
    CARTED,
    DAY_MS,
    HOUR_MS,
    MAX_STEPS,
    VIEWED,
    Activity,
    Steps,
    activity_for,
    draw_steps,
)
from kdlib.simulation.world import FEATURES, REBUY, World
from tests.simulation.definition import category_chances, item_chances, outcome_chances, owned_before, session_openings

SHORT_SESSIONS = Activity(mean_steps=4.0, log_sessions=1.0, max_sessions=12)


def shop(*, num_days: int = 6, consumable_fraction: float = 0.5) -> World:
    """A small world with launches."""
    return build_world(
        num_items=60,
        num_days=num_days,
        new_items_per_day=4,
        seed=5,
        consumable_fraction=consumable_fraction,
    )


@pytest.fixture(scope="module", params=[(0, 10), (6, 300)], ids=["intent 0, taste 10", "intent 6, taste 300"])
def known(request: pytest.FixtureRequest) -> tuple[World, int, Steps, np.ndarray]:
    """A world whose users all have one intent and one taste, with the intent, the steps, and what users owned at
    each step."""
    intent, taste = request.param
    world = replace(shop(), type_intents=np.full_like(shop().type_intents, intent), tastes=shop().tastes[[taste]])
    steps = draw_steps(world, np.random.default_rng(4), num_users=3_000, activity=SHORT_SESSIONS)
    return world, intent, steps, owned_before(world, steps)


def assert_as_predicted(hits: np.ndarray, chances: np.ndarray, *, about: str) -> None:
    """Check that the number of hits is within 4.5 standard deviations of the sum of the chances."""
    assert len(chances) > 0, about
    deviation = np.sqrt((chances * (1 - chances)).sum())
    assert abs(hits.sum() - chances.sum()) <= 4.5 * deviation + 1e-9, (about, hits.sum(), chances.sum())


def step_chances(world: World, intent: int, previous: int, owned: int, day: int) -> np.ndarray:
    """float64 [M]: P(item of a step) in a world of one intent and one taste."""
    result = np.zeros(world.num_items)
    categories = category_chances(world, intent, previous)
    for category in np.flatnonzero(categories).tolist():
        result += categories[category] * item_chances(world, category, previous, owned, day)[0]
    if previous < 0 and owned >= 0:
        result *= 1 - REBUY
        result[owned] += REBUY
    return result


def test_every_item_is_drawn_as_often_as_the_definition_says(known: tuple[World, int, Steps, np.ndarray]) -> None:
    """With known intent and taste, the chances of the items add up to the hits, per item, per level and per cause."""
    world, intent, steps, owned = known
    opens = session_openings(steps)
    previous = np.where(opens, -1, np.roll(steps.items, 1))
    causes, which = np.unique(np.stack([previous, owned, steps.days]), axis=1, return_inverse=True)
    predicted = np.stack([step_chances(world, intent, *cause) for cause in causes.T.tolist()])[which.ravel()]
    hits = np.arange(world.num_items) == steps.items[:, None]
    surprise = (hits.sum(axis=0) - predicted.sum(axis=0)) / np.sqrt((predicted * (1 - predicted)).sum(axis=0)).clip(
        1e-9
    )
    assert len(steps.items) > 30_000
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)
    assert (predicted[hits] > 0).all()
    assert np.abs(surprise).max() < 4.5
    assert np.square(surprise).mean() < 1.5
    levels = np.digitize(predicted, [0.003, 0.01, 0.03, 0.1, 0.2, 0.3])
    for level in range(7):
        assert_as_predicted(hits[levels == level], predicted[levels == level], about=f"level {level}")
    inside = ~opens
    related = (world.related[previous[inside]][:, :, None] == np.arange(world.num_items)).any(axis=1)
    complements = world.complements[world.categories[previous[inside]]]
    of_complement = (world.categories[None, None] == complements[:, :, None]).any(axis=1)
    late = (world.launch_days[None] == steps.days[:, None]) & (steps.days > 0)[:, None]
    for about, rows, columns in (
        ("related items", inside, related),
        ("related items of complements", inside, related & of_complement),
        ("complements", inside, of_complement),
        ("items launched on the day", np.ones(len(opens), bool), late),
        ("what the user owns", opens & (owned >= 0), owned[opens & (owned >= 0), None] == np.arange(world.num_items)),
    ):
        assert_as_predicted(hits[rows][columns], predicted[rows][columns], about=about)


def test_carts_and_purchases_are_as_frequent_as_item_and_taste_say(known: tuple[World, int, Steps, np.ndarray]) -> None:
    """The chances of the drawn items add up to the carts and purchases, in total and by appeal, price range and
    brand family."""
    world, _, steps, owned = known
    free = steps.items != owned  # a rebuy is always bought
    items, outcomes = steps.items[free], steps.outcomes[free]
    chances = outcome_chances(world)[:, 0, items]
    matches = world.features[items] == world.tastes[0]
    groups = {
        "all": np.ones(len(items), bool),
        "little appeal": world.appeal[items] < 0.8,
        "much appeal": world.appeal[items] > 1.2,
        "the taste's price range": matches[:, FEATURES.index("price range")],
        "another price range": ~matches[:, FEATURES.index("price range")],
        "the taste's brand family": matches[:, FEATURES.index("brand family")],
        "another brand family": ~matches[:, FEATURES.index("brand family")],
    }
    assert set(np.unique(outcomes)) == {VIEWED, CARTED, BOUGHT}
    for name, group in groups.items():
        for outcome in (CARTED, BOUGHT):
            assert_as_predicted(outcomes[group] == outcome, chances[outcome, group], about=f"{name}, outcome {outcome}")


def test_owners_of_a_consumable_open_sessions_by_buying_it_again() -> None:
    """A share REBUY of their sessions opens with a purchase of their last consumable. They view it nowhere else."""
    world = replace(shop(), appeal=3 * shop().appeal)  # more purchases
    steps = draw_steps(world, np.random.default_rng(6), num_users=10_000, activity=SHORT_SESSIONS)
    owned, opens = owned_before(world, steps), session_openings(steps)
    again = (steps.items == owned) & (owned >= 0)
    openings = opens & (owned >= 0)
    assert openings.sum() > 8_000
    assert_as_predicted(again[openings], np.full(openings.sum(), REBUY), about="rebuys")
    assert opens[again].all()
    assert (steps.outcomes[again] == BOUGHT).all()
    assert world.is_consumable[world.categories[steps.items[again]]].all()
    assert set(world.categories[steps.items[again]]) == set(np.flatnonzero(world.is_consumable))


def test_without_consumables_nothing_is_owned() -> None:
    """A consumable fraction of 0 gives no rebuys: first steps of sessions have no more purchases than other steps."""
    world = shop(consumable_fraction=0.0)
    steps = draw_steps(world, np.random.default_rng(6), num_users=10_000, activity=SHORT_SESSIONS)
    assert (owned_before(world, steps) == -1).all()
    bought, opens = steps.outcomes == BOUGHT, session_openings(steps)
    difference = bought[opens].mean() - bought[~opens].mean()
    share = bought.mean()
    assert abs(difference) < 4 * np.sqrt(share * (1 - share) * (1 / opens.sum() + 1 / (~opens).sum()))


@pytest.mark.parametrize(("taste_strength", "matter"), [(1.0, True), (0.0, False)])
def test_a_users_items_resemble_each_other_where_tastes_matter(taste_strength: float, matter: bool) -> None:
    """Items of two sessions and categories share features more often than by chance, but not with strength 0."""
    world = build_world(num_items=400, num_days=6, new_items_per_day=0, seed=2, taste_strength=taste_strength)
    steps = draw_steps(world, np.random.default_rng(3), num_users=30_000, activity=SHORT_SESSIONS)
    first = np.flatnonzero(session_openings(steps) & (owned_before(world, steps) < 0))
    pairs = np.stack([first[:-1], first[1:]])
    pairs = pairs[:, steps.users[pairs[0]] == steps.users[pairs[1]]]
    pairs = pairs[
        :, np.unique(steps.users[pairs[0]], return_index=True)[1]
    ]  # one pair a user, so that the pairs are independent
    one, other = steps.items[pairs]
    one, other = (items[world.categories[one] != world.categories[other]] for items in (one, other))
    weights = np.diff(world.cumulative_weights)
    for feature, name in enumerate(FEATURES):
        shares = np.zeros((len(world.first_items), world.features[:, feature].max() + 1))
        np.add.at(shares, (world.categories, world.features[:, feature]), weights)
        shares /= shares.sum(axis=1, keepdims=True)
        chances = (shares[world.categories[one]] * shares[world.categories[other]]).sum(axis=1)  # as if independent
        hits = world.features[one, feature] == world.features[other, feature]
        surprise = (hits.sum() - chances.sum()) / np.sqrt((chances * (1 - chances)).sum())
        assert len(hits) > 8_000
        assert surprise > 3 if matter else abs(surprise) < 3, (name, surprise)


def test_sessions_keep_two_hours_apart_and_within_a_day() -> None:
    """Even the busiest user's sessions never cross midnight.

    Gaps are 20 s to 10 min inside and at least 2 h between sessions.
    """
    world = build_world(num_items=100, num_days=4, new_items_per_day=0, seed=1)
    activity = Activity(mean_steps=20.0, log_sessions=3.0, max_sessions=12)
    steps = draw_steps(world, np.random.default_rng(2), num_users=3_000, activity=activity)
    same_user = np.diff(steps.users) == 0
    same_session = same_user & (np.diff(steps.sessions) == 0)
    gaps = np.diff(steps.times)
    assert np.bincount(steps.sessions).tolist()[11] > 0
    assert gaps[same_session].min() >= 20_000 - 1
    assert gaps[same_session].max() < 600_000
    assert gaps[same_user & ~same_session].min() > 2 * HOUR_MS
    assert (steps.times // DAY_MS == steps.days).all()
    assert (np.diff(steps.days)[same_session] == 0).all()
    assert (np.diff(steps.items)[same_session] != 0).all()
    assert steps.times.max() < 4 * DAY_MS


def test_too_many_events_for_the_days_is_a_config_error() -> None:
    """The error names both settings and the largest value that fits, and this value fits."""
    with pytest.raises(ConfigError, match=r"events_per_user 500 is too many for num_days 4\. Give at most 41"):
        activity_for(events_per_user=500, num_days=4, mean_session_length=6.0)
    activity_for(events_per_user=41, num_days=4, mean_session_length=6.0)


@pytest.mark.parametrize("mean_session_length", [1.5, 3.0, 8.0])
def test_sessions_have_the_asked_number_of_items_in_the_mean(mean_session_length: float) -> None:
    """The mean, after the cut at `MAX_STEPS`, is within 4 standard errors of the expected value."""
    activity = activity_for(events_per_user=40, num_days=30, mean_session_length=mean_session_length)
    steps = draw_steps(shop(num_days=30), np.random.default_rng(2), num_users=2_000, activity=activity)
    lengths = np.diff(np.flatnonzero(session_openings(steps)), append=len(steps.items))
    expected = mean_session_length * (1 - (1 - 1 / mean_session_length) ** MAX_STEPS)
    assert lengths.max() <= MAX_STEPS
    assert abs(lengths.mean() - expected) < 4 * lengths.std() / np.sqrt(len(lengths))
