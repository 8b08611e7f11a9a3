"""Rules from a run config, applied to the lists of the recommender."""

import itertools
import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from kdlib.config.policy import PolicyConfig
from kdlib.errors import ConfigError
from kdlib.inference.list_rules import rules_of_policy
from kdlib.inference.recommender import Recommender
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store import tables

NUM_ITEMS, KNOWN, K = 70, 60, 8
"""Items of the vocabulary, those of them that the model knows, length of the lists."""
SHOWN_ON = date(2026, 11, 24)
END_OF_DAY = datetime(2026, 11, 24, tzinfo=UTC)
BRANDS = ["acme", "bolt", "cord"]
UNAVAILABLE = {5, 6}


def brand_of(item):
    """Every fourth item has no brand."""
    return None if item % 4 == 3 else BRANDS[item % 3]


def price_of(item):
    return None if item == 10 else float(item)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Folders of a vocabulary, statistics, features of items and users, and a model."""
    root = tmp_path_factory.mktemp("shop")
    for name in ("vocabulary", "statistics", "model", "items", "users"):
        (root / name).mkdir()
    ids = [f"i{item}" for item in range(NUM_ITEMS)]
    first_seen = [(SHOWN_ON - timedelta(days=item)).isoformat() for item in range(NUM_ITEMS)]
    available = [item not in UNAVAILABLE for item in range(NUM_ITEMS)]
    index = pa.array(range(NUM_ITEMS), pa.int32())
    pq.write_table(
        pa.table({"item_index": index, "item_id": ids, "available": available, "first_seen": first_seen}),
        root / "vocabulary" / "part-00000.parquet",
    )
    counts = [NUM_ITEMS - item for item in range(NUM_ITEMS)]
    pq.write_table(
        pa.table({"item_index": index, "num_train": counts, "num_interactions": counts}),
        root / "statistics" / "part-00000.parquet",
    )
    features = []
    for item in range(NUM_ITEMS):
        if brand_of(item):
            features.append({"item_index": item, "feature": "brand", "values": [brand_of(item)]})
        if price_of(item) is not None:
            features.append({"item_index": item, "feature": "price", "number": price_of(item)})
        features.append({"item_index": item, "feature": "tags", "values": [f"t{item % 5}", f"u{item % 7}"]})
    pq.write_table(
        pa.Table.from_pylist(features, schema=tables.ITEM_FEATURES.schema), root / "items" / "part-00000.parquet"
    )
    users = [
        {"user_id": f"u{user:02}", "feature": "country", "values": ["de" if user % 2 else "fr"]} for user in range(20)
    ]
    users.append({"user_id": "u05", "feature": "age", "number": 40.0})
    pq.write_table(
        pa.Table.from_pylist(users, schema=tables.USER_FEATURES.schema), root / "users" / "part-00000.parquet"
    )
    torch.manual_seed(3)
    model = SequenceModel(num_items=KNOWN, kind="gru", dim=8)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    facts = {"vocabulary_hash": vocabulary_hash(ids[:KNOWN]), "vocabulary_version": "v1"}
    save_model(root / "model", model.eval(), model.state_dict(), facts)
    return root


def recommender(shop, policy):
    return Recommender(
        str(shop / "model"),
        str(shop / "vocabulary"),
        str(shop / "statistics"),
        k=K,
        because=0,
        item_block=32,
        generated_at=END_OF_DAY,
        threads=1,
        policy=None if policy is None else PolicyConfig.model_validate(policy),
        item_features_folder=str(shop / "items"),
        user_features_folder=str(shop / "users"),
    )


def histories(num_users=24, *, seed=0):
    """Users with 1 to 6 events of random items and types, at most 60 days old. Every sixth user has items that the model does not know."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        count = int(rng.integers(1, 7))
        items = rng.integers(KNOWN, NUM_ITEMS, count) if user % 6 == 0 else rng.integers(0, KNOWN, count)
        ages = np.sort(rng.uniform(0, 60, count))[::-1]
        rows.append(
            {
                "user_id": f"u{user:02}",
                "item_indices": items.tolist(),
                "event_types": rng.integers(0, 4, count).tolist(),
                "event_times": [END_OF_DAY - timedelta(days=age) for age in ages],
                "session_numbers": list(range(count)),
            }
        )
    names = ("user_id", "item_indices", "event_types", "event_times", "session_numbers")
    return pa.Table.from_pylist(rows, schema=pa.schema([tables.HISTORIES.schema.field(name) for name in names]))


def lists_of(table):
    return {row["user_id"]: [int(item[1:]) for item in row["item_ids"]] for row in table.to_pylist()}


