"""The hidden world and its catalogue."""

import re
from dataclasses import replace

import numpy as np
import pytest

from kdlib.errors import InputError
from kdlib.simulation.build import build_world
from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.names import ADJECTIVES, BRAND_FAMILIES, BRANDS, COLOURS, STYLES, category_names
from kdlib.simulation.world import AFFINITIES, FEATURES, SUBSTITUTES, World
from tests.simulation.definition import affinities, outcome_chances
from tests.simulation.test_events import PLAN

ALL_COLOURS = [colour for shade in COLOURS for colour in shade]


@pytest.fixture(scope="module")
def world() -> World:
    """300 items of 12 categories, and 6 more on each of 7 days."""
    return PLAN.world()


def test_a_world_is_rebuilt_from_its_values_alone() -> None:
    """The same values give the same items, ids, relations and types of users. Another seed gives others."""
    values = {"num_items": 300, "num_days": 8, "new_items_per_day": 6}
    first = build_world(**values, seed=1)
    build_world.cache_clear()
    again, other = build_world(**values, seed=1), build_world(**values, seed=2)
    assert again is not first
    assert first.item_ids() == again.item_ids() != other.item_ids()
    for name, value in vars(first).items():
        assert np.array_equal(value, getattr(again, name)), name
    assert catalogue(first, seed=1, until_day=7).equals(catalogue(again, seed=1, until_day=7))


def test_a_plan_hands_its_values_to_the_world() -> None:
    """The world has the plan's items per category, popularity, taste strength and consumables."""
    plan = replace(PLAN, items_per_category=10, popularity_exponent=1.0, taste_strength=0.5, consumable_fraction=0.4)
    world = plan.world()
    assert len(world.first_items) == 30
    assert world.is_consumable.sum() == 12
    assert world.taste_strength == 0.5
    assert np.diff(world.cumulative_weights).min() == pytest.approx(1 / np.bincount(world.categories).max())


def test_a_world_of_too_few_items_is_refused() -> None:
    """32 items are enough for 8 categories of 4. The errors for 31 items and for categories of 3 say what is needed."""
    assert len(build_world(num_items=32, num_days=1, new_items_per_day=0, seed=1).first_items) == 8
    with pytest.raises(ValueError, match="at least 32 items, 4 a category; found num_items 31, items_per_category 24"):
        build_world(num_items=31, num_days=1, new_items_per_day=0, seed=1)
    with pytest.raises(ValueError, match="found num_items 200, items_per_category 3"):
        build_world(num_items=200, num_days=1, new_items_per_day=0, items_per_category=3, seed=1)


def test_item_ids_and_numbers_are_inverse(world: World) -> None:
    """`number_of` undoes `item_id_of`. The error for a foreign id names the id."""
    assert [world.number_of(world.item_id_of(number)) for number in (0, 7, 341)] == [0, 7, 341]
    assert sorted(world.item_ids())[-1] == "i00000341"
    for foreign in ("i00000342", "i7", "B0001", ""):
        with pytest.raises(InputError, match=f"no item '{foreign}' in this simulated world. It has 342 items"):
            world.number_of(foreign)


def test_the_launched_items_of_a_category_are_one_range(world: World) -> None:
    """On every day, a category's launched items go from its first item to its end of the day."""
    numbers = np.arange(world.num_items)
    for day in range(PLAN.num_days):
        for category, first in enumerate(world.first_items):
            launched = numbers[(world.categories == category) & (world.launch_days <= day)]
            assert launched.tolist() == list(range(first, world.end_items[category, day]))
            assert len(launched) >= 4


def test_popularity_in_a_category_is_a_zipf_law(world: World) -> None:
    """A category's weights are rank^-0.6, with each rank once. New items can have any rank."""
    weights = np.diff(world.cumulative_weights)
    for category in range(len(world.first_items)):
        own = np.sort(weights[world.categories == category])[::-1]
        np.testing.assert_allclose(own, np.arange(1.0, 1 + len(own)) ** -0.6, rtol=1e-9)
    is_new = world.launch_days > 0
    assert weights[is_new].max() > 0.5
    assert weights[is_new].mean() == pytest.approx(weights[~is_new].mean(), rel=0.25)


def test_related_items_are_substitutes_and_complements(world: World) -> None:
    """Each item has two of its category and one of each complement: distinct, not itself, launched no later."""
    for number, row in enumerate(world.related.tolist()):
        assert len({number, *row}) == 1 + SUBSTITUTES + world.complements.shape[1]
    assert (world.launch_days[world.related] <= np.maximum(world.launch_days, 0)[:, None]).all()
    of_related = world.categories[world.related]
    assert (of_related[:, :SUBSTITUTES] == world.categories[:, None]).all()
    assert (of_related[:, SUBSTITUTES:] == world.complements[world.categories]).all()
    for category, complements in enumerate(world.complements.tolist()):
        assert len({category, *complements}) == 3


