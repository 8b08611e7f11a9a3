"""A loaded run answers with the lists of its table."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kdlib.config.data import EVENT_TYPES
from kdlib.serving.requests import parse
from kdlib.store import partitions
from tests.serving import nights
from tests.serving.nights import Made

NOW = 1_800_000_000_000_000
POLICY: dict[str, Any] = {
    "exclude": {"brand": ["b3"]},
    "exclude_recent": {"view": "5d", "favourite": "0d"},
    "at_most": {"brand": 2},
    "new_items": {"days": 7, "share": 0.4},
    "boosts": [{"items": {"brand": ["b1"]}, "factor": 2}],
    "pins": [{"item": "item010", "place": 2}],
}
SEGMENTS = {"segments": {"feature": "country", "rules": {"de": {"exclude": {"brand": ["b0"]}, "pins": []}}}}
USERS = {
    "input": {"simulate": {}, "users": {"path": "users.csv", "format": "csv", "features": {"country": "category"}}}
}
CASES: dict[str, dict[str, Any]] = {
    "gru": {"kind": "gru"},
    "lstm": {"kind": "lstm"},
    "transformer": {"kind": "transformer"},
    "user values": {"kind": "transformer", "user_columns": True},
    "no reasons": {"recommend": {"because": 0}},
    "policy": {"recommend": {"policy": POLICY}},
    "experiment": {"settings": {"experiment": {"salt": "s", "variants": {"control": 0.5, "treatment": 0.5}}}},
    "segments": {"recommend": {"policy": POLICY | SEGMENTS}, "settings": USERS, "user_columns": True},
}


@pytest.mark.parametrize("case", CASES)
def test_a_request_with_the_history_gets_the_list_of_the_table(tmp_path: Path, case: str) -> None:
    """All users of a run get their list of the table, with scores, sources and reasons, in one batch and alone."""
    made = Made(tmp_path, **CASES[case])
    nights.promote(made)
    night = nights.load(tmp_path)
    histories = pq.read_table(partitions.current(tmp_path, "histories", made.ds)).to_pylist()
    asked = [
        parse(_body(nights.events_of(row, made.item_ids, EVENT_TYPES), user=row["user_id"]), now=NOW)
        for row in histories
    ]
    wanted = nights.table(made)
    together = night.recommend(asked, now=NOW)
    alone = [night.recommend([one], now=NOW)[0] for one in asked[:9]]
    for answers, rows in ((together, wanted), (alone, wanted[:9])):
        for answer, row in zip(answers, rows, strict=True):
            assert isinstance(answer, dict)
            assert answer["ds"] == made.ds
            assert answer["model_version"] == row["model_version"]
            assert answer["source"] == row["source"]
            assert answer.get("variant") == row["variant"]
            assert [one["item_id"] for one in answer["items"]] == row["item_ids"]
            assert [one["score"] for one in answer["items"]] == pytest.approx(row["scores"], abs=1e-5)
            assert [one["source"] for one in answer["items"]] == (
                row["item_sources"] or [row["source"]] * len(row["item_ids"])
            )
            assert [one["because"] for one in answer["items"]] == (
                row["because_item_ids"] or [[]] * len(row["item_ids"])
            )
    assert {row["source"] for row in wanted} == {"model", "popular"}
    assert {row["variant"] for row in wanted} == ({"control", "treatment"} if case == "experiment" else {None})


def test_without_a_user_an_answer_names_no_variant(tmp_path: Path) -> None:
    """A visitor who is not known is in no variant of the A/B test."""
    nights.promote(Made(tmp_path, **CASES["experiment"]))
    [answer] = nights.load(tmp_path).recommend([parse(_body([]), now=NOW)], now=NOW)
    assert isinstance(answer, dict)
    assert "variant" not in answer


def _body(events: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"session": events} | more).encode()
