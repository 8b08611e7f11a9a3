"""`recommend-lists` on a handmade shop, without an engine."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.config.data import EVENT_TYPES
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store import partitions, tables
from tests import stages

DS = "2026-11-22"
IDS = [f"item{number}" for number in range(6)]
UNAVAILABLE, NEW = "item4", "item5"
LISTS = {"similar_items": 2, "bought_together": 3, "popular_items": 4, "buy_again": 2}
HISTORIES = {  # item, event type, days before the end of the run's day
    "anna": [(0, "purchase", 20), (1, "purchase", 20), (0, "purchase", 10), (2, "view", 1)],
    "bert": [(0, "purchase", 9), (4, "purchase", 9), (1, "view", 2)],
    "cleo": [],
    "dora": [(3, "view", 1)],
}


def config_for(root: Path, *, text: bool = False, again: bool = False, **recommend: Any) -> RunConfig:
    document = {
        "name": "tiny",
        "ds": DS,
        "output_dir": str(root),
        "input": {"simulate": {}},
        "recommend": {"lists": LISTS} | recommend,
        "student": ({"text": {}} if text else {}) | {"refit": again},
    }
    return RunConfig.model_validate(document)


def put(root: Path, name: str, rows: list[dict[str, Any]]) -> None:
    staging = partitions.new_staging(root, name, DS)
    pq.write_table(pa.Table.from_pylist(rows, schema=tables.ALL[name].schema), staging / "part-00000.parquet")
    partitions.publish(staging, root, name, DS, fingerprint="by hand")


def put_histories(root: Path, histories: dict[str, list[tuple[int, str, float]]]) -> None:
    end = datetime(2026, 11, 23, tzinfo=UTC)
    rows = [
        {
            "user_id": user,
            "item_indices": [item for item, _, _ in events],
            "event_types": [EVENT_TYPES.index(kind) for _, kind, _ in events],
            "event_times": [end - timedelta(days=days, hours=-1) for _, _, days in events],
            "session_numbers": list(range(len(events))),
            "num_train": len(events),
            "user_values": [],
        }
        for user, events in histories.items()
    ]
    put(root, "histories", rows)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The output folder of a run up to `recommend`."""
    put_histories(tmp_path, HISTORIES)
    vocabulary = [
        {"item_index": index, "item_id": one, "available": one != UNAVAILABLE, "in_stock": True, "first_seen": DS}
        for index, one in enumerate(IDS)
    ]
    put(tmp_path, "item_vocabulary", vocabulary)
    counts = ("num_interactions", "num_users", "num_purchases", "num_train", "num_in_windows")
    statistics = [{"item_index": index} | dict.fromkeys(counts, int(one != NEW)) for index, one in enumerate(IDS)]
    put(tmp_path, "item_statistics", statistics)
    brands = [{"item_index": index, "feature": "brand", "values": ["ab"[index % 2]]} for index in range(len(IDS))]
    put(tmp_path, "item_features", brands)
    recommended = [
        {
            "user_id": user,
            "item_ids": IDS[first:3],
            "scores": [1.5, 1.0, 0.5][first:],
            "source": "model",
            "model_version": "m",
            "generated_at": datetime(2026, 11, 23, tzinfo=UTC),
            "variant": f"v{first}",
        }
        for first, user in enumerate(["anna", "bert", "cleo", "dora"])
    ]
    put(tmp_path, "recommendations", recommended)
    put_student(tmp_path, "models/student")
    return tmp_path


def put_student(root: Path, name: str) -> None:
    torch.manual_seed(1)
    model = SequenceModel(num_items=len(IDS), kind="gru", dim=4, max_length=5)
    staging = partitions.new_staging(root, name, DS)
    save_model(staging, model, model.state_dict(), {"vocabulary_hash": vocabulary_hash(IDS), "vocabulary_version": "v"})
    partitions.publish(staging, root, name, DS, fingerprint="by hand")