def test_types_mix_intents_and_intents_mix_near_categories(world: World) -> None:
    """A type has five intents, an intent 2 to 4 categories at most 4 apart.

    Every category is the main one of some intent.
    """
    num_categories = len(world.first_items)
    assert all(len(set(row)) == 5 for row in world.type_intents.tolist())
    assert set(world.type_intents.ravel()) <= set(range(len(world.intent_categories)))
    assert all(len(set(row)) == 4 for row in world.intent_categories.tolist())
    assert set((world.intent_weights > 0).sum(axis=1)) == {2, 3, 4}
    np.testing.assert_allclose(world.intent_weights.sum(axis=1), 1.0)
    assert (world.intent_weights.argmax(axis=1) == 0).all()
    assert set(world.intent_categories[:, 0]) == set(range(num_categories))
    distance = (world.intent_categories - world.intent_categories[:, :1]) % num_categories
    assert np.minimum(distance, num_categories - distance).max() <= 4
    assert world.type_shares.sum() == pytest.approx(1)


def test_features_are_what_brand_adjective_colour_and_price_say(world: World) -> None:
    """An item's features are the family of its brand, the style of its adjective, its colour's shade, and its third
    of prices."""
    families, styles, shades, prices = world.features.T
    for number in range(world.num_items):
        assert BRANDS[world.brands[number]] in BRAND_FAMILIES[families[number]]
        assert ADJECTIVES[world.adjectives[number]] in STYLES[styles[number]]
        assert ALL_COLOURS[world.colours[number]] in COLOURS[shades[number]]
    for category in range(len(world.first_items)):
        of_range = [world.prices[(world.categories == category) & (prices == one)] for one in range(3)]
        assert of_range[0].max() <= of_range[1].min()
        assert of_range[1].max() <= of_range[2].min()
    third = np.sqrt(2 / 9 / world.num_items)
    assert np.abs(np.bincount(prices, minlength=3) / world.num_items - 1 / 3).max() < 3.5 * third
    assert abs(world.appeal.mean() - 1) < 3 / np.sqrt(12 * world.num_items)


def test_tastes_are_all_combinations_of_features(world: World) -> None:
    """Each combination of values is one taste, and every value occurs in some item."""
    assert len(world.tastes) == len(set(map(tuple, world.tastes.tolist()))) == 6 * 6 * 3 * 3
    for feature in range(len(FEATURES)):
        assert set(world.tastes[:, feature]) == set(world.features[:, feature])


@pytest.mark.parametrize("taste_strength", [0.0, 0.6, 1.0])
def test_affinities_and_outcomes_are_those_of_the_definition(world: World, taste_strength: float) -> None:
    """Affinities are products of factors, and outcome chances sum to 1. Without taste strength all tastes are equal."""
    world = replace(world, taste_strength=taste_strength)
    items, tastes = np.arange(world.num_items), np.arange(len(world.tastes))[:, None]
    np.testing.assert_allclose(world.affinities(items, tastes), affinities(world))
    chances = world.outcome_chances(items, tastes)
    np.testing.assert_allclose(chances, np.moveaxis(outcome_chances(world), 0, -1))
    np.testing.assert_allclose(chances.sum(axis=-1), 1.0)
    assert chances.min() > 0
    best = (world.features[0] == world.tastes).all(axis=1)
    assert world.affinities(items[:1], np.flatnonzero(best)) == pytest.approx(AFFINITIES.prod() ** taste_strength)
    assert (
        (np.ptp(chances, axis=0).max() == 0) == (np.ptp(world.affinities(items, tastes)) == 0) == (taste_strength == 0)
    )


def test_the_catalogue_names_each_item_once_with_its_words(world: World) -> None:
    """Titles are brand, adjective, category and model number.

    2% of the items are unavailable. Prices are the world's.
    """
    products = catalogue(world, seed=PLAN.seed, until_day=7)
    assert products.column_names == ["item_id", "title", "category", "brand", "colour", "price", "available"]
    assert products["item_id"].to_pylist() == sorted(world.item_ids())
    assert products["available"].to_pylist().count(False) == round(0.02 * world.num_items)
    names = category_names(len(world.first_items))
    for row in products.to_pylist():
        number = world.number_of(row["item_id"])
        adjective = ADJECTIVES[world.adjectives[number]]
        assert row["brand"] == BRANDS[world.brands[number]]
        assert row["category"] == names[world.categories[number]]
        assert row["colour"] == ALL_COLOURS[world.colours[number]]
        assert row["price"] == world.prices[number]
        assert re.fullmatch(re.escape(f"{row['brand']} {adjective} {row['category']} ") + r"\d\d", row["title"])
    assert len(set(products["category"].to_pylist())) == len(world.first_items)
    assert min(products["price"].to_pylist()) > 0


def test_no_title_names_a_colour(world: World) -> None:
    """No word of a brand, an adjective or a category is a colour: only the column `colour` holds it."""
    words = re.findall(r"\w+", " ".join([*BRANDS, *ADJECTIVES, *category_names(2_000)]).lower())
    assert not set(words) & set(ALL_COLOURS)
    products = catalogue(world, seed=PLAN.seed, until_day=7)
    titles = [set(re.findall(r"\w+", title.lower())) for title in products["title"].to_pylist()]
    assert not any(words & set(ALL_COLOURS) for words in titles)
    assert set(products["colour"].to_pylist()) == set(ALL_COLOURS)


def test_the_catalogue_of_a_day_has_the_products_launched_by_it(world: World) -> None:
    """A later catalogue has the same rows and the products launched since."""
    early, late = (catalogue(world, seed=PLAN.seed, until_day=day).to_pylist() for day in (3, 7))
    assert len(early) == 300 + 3 * 6
    assert [row for row in late if world.launch_days[world.number_of(row["item_id"])] <= 3] == early
