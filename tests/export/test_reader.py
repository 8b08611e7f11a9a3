"""The reference reader makes the lists that the recommender makes, of 1,000 users, under rules."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from kdlib.config.policy import PolicyConfig
from kdlib.errors import ModelError
from kdlib.inference.list_rules import rules_of_policy
from kdlib.models.files import load_model
from kdlib.store.tables import HISTORIES, ITEM_FEATURES, USER_FEATURES

pytest.importorskip("onnxruntime")
from kdlib.export.check import compare
from kdlib.export.graphs import write_graphs
from kdlib.export.items import ITEMS, VECTORS, write_items, write_vectors
from kdlib.export.policy import POLICY, write_policy
from kdlib.export.reader import History, Reader, history_of_events
from tests.benchmarks.serving import serving_actor

V, USERS, K, END = 500, 1000, 10, datetime(2026, 1, 1, tzinfo=UTC)
SHAPES: dict[str, dict[str, Any]] = {
    "gru": {"kind": "gru", "hidden": 24, "inputs": ["event_type", "time_gap"], "user_columns": {"age": 1}},
    "bsarec": {"kind": "transformer", "block": "bsarec", "heads": 2, "session_flag": True, "inputs": ["time_gap"]},
}
POLICY_SET = PolicyConfig.model_validate(
    {
        "include": {"price": {"min": 2}},
        "exclude": {"brand": ["b1"]},
        "exclude_recent": {"view": "2d", "cart": "0d"},
        "boosts": [{"items": {"brand": ["b2"]}, "factor": 4}],
        "segments": {
            "feature": "country",
            "rules": {"fr": {"exclude": {}, "boosts": []}, "de": {"at_most": {"brand": 2}}},
        },
    }
)


def made_histories() -> pa.Table:
    """1,000 users: some without an item, some with a long history, with sessions, types, times and user values."""
    draw = np.random.default_rng(5)
    lengths = np.minimum(draw.geometric(0.12, USERS) - 1, 40)
    rows = []
    for user, length in enumerate(lengths.tolist()):
        gaps = (10 ** draw.uniform(-1, 6.2, length) * 1e6).astype(np.int64)
        times = int(END.timestamp() * 1e6) - 1 - np.cumsum(gaps)[::-1]
        rows.append(
            {
                "user_id": f"u{user}",
                "item_indices": (draw.zipf(1.3, length) % V).tolist(),
                "event_types": draw.integers(0, 4, length).tolist(),
                "event_times": times.tolist(),
                "session_numbers": np.cumsum(draw.random(length) < 0.4).tolist(),
                "num_train": length,
                "validation_position": None,
                "test_position": None,
                "user_values": draw.integers(0, 128, 2).tolist(),
            }
        )
    return pa.Table.from_pylist(rows, schema=HISTORIES.schema)


def write_features(folder: Path) -> dict[str, str]:
    """A brand and a price of each item, and a country of most users."""
    rows = [{"item_index": item, "feature": "brand", "values": [f"b{item % 5}"]} for item in range(V)]
    rows += [{"item_index": item, "feature": "price", "number": float(item % 9)} for item in range(V)]
    people = [
        {"user_id": f"u{user}", "feature": "country", "values": [("fr", "it", "de")[user % 3]]}
        for user in range(USERS)
        if user % 4
    ]
    for name, table, found in (("items", ITEM_FEATURES, rows), ("users", USER_FEATURES, people)):
        (folder / f"{name}_features").mkdir()
        pq.write_table(pa.Table.from_pylist(found, schema=table.schema), folder / f"{name}_features" / "0.parquet")
    return {
        "item_features_folder": str(folder / "items_features"),
        "user_features_folder": str(folder / "users_features"),
    }


@pytest.fixture(scope="module", params=SHAPES)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A student, its table of lists under rules, and its export: the folder, and the arguments of `compare`."""
    home = tmp_path_factory.mktemp("shop")
    histories = made_histories()
    counts = np.bincount(histories["item_indices"].combine_chunks().flatten().to_numpy(), minlength=V)
    folders = write_features(home)
    shape = {"dim": 16, "max_length": 20} | SHAPES[request.param]
    actor, shards = serving_actor(home, histories, counts, shape, policy=POLICY_SET, generated_at=END, **folders)
    actor(shards)
    export = home / "export"
    export.mkdir()
    model, facts = load_model(home / "model")
    rules = rules_of_policy(
        POLICY_SET,
        vocabulary=home / "vocabulary",
        item_features=Path(folders["item_features_folder"]),
        num_items=V,
        day=END.date(),
        k=K,
    )
    write_graphs(export, model, version=facts["version"], int8=True)
    write_vectors(export, model)
    places = {"vocabulary": home / "vocabulary", "statistics": home / "statistics"}
    write_items(export, **places, num_items=V, rules=rules)
    write_policy(
        export,
        model,
        rules,
        policy=POLICY_SET,
        k=K,
        generated_at=END,
        ds="2025-12-31",
        version=facts["version"],
        time_zone="Europe/Berlin",
        session_gap_seconds=1800,
        collapse_repeats=True,
        user_values=[],
    )
    return export, {
        "recommendations": home / "table",
        "histories": home / "histories.parquet",
        "vocabulary": home / "vocabulary",
        "user_features": home / "users_features",
        "int8": True,
    }