def read(root: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(partitions.current(root, name, DS)).to_pylist()


def test_each_list_is_a_table(shop, capsys):
    """Each named list has a table with the rows of its kind, and one line says how many."""
    made = stages.run("recommend-lists", config_for(shop, long_form=True))
    assert set(made) == {*LISTS, "recommendations_long"}
    end = datetime(2026, 11, 23, tzinfo=UTC)
    together = {row["item_id"]: row["item_ids"] for row in read(shop, "bought_together")}
    assert together == {"item0": ["item1"], "item1": ["item0"], "item4": ["item0"]}
    again = read(shop, "buy_again")
    assert [(row["user_id"], row["item_ids"], row["generated_at"]) for row in again] == [
        ("anna", ["item0"], end),
        ("bert", ["item0"], end),
    ]
    popular = read(shop, "popular_items")[0]
    assert (popular["of"], popular["item_ids"]) == ("all", ["item2", "item3", "item1", "item0"])
    similar = {row["item_id"]: row["item_ids"] for row in read(shop, "similar_items")}
    assert similar.keys() == set(IDS) - {NEW}
    assert all(len(items) == 2 and not {item, NEW, UNAVAILABLE} & set(items) for item, items in similar.items())
    long = [tuple(row.values()) for row in read(shop, "recommendations_long")]
    assert long == [
        ("anna", "item0", 1, 1.5, "v0"),
        ("anna", "item1", 2, 1.0, "v0"),
        ("anna", "item2", 3, 0.5, "v0"),
        ("bert", "item1", 1, 1.0, "v1"),
        ("bert", "item2", 2, 0.5, "v1"),
        ("cleo", "item2", 1, 0.5, "v2"),
    ]
    assert "recommend_lists: buy_again: 2 rows → " in capsys.readouterr().out


def test_new_items_are_similar_by_their_titles(shop):
    """A student that reads titles has vectors of new items, so these have lists and are in lists."""
    stages.run("recommend-lists", config_for(shop, text=True, lists={"similar_items": 4}))
    similar = {row["item_id"]: row["item_ids"] for row in read(shop, "similar_items")}
    assert similar.keys() == set(IDS)
    assert NEW in similar["item0"]


def test_the_shops_sessions_are_baskets(shop):
    """Two purchases of one day are no basket where the shop says that they are two sessions."""
    config = config_for(shop, lists={"bought_together": 3})
    events = {
        "path": "x",
        "format": "csv",
        "session": "s",
        "user": "u",
        "item": "i",
        "time": {"format": "iso", "column": "t"},
    }
    document = config.model_dump(mode="json") | {"input": {"events": events | {"only_type": "purchase"}}}
    stages.run("recommend-lists", RunConfig.model_validate(document))
    assert read(shop, "bought_together") == []


def test_one_changed_list_is_made_again(shop, capsys):
    """Another k makes one table again, and the recommendations are no matter of the lists."""
    first = stages.run("recommend-lists", config_for(shop))
    capsys.readouterr()
    again = stages.run("recommend-lists", config_for(shop, lists=LISTS | {"popular_items": 1}))
    assert "similar_items, bought_together, buy_again: up to date" in capsys.readouterr().out
    assert {name for name in LISTS if again[name] != first[name]} == {"popular_items"}


def test_categories_segments_and_rules(shop):
    """Categories and segments have lists of popular items. An item that the rules exclude is in none of the lists."""
    put(shop, "user_features", [{"user_id": user, "feature": "country", "values": ["DE"]} for user in ("anna", "dora")])
    document = config_for(shop, policy={"exclude": {"brand": ["b"]}}, lists={"popular_items": 2}).model_dump(
        mode="json"
    )
    users = {"path": "x", "format": "csv", "features": {"country": "category"}}
    document["input"]["users"] = users
    stages.run("recommend-lists", RunConfig.model_validate(document))
    popular = {(row["of"], row["feature"], row["value"]): row["item_ids"] for row in read(shop, "popular_items")}
    assert popular == {
        ("all", "", ""): ["item2", "item0"],
        ("items", "brand", "a"): ["item2", "item0"],
        ("users", "country", "DE"): ["item2", "item0"],
    }


@pytest.mark.parametrize("name", LISTS)
def test_k_beyond_the_available_items_is_refused(shop, name):
    """A list longer than the number of available items is an error that names both."""
    with pytest.raises(ConfigError, match=rf"recommend.lists.{name} is 6, but only 5 items are available: lower"):
        stages.run("recommend-lists", config_for(shop, lists={name: 6}))


def test_a_shop_without_purchases_gets_empty_tables(shop, capsys):
    """The run goes on, and a warning says which list is empty and why."""
    put_histories(shop, {"anna": [(0, "view", 1)], "bert": []})
    made = stages.run("recommend-lists", config_for(shop))
    assert (made["bought_together"].rows, made["buy_again"].rows, made["popular_items"].rows) == (0, 0, 2)
    told = capsys.readouterr()
    said = told.out + told.err
    assert "warning: bought_together has no rows, because no two available items were bought in one basket" in said
    assert "warning: buy_again has no rows, because no user has bought an available item twice" in said


def test_a_model_of_another_vocabulary_is_refused(shop):
    """Vectors of other items would give lists of nonsense."""
    put(
        shop,
        "item_vocabulary",
        [
            {"item_index": index, "item_id": f"other{one}", "available": True, "in_stock": True, "first_seen": DS}
            for index, one in enumerate(IDS)
        ],
    )
    with pytest.raises(ModelError, match=r"are not the first .* items of this vocabulary"):
        stages.run("recommend-lists", config_for(shop, lists={"similar_items": 2}))


def test_a_run_without_further_lists_has_none(shop, capsys):
    """By default the stage is skipped, and says which settings name lists."""
    assert stages.run("recommend-lists", config_for(shop, lists={})) == {}
    assert "skipped, the run config names no further lists (recommend.lists" in capsys.readouterr().out


def test_a_refitted_student_knows_the_items_of_all_days(shop):
    """Items that occur in a history of two and more have a list of similar items, the held-out ones too."""
    put_student(shop, "models/refit")
    stages.run("recommend-lists", config_for(shop, again=True, lists={"similar_items": 2}))
    similar = [row["item_id"] for row in read(shop, "similar_items")]
    assert similar == ["item0", "item1", "item2", "item4"], "item3 is alone in its history, and item5 has no event"
    assert partitions.manifest_of(shop, "similar_items", DS).inputs.keys() == {
        "histories",
        "item_vocabulary",
        "models/refit",
    }
