"""Rows of the published tables, by DuckDB."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kdlib.explore import data
from kdlib.explore.run import LISTS, Run, find_run
from tests.explore.made_shop import DS, EVIL, ITEM_IDS, UNAVAILABLE, K, history, put, user_id


def test_users_are_found_by_the_beginning_of_their_id(run: Run) -> None:
    """At most twenty users come, sorted by id, and signs of SQL are plain text."""
    assert [row["user_id"] for row in data.find_users(run, "user003")] == [user_id(n) for n in range(30, 40)]
    assert data.find_users(run, "user0013") == [{"user_id": "user0013", "interactions": 5}]
    assert len(data.find_users(run, "")) == data.MOST_FOUND
    for text in ("USER", "ser0", "user%", "user____", "'; drop table histories; --"):
        assert data.find_users(run, text) == []


def test_a_random_user_has_a_list_of_the_model(run: Run) -> None:
    """Different users are chosen, and never one without a history."""
    found = {data.random_user(run) for _ in range(30)}
    assert len(found) > 5
    assert not found & {user_id(number) for number in range(0, 40, 8)}


def test_a_history_comes_newest_first_with_titles(run: Run) -> None:
    """Each step has time, event type and title, or the id of an untitled item; an unknown user has no steps."""
    steps, expected = data.read_steps(run, user_id(5)), history(5)
    assert [step["item_id"] for step in steps] == [ITEM_IDS[index] for index in reversed(expected["item_indices"])]
    assert steps[0]["time"] == datetime(2026, 11, 14, 12, 30, tzinfo=UTC) == expected["event_times"][-1]
    assert [step["event"] for step in steps] == ["view", "purchase", "cart", "favourite", "view"]
    assert steps[-1] == {
        "time": datetime(2026, 11, 10, 12, 30, tzinfo=UTC),
        "event": "view",
        "item_id": "item035",
        "title": "Red lamp 35",
    }
    assert data.read_steps(run, "nobody") == data.read_steps(run, user_id(8)) == []
    assert (data.count_steps(run, user_id(5)), data.count_steps(run, user_id(8))) == (5, 0)
    assert data.count_steps(run, "nobody") is None


def test_a_long_history_is_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long history only the last interactions are read."""
    monkeypatch.setattr(data, "MOST_STEPS", 2)
    assert [step["item_id"] for step in data.read_steps(run, user_id(7))] == ["item007", "item054"]


def test_a_list_is_the_published_row(run: Run) -> None:
    """The row has the table's columns without the folder's `ds`, and an unknown user has no row."""
    row = data.read_list(run.folder(LISTS), user_id(3))
    assert row is not None
    assert set(row) == {
        "user_id",
        "item_ids",
        "scores",
        "source",
        "model_version",
        "generated_at",
        "because_item_ids",
        "item_sources",
        "variant",
    }
    assert (len(row["item_ids"]), len(row["scores"]), row["source"]) == (K, K, "model")
    assert data.read_list(run.folder(LISTS), "nobody") is None


def test_items_are_found_by_id_and_by_words(run: Run) -> None:
    """The item with exactly this id comes first, then the most used items, and capital letters do not matter."""
    assert [row["item_id"] for row in data.find_items(run, "item01")][:2] == ["item019", "item018"]
    assert [row["item_id"] for row in data.find_items(run, "item012")] == ["item012"]
    red = data.find_items(run, "RED LAMP")
    assert red[0] == {"item_id": "item059", "title": "Red lamp 59", "interactions": 1059}
    assert len(red) == data.MOST_FOUND
    assert data.find_items(run, "%") == []
    assert [row["title"] for row in data.find_items(run, "<SCRIPT>")] == [EVIL]


def test_the_same_id_comes_before_longer_ids(tmp_path: Path) -> None:
    """An id comes before longer ids that begin with it, even if fewer users have seen its item."""
    item = {"title": None, "available": True, "in_stock": True, "first_seen": DS}
    put(tmp_path, "item_vocabulary", DS, [item | {"item_index": n, "item_id": "a" * (n + 1)} for n in range(3)])
    counts = dict.fromkeys(("num_users", "num_purchases", "num_train", "num_in_windows"), 0)
    put(tmp_path, "item_statistics", DS, [counts | {"item_index": n, "num_interactions": n} for n in range(3)])
    found = data.find_items(find_run(tmp_path, ds=DS, day=DS), "aa")
    assert [row["item_id"] for row in found] == ["aa", "aaa"]


def test_an_item_has_its_counts_and_texts(run: Run) -> None:
    """Category and description come from the products; without products they are None, and an unknown item has no row."""
    item = data.read_item(run, ITEM_IDS[UNAVAILABLE])
    assert item is not None
    assert (item["available"], item["num_users"], item["category"]) == (False, 1007, "lamps")
    assert item["description"] == "It gives light."
    assert data.read_item(run, "nothing") is None
    bare = Run(run.root, run.ds, True, {name: one for name, one in run.versions.items() if name != "products"})
    found = data.read_item(bare, "item000")
    assert found is not None
    assert (found["item_index"], found["category"], found["description"]) == (0, None, None)


def test_titles_fall_back_to_ids(run: Run) -> None:
    """An item without a title, or one that left the vocabulary, is shown by its id."""
    assert data.read_titles(run, ["item001", "item002", "gone"]) == {
        "item001": "item001",
        "item002": "Blue lamp 2",
        "gone": "gone",
    }
    assert data.read_titles(run, []) == {}