def test_without_a_policy_nothing_changes(shop):
    """An empty policy gives the lists and scores of no policy; only the sources of the items are added."""
    plain, ruled = (recommender(shop, policy)(histories()) for policy in (None, {}))
    assert plain.drop_columns("item_sources").equals(ruled.drop_columns("item_sources"))
    assert plain["item_sources"].null_count == len(plain)
    assert [set(one) for one in ruled["item_sources"].to_pylist()] == [{one} for one in plain["source"].to_pylist()]


def test_include_and_exclude_by_features(shop):
    """A list holds only items with an included value, in the range, and without an excluded value."""
    policy = {"include": {"brand": ["acme", "bolt"], "price": {"min": 3, "max": 40}}, "exclude": {"tags": ["t1", "u2"]}}
    allowed = {
        item
        for item in range(KNOWN)
        if brand_of(item) in ("acme", "bolt")
        and price_of(item) is not None
        and 3 <= item <= 40
        and not {f"t{item % 5}", f"u{item % 7}"} & {"t1", "u2"}
    } - UNAVAILABLE
    lists = lists_of(recommender(shop, policy)(histories()))
    assert set(itertools.chain.from_iterable(lists.values())) <= allowed
    assert all(len(one) == min(K, len(allowed)) or len(one) >= len(allowed) - 6 for one in lists.values())


def test_recent_items_stay_out_by_type_and_age(shop):
    """A purchase of the last 30 days keeps its item out, a view never does, and other types do for ever."""
    people, policy = histories(200), {"exclude_recent": {"purchase": "30d", "view": "0d"}}
    shown, plain = (lists_of(recommender(shop, one)(people)) for one in (policy, None))
    returned = set()
    for row in people.to_pylist():
        for item, kind, time in zip(row["item_indices"], row["event_types"], row["event_times"], strict=True):
            age = (END_OF_DAY - time) / timedelta(days=1)
            if kind in (1, 2) or (kind == 3 and age < 30):
                assert item not in shown[row["user_id"]]
            elif item in shown[row["user_id"]]:
                returned.add(kind)
        assert not {*row["item_indices"]} & {*plain[row["user_id"]]}
    assert returned == {0, 3}, "views and old purchases come back"


def test_caps_new_items_and_pins_hold_in_every_list(shop):
    """No list has more than two items of a brand, or fewer than three new items; the pin stands at its place."""
    policy = {
        "at_most": {"brand": 2},
        "new_items": {"days": 10, "share": 0.3},
        "pins": [
            {"item": "i50", "place": 2},
            {"item": "i5", "place": 1},
            {"item": "i51", "place": 3, "last_day": "2026-11-23"},
        ],
    }
    table = recommender(shop, policy)(histories())
    for row, people in zip(table.to_pylist(), histories().to_pylist(), strict=True):
        items = [int(item[1:]) for item in row["item_ids"]]
        for brand in BRANDS:
            assert sum(brand_of(item) == brand for item in items) <= 2
        assert sum(item <= 10 for item in items) >= 3
        pinned = [source == "pinned" for source in row["item_sources"]]
        if 50 in people["item_indices"]:
            assert not any(pinned)
        else:
            assert (items[1], pinned) == (50, [place == 1 for place in range(len(items))])


def test_a_boost_multiplies_the_probability(shop):
    """A factor of e raises the score of the brand's items by 1, and the order follows."""
    policy = {"boosts": [{"items": {"brand": ["cord"]}, "factor": math.e}]}
    people = histories()
    plain, boosted = (recommender(shop, one)(people).to_pylist() for one in (None, policy))
    raised = 0
    for before, after in zip(plain, boosted, strict=True):
        if before["source"] == "popular":
            continue
        scores = dict(zip(before["item_ids"], before["scores"], strict=True))
        for item, score in zip(after["item_ids"], after["scores"], strict=True):
            if item in scores:
                lift = 1.0 if brand_of(int(item[1:])) == "cord" else 0.0
                assert score == pytest.approx(scores[item] + lift, abs=1e-5)
                raised += lift
        assert after["scores"] == sorted(after["scores"], reverse=True)
    assert raised
    popular = [[brand_of(int(item[1:])) for item in row["item_ids"]] for row in boosted if row["source"] == "popular"]
    assert all(brands.count("cord") > 3 for brands in popular), "the list of popular items is boosted too"