def test_the_lists_of_1000_users_equal_the_table(shop: tuple[Path, dict[str, Any]]) -> None:
    """All lists of users of source model and popular are equal, and all scores; users with a cap are refused."""
    export, places = shop
    found = compare(export, **places)
    capped = sum(user % 4 > 0 and user % 3 == 2 for user in range(USERS))
    assert (found["users"], found["refused"]) == (USERS - capped, capped)
    assert found["float32"]["equal_lists"] == found["float32"]["shared_items"] == 1.0
    assert found["float32"]["largest_score_difference"] < 1e-4
    assert 0.3 < found["int8"]["equal_lists"] < 1.0
    assert found["int8"]["shared_items"] > 0.9
    table = pq.read_table(places["recommendations"])
    assert {*table["source"].to_pylist()} == {"model", "popular"}


def test_a_user_with_rules_for_whole_lists_is_refused(shop: tuple[Path, dict[str, Any]]) -> None:
    """The reader names the rule, and gives candidates in place of a list."""
    reader = Reader(shop[0])
    history = History(["3", "no-such-item"], [0, 0], ["2025-12-30", "2025-12-31"], [0, 0])
    with pytest.raises(ValueError, match=r"the rules at_most choose items together.*candidates"):
        reader.list_of(history, segment="de")
    assert len(reader.candidates(history, segment="de", k=30).item_ids) == 30


def test_what_the_model_does_not_know_is_left_out(shop: tuple[Path, dict[str, Any]]) -> None:
    """Unknown items leave no trace; without a known item the list is the popular one. A list may be as long as the shop."""
    reader = Reader(shop[0])
    times = np.array(["2025-12-30T08:00", "2025-12-30T08:10", "2025-12-30T08:20"], "datetime64[us]")
    with_unknown = History(["3", "no-such-item", "9"], [0, 3, 1], times, [0, 1, 1])
    without = History(["3", "9"], [0, 1], times[[0, 2]], [0, 1])
    assert reader.list_of(with_unknown, user_values=[7, 9]) == reader.list_of(without, user_values=[7, 9])
    assert reader.list_of(without, k=3).item_ids == reader.list_of(without).item_ids[:3]
    nobody = reader.list_of(History(["no-such-item"], [0], times[:1], [0]))
    assert (nobody.source, len(nobody.item_ids)) == ("popular", K)
    allowed = np.isfinite(pq.read_table(shop[0] / ITEMS)["bias"].to_numpy())
    assert (allowed[3], allowed[9]) == (True, False)
    assert len(reader.list_of(without, k=10_000).item_ids) == allowed.sum() - 1


