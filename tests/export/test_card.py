"""The model card says what it was given, in words and as JSON."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kdlib.export.card import CARD, TEXT, CardSources, write_card
from kdlib.store.tables import GATES, METRICS

MODEL = {
    "version": "abc123",
    "parameters": 15120,
    "parameters_without_item_tables": 5392,
    "item_table_bytes": 38912,
    "options": {
        "kind": "gru",
        "block": "prenorm",
        "dim": 16,
        "hidden": 32,
        "layers": 1,
        "heads": 1,
        "max_length": 50,
        "inputs": ["event_type"],
        "session_flag": True,
        "user_columns": {},
    },
}
FUNNEL = {
    "first_event": "2026-09-02 00:30:03",
    "last_event": "2026-10-08 22:51:24",
    "rows_read": 94155,
    "kept": 84687,
    "users": 10259,
    "reasons": {"bot_user": 5962},
}
METRIC_ROWS = [
    ("student", "ndcg@10", 0.104),
    ("student - popularity", "ndcg@10", 0.0848),
    ("student", "coverage@10", 0.676),
]
METRIC_ROWS += [("student", "ndcg@10/country = de", 0.09), ("student", "recall@20/purchase", 0.14)]
METRIC_ROWS += [("popularity", "ndcg@10/country = de", 0.01), ("student", "hr@10/tenth 1", 0.2)]
CHECK = {"equal_lists": 0.654, "shared_items": 0.992, "largest_score_difference": 0.03}


def sources(**changes: Any) -> CardSources:
    metrics = [
        {"model": model, "metric": metric, "value": value, "low": value - 0.01, "high": value + 0.01, "num_users": 449}
        for model, metric, value in METRIC_ROWS
    ]
    gate = {"gate": "test_users", "part": "quality", "value": 449.0, "low": 30.0, "high": None}
    facts: dict[str, Any] = {
        "name": "shop",
        "ds": "2026-10-08",
        "model": MODEL,
        "refit": False,
        "recipe": {"teachers": [{"name": "wide", "kind": "transformer", "width": "width 64"}], "kl_weight": 2.0},
        "funnel": FUNNEL,
        "untrained_items": 9,
        "reads_content": False,
        "pseudonyms": True,
        "min_item_users": 3,
        "metrics": pa.Table.from_pylist(metrics, schema=METRICS.schema),
        "gates": pa.Table.from_pylist(
            [gate | {"status": "passed", "text": "users who come back"}], schema=GATES.schema
        ),
        "k": 10,
        "check": {"users": 990, "refused": 10, "float32": CHECK | {"equal_lists": 1.0}, "int8": CHECK},
    }
    return CardSources(**facts | changes)


def test_the_card_has_period_rows_quality_segments_gates_and_limits(tmp_path: Path) -> None:
    """Each fact stands in the text and in the JSON; the files are those of the export."""
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "items.parquet").write_bytes(b"1234")
    write_card(tmp_path, sources())
    text, facts = (tmp_path / TEXT).read_text(), json.loads((tmp_path / CARD).read_text())
    for line in (
        "Version abc123: GRU with 1 layer(s), item vectors of width 16, 15,120 parameters, 5,392 of them outside",
        "- Events from 2026-09-02 00:30:03 to 2026-10-08 22:51:24 (UTC).",
        "- rows read 94,155, kept 84,687, users 10,259.",
        "- Quarantined: bot_user 5,962.",
        "- teacher wide: transformer, width 64",
        "| student − popularity | ndcg@10 | 0.0848 | 0.0748 to 0.0948 | 449 |",
        "| student | ndcg@10/country = de | 0.0900 |",
        "| student | recall@20/purchase | 0.1400 |",
        "- test_users: passed. users who come back",
        "- `items/items.parquet`: 4 bytes",
        "made the lists of 990 users from these files: 100.0% of them equal",
        "- 9 items have no training interactions. The student has learnt nothing about them",
        "- 10 of the users compared have rules that choose items together",
        "65.4% of the lists equal the table's, and 99.2%",
        "The run's tables hold pseudonyms of users.",
        "fewer than 3 users",
    ):
        assert line in text, line
    assert "tenth" not in text
    assert text.count("country = de") == 1
    assert facts["data"]["kept"] == 84687
    assert [row["value"] for row in facts["quality_by_segment"]] == [0.09, 0.14]
    assert facts["files"] == {"items/items.parquet": 4}


@pytest.mark.parametrize(
    ("changes", "there", "not_there"),
    [
        ({"refit": True}, "before it was trained again on all days", "nobody's favourite"),
        ({"reads_content": True}, "by their titles, features or codes alone", "has learnt nothing"),
        ({"untrained_items": 0}, "It knows the items of 2026-10-08", "no training interactions"),
        ({"pseudonyms": False, "min_item_users": 0}, "the shop's own user ids", "is in nobody's list"),
        (
            {"check": {"users": 0, "refused": 7, "float32": CHECK | {"equal_lists": None}}},
            "7 of the users compared",
            "made the lists of",
        ),
    ],
)
def test_the_card_claims_only_what_holds(tmp_path: Path, changes: dict[str, Any], there: str, not_there: str) -> None:
    """Sentences about a second training, content, pseudonyms and the comparison follow from the facts."""
    write_card(tmp_path, sources(**changes))
    text = (tmp_path / TEXT).read_text()
    assert there in text
    assert not_there not in text
