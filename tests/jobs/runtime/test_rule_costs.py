"""The policies that `evaluate` compares, and the users of each segment."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.rule_costs import ruled_lists, user_segments
from kdlib.config.policy import PolicyConfig
from kdlib.store import tables

SEGMENTS = {"feature": "country", "rules": {"de": {"at_most": {"brand": 1}}, "it": {}}}


def _config(policy: dict[str, Any] | None) -> Any:
    rules = None if policy is None else PolicyConfig.model_validate(policy)
    return SimpleNamespace(
        recommend=SimpleNamespace(policy=rules, k=7, item_block=32), last_day=date(2026, 11, 22), day="2026-11-22"
    )


def _inputs(root: Path) -> Any:
    names = ("models/student", "item_vocabulary", "item_features", "user_features")
    return {name: SimpleNamespace(folder=root / name) for name in names}


def test_each_rule_is_left_out_once(tmp_path: Path) -> None:
    """There is the policy itself, one without each of its rules, and none. They hold for the lists of the next day."""
    policy = {"exclude_recent": {"view": "1d"}, "at_most": {"brand": 2}, "segments": SEGMENTS}
    found = ruled_lists(_config(policy), _inputs(tmp_path))
    assert found is not None
    policies = found.pop("policies")
    assert list(policies) == ["with_rules", "without_exclude_recent", "without_at_most", "without_rules"]
    assert policies["without_at_most"].rules_set() == ["exclude_recent"]
    assert policies["without_rules"] is None
    assert found == {
        "model_folder": str(tmp_path / "models/student"),
        "vocabulary_folder": str(tmp_path / "item_vocabulary"),
        "item_features_folder": str(tmp_path / "item_features"),
        "user_features_folder": str(tmp_path / "user_features"),
        "day": date(2026, 11, 23),
        "k": 7,
        "item_block": 32,
    }
    assert ruled_lists(_config(None), _inputs(tmp_path)) is None


def test_users_by_the_feature_that_chooses_their_rules(tmp_path: Path) -> None:
    """A segment with rules has its users, all other users are together, and a segment without users is left out."""
    (tmp_path / "user_features").mkdir()
    rows = [{"user_id": f"u{user}", "feature": "country", "values": [one]} for user, one in enumerate(["de", "fr"])]
    table = pa.Table.from_pylist(rows, schema=tables.USER_FEATURES.schema)
    pq.write_table(table, tmp_path / "user_features" / "part-00000.parquet")
    users = np.array(["u0", "u1", "u2"], object)
    found = user_segments(_config({"segments": SEGMENTS}), _inputs(tmp_path), users)
    assert {name: chosen.tolist() for name, chosen in found.items()} == {
        "country = de": [True, False, False],
        "country = (other)": [False, True, True],
    }
    assert user_segments(_config({"at_most": {"brand": 2}}), _inputs(tmp_path), users) == {}
    assert user_segments(_config(None), _inputs(tmp_path), users) == {}