def test_the_vectors_score_as_the_graph_does(shop: tuple[Path, dict[str, Any]]) -> None:
    """The matrix in safetensors, and the item table's bias, give the scores of `topk`."""
    reader, home = Reader(shop[0]), shop[0]
    vector_1W = np.random.default_rng(1).normal(size=(1, 16)).astype(np.float32)
    bias = pq.read_table(home / ITEMS)["bias"].to_numpy()
    scores_V = (vector_1W @ load_file(home / VECTORS)["item_vectors"].T)[0] + bias
    fed = {"vector": vector_1W, "excluded": np.zeros((1, 0), np.int64), "item_bias": bias[None], "k": np.array([5])}
    scores_BK, items_BK = reader._topk.run(None, fed)
    np.testing.assert_allclose(np.asarray(scores_BK)[0], np.sort(scores_V)[::-1][:5], rtol=1e-5)
    assert scores_V.argmax() == np.asarray(items_BK)[0, 0]


def test_events_become_the_history_that_the_run_makes() -> None:
    """Repeats in a session and a local day are one interaction with the strongest type; a gap above the limit divides."""
    policy = {"session_gap_seconds": 1800, "collapse_repeats": True, "time_zone": "Europe/Berlin"}
    times = np.array(
        [
            "2025-12-30T22:00",
            "2025-12-30T22:30",
            "2025-12-30T22:59",
            "2025-12-30T23:01",
            "2025-12-30T23:02",
            "2025-12-31T00:00",
        ],
        "datetime64[us]",
    )
    events = History(["a", "a", "a", "a", "b", "b"], [0, 2, 1, 0, 0, 0], times, [0] * 6)
    made = history_of_events(policy, events)
    assert made.item_ids == ["a", "a", "b", "b"]  # 23:01 is another day in Berlin
    assert np.asarray(made.event_types).tolist() == [2, 0, 0, 0]
    assert np.asarray(made.times).tolist() == times[[0, 3, 4, 5]].tolist()
    assert np.asarray(made.sessions).tolist() == [0, 0, 0, 1]
    own = history_of_events(policy, events._replace(sessions=[0, 1, 1, 1, 1, 1]), own_sessions=True)
    assert own.item_ids == ["a", "a", "a", "b"]
    assert history_of_events(policy | {"collapse_repeats": False}, events).item_ids == events.item_ids
    assert history_of_events(policy, History([], [], [], [])).item_ids == []
    with pytest.raises(ValueError, match="sessions are the shop's own"):
        history_of_events(policy | {"session_gap_seconds": None}, events)


@pytest.mark.parametrize(
    ("segment", "change"),
    [
        ("default", {"seen_days": [0, 0, 0, 0]}),  # other lists
        ("de", {"item_bias": "bias/fr"}),  # other scores, of users whose lists are not compared
    ],
)
def test_an_export_that_makes_other_lists_is_an_error(
    shop: tuple[Path, dict[str, Any]], tmp_path: Path, segment: str, change: dict[str, Any]
) -> None:
    """The error has the share of equal lists, the difference of scores, their bounds, and what to do."""
    export, places = shop
    wrong = tmp_path / "export"
    shutil.copytree(export, wrong)
    policy = json.loads((wrong / POLICY).read_text())
    (policy if segment == "default" else policy["segments"])[segment].update(change)
    (wrong / POLICY).write_text(json.dumps(policy))
    share = r"100\.0%" if segment == "de" else r"\d+\.\d%"
    said = rf"{share} of the lists are equal, expected at least 99%, and scores differ by up to .*, expected at most 0\.001"
    with pytest.raises(ModelError, match=rf"not make the lists of recommendations: {said}.*section export"):
        compare(wrong, **places)