def test_segments_have_rules_of_their_own(shop):
    """A segment's key replaces the policy's. Users of other segments, or of none, have the policy's rules."""
    policy = {
        "include": {"brand": ["acme"]},
        "exclude": {"tags": ["t0"]},
        "segments": {"feature": "country", "rules": {"de": {"include": {"brand": ["bolt"]}}}},
    }
    people = histories()
    lists = lists_of(recommender(shop, policy)(people))
    assert list(lists) == people["user_id"].to_pylist()
    for user, items in lists.items():
        number = int(user[1:])
        expected = "bolt" if number < 20 and number % 2 else "acme"
        assert items, user
        assert {brand_of(item) for item in items} == {expected}
        assert all(item % 5 for item in items)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"include": {"brand": ["nobody"]}}, r"recommend\.policy leaves none of the 68 available items"),
        (
            {"pins": [{"item": "i999", "place": 1}]},
            r"recommend\.policy\.pins: the item 'i999' is not in the vocabulary",
        ),
        (
            {"segments": {"feature": "country", "rules": {"de": {"exclude": {"price": {"min": 0}, "tags": ["t0"]}}}}},
            r"recommend\.policy\.segments\.rules\.de leaves none",
        ),
    ],
)
def test_rules_that_cannot_hold_are_an_error(shop, policy, message):
    """Rules that leave no item, and a pin of an unknown item, are errors that name the rule."""
    with pytest.raises(ConfigError, match=message):
        rules_of_policy(
            PolicyConfig.model_validate(policy),
            vocabulary=shop / "vocabulary",
            item_features=shop / "items",
            num_items=NUM_ITEMS,
            day=SHOWN_ON,
            k=K,
        )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"boosts": [{"items": {"brand": ["a"]}, "factor": -1}]}, "greater than 0"),
        ({"at_most": {"brand": 0}}, "greater than 0"),
        ({"new_items": {"days": 3, "share": 1.5}}, "less than or equal to 1"),
        ({"exclude_recent": {"buy": "3d"}}, "'view', 'favourite', 'cart' or 'purchase'"),
        ({"exclude_recent": {"purchase": "30 days"}}, "exclude_recent.purchase"),
        ({"include": {"price": {"min": 3, "max": 2}}}, "min 3 is greater than max 2"),
        ({"include": {"price": {}}}, "needs min, max or both"),
        ({"include": {"brand": []}}, "at least 1 item"),
        (
            {"pins": [{"item": "a", "place": 1}, {"item": "b", "place": 1}]},
            "pins a and b have the same place 1 on some day",
        ),
        (
            {"boosts": [{"items": {"brand": ["a"]}, "factor": 2, "first_day": "2026-02-01", "last_day": "2026-01-01"}]},
            "first_day 2026-02-01 is after last_day 2026-01-01",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(policy, message):
    """The error says what was expected."""
    with pytest.raises(ValidationError, match=message):
        PolicyConfig.model_validate(policy)


def test_dated_pins_may_share_a_place():
    """Two pins at one place are fine if no day has both."""
    days = [{"last_day": "2026-11-30"}, {"first_day": "2026-12-01"}]
    policy = {"pins": [{"item": item, "place": 1, **when} for item, when in zip("ab", days, strict=True)]}
    assert len(PolicyConfig.model_validate(policy).pins) == 2


def test_items_that_are_left_out_give_way_to_others(shop):
    """Lists without some items are those of a vocabulary where these are unavailable; pins and new items give way, too."""
    policy = {
        "new_items": {"days": 10, "share": 0.3},
        "pins": [{"item": "i50", "place": 2}, {"item": "i20", "place": 3}],
    }
    made = recommender(shop, policy)
    people, before = histories(), made(histories())
    out = {50, 1, 8, *(items[0] for items in lists_of(before).values())}
    made.leave_out([*(f"i{item}" for item in out), f"i{NUM_ITEMS - 1}", "unknown"])
    for row in made(people).to_pylist():
        items = [int(item[1:]) for item in row["item_ids"]]
        assert len(items) == K
        assert not set(items) & out
        assert sum(item <= 10 for item in items) >= min(3, len(set(range(11)) - out - UNAVAILABLE))
        assert "pinned" not in row["item_sources"] or items[row["item_sources"].index("pinned")] == 20
    made.leave_out([])
    assert made(people).equals(before)


def test_an_event_after_the_run_hides_as_one_of_its_last_moment(shop):
    """A server knows events of today: a type with `0d` does not hide their items, and `1d` does."""
    people = histories()
    late = people.set_column(
        3, "event_times", pa.array([[END_OF_DAY + timedelta(hours=5)] * len(one) for one in people["event_types"]])
    )
    late = late.cast(people.schema)
    types = ("view", "favourite", "cart", "purchase")
    shown = lists_of(recommender(shop, {"exclude_recent": dict.fromkeys(types, "0d")})(late))
    hidden = lists_of(recommender(shop, {"exclude_recent": dict.fromkeys(types, "1d")})(late))
    seen = {row["user_id"]: set(row["item_indices"]) for row in late.to_pylist()}
    assert any(seen[user] & set(items) for user, items in shown.items())
    assert not any(seen[user] & set(items) for user, items in hidden.items())
