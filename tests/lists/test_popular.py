"""Popular items against sums in plain Python."""

import numpy as np
import pyarrow as pa
import pytest

from kdlib.lists.popular import groups_of, owners_of, popular_items, recent_events
from kdlib.store.days import MICROSECONDS_A_DAY
from tests.lists.histories import FIRST, random_users, write
from tests.lists.test_together import as_lists

NUM_ITEMS, K, HALF_LIFE = 12, 4, 3.0
UNTIL = (FIRST + 30) * MICROSECONDS_A_DAY
ITEM_FEATURES = pa.table(
    {
        "item_index": pa.array([0, 1, 2, 3, 4, 5], pa.int32()),
        "feature": ["kind", "kind", "kind", "kind", "tags", "kind"],
        "values": [["cup"], ["pot"], ["cup"], None, ["new", "sale"], []],
    }
)
USER_FEATURES = pa.table(
    {
        "user_id": ["user001", "user002", "user003", "user004", "nobody"],
        "feature": ["country", "country", "country", "gender", "country"],
        "values": [["DE"], ["DE"], ["FR"], ["f"], ["DE"]],
    }
)


def decayed(users, wanted=None):
    sums = np.zeros(NUM_ITEMS)
    for user, events in users.items():
        for item, _, time, _ in events if wanted is None or user in wanted else ():
            sums[item] += 0.5 ** ((30 - time) / HALF_LIFE)
    return sums


def best(sums, items, allowed):
    chosen = sorted((item for item in items if allowed[item] and sums[item] > 0), key=lambda item: (-sums[item], item))
    return [(item, pytest.approx(sums[item], rel=1e-5)) for item in chosen[:K]]


@pytest.mark.parametrize("seed", range(2))
def test_all_categories_and_segments(tmp_path, seed):
    """Each list has the items with the largest sums of decayed events, of its items or of its users."""
    users, allowed = random_users(seed), np.arange(NUM_ITEMS) % 5 != 1
    categories, segments = groups_of(ITEM_FEATURES, key="item_index"), groups_of(USER_FEATURES, key="user_id")
    counts = recent_events(
        write(tmp_path, users, rows_of_a_file=3),
        until=UNTIL,
        half_life_days=HALF_LIFE,
        num_items=NUM_ITEMS,
        segments=segments,
    )
    lists = as_lists(popular_items(*counts, categories, allowed_V=allowed, k=K))
    owners = owners_of(categories, segments)
    found = {tuple(owners[name][owner].as_py() for name in owners): pairs for owner, pairs in lists.items()}
    everything = decayed(users)
    expected = {
        ("all", "", ""): best(everything, range(NUM_ITEMS), allowed),
        ("items", "kind", "cup"): best(everything, [0, 2], allowed),
        ("items", "kind", "pot"): best(everything, [1], allowed),
        ("items", "tags", "new"): best(everything, [4], allowed),
        ("items", "tags", "sale"): best(everything, [4], allowed),
        ("users", "country", "DE"): best(decayed(users, {"user001", "user002"}), range(NUM_ITEMS), allowed),
        ("users", "country", "FR"): best(decayed(users, {"user003"}), range(NUM_ITEMS), allowed),
        ("users", "gender", "f"): best(decayed(users, {"user004"}), range(NUM_ITEMS), allowed),
    }
    assert found == {key: pairs for key, pairs in expected.items() if pairs}
    assert ("items", "kind", "pot") not in found


def test_without_features_there_is_one_list(tmp_path):
    """The list over all items and users."""
    users = random_users(0)
    counts = recent_events(write(tmp_path, users), until=UNTIL, half_life_days=HALF_LIFE, num_items=NUM_ITEMS)
    lists = popular_items(*counts, None, allowed_V=np.ones(NUM_ITEMS, bool), k=K)
    assert set(lists.owners_N) == {0}
    assert {name: column.to_pylist() for name, column in owners_of(None, None).items()} == {
        "of": ["all"],
        "feature": [""],
        "value": [""],
    }
