"""Whether an export makes the lists that the run published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from kdlib.errors import ModelError
from kdlib.export.policy import POLICY
from kdlib.export.reader import History, Reader
from kdlib.inference.list_rules import Segments
from kdlib.inference.recommender import read_vocabulary

USERS = 1000
"""How many users are compared, spread over the table."""
LEAST_EQUAL = 0.99
"""Least share of equal lists of the float32 graphs. Scores that are equal up to rounding may change places."""
HISTORY = ("user_id", "item_indices", "event_types", "event_times", "session_numbers", "user_values")


def compare(
    folder: Path,
    *,
    recommendations: Path,
    histories: Path,
    vocabulary: Path,
    user_features: Path | None,
    int8: bool,
) -> dict[str, Any]:
    """Make the lists of some users with the reference reader, and compare them with the table.

    Args:
      folder: of the export.
      recommendations: RECOMMENDATIONS, made with this student and these rules.
      histories: HISTORIES that they were made from.
      vocabulary: ITEM_VOCABULARY.
      user_features: USER_FEATURES. None where the policy has no segments.
      int8: compare the small graphs, too.

    Returns:
      `users`: how many were compared. `refused`: users with rules that the graphs cannot apply. `float32` and `int8`, if users
      were compared: shares of `equal_lists` and of `shared_items`, and the `largest_score_difference` in equal lists.

    Raises:
      ModelError: fewer than 99% of the lists are equal.
    """
    feature = json.loads((folder / POLICY).read_text(encoding="utf-8"))["segment_feature"]
    segments = Segments(user_features, feature) if user_features else None
    rows = _some_users(recommendations, histories, read_vocabulary(vocabulary)[0], segments)
    found: dict[str, Any] = {}
    for form in ("float32", *(["int8"] if int8 else [])):
        reader, results = Reader(folder, int8=form == "int8"), []
        for listed, history, segment in rows:
            rules = reader.policy["segments"].get(segment, reader.policy["default"])
            if not rules["not_in_onnx"]:
                made = reader.list_of(history, user_values=listed["user_values"], segment=segment)
                results.append(_difference(listed, made.item_ids, made.scores))
        found |= {"users": len(results), "refused": len(rows) - len(results)}
        if results:
            equal, shared, differences = (np.array(one) for one in zip(*results, strict=True))
            found[form] = {
                "equal_lists": round(float(equal.mean()), 4),
                "shared_items": round(float(shared.mean()), 4),
                "largest_score_difference": float(f"{differences.max():.1e}"),
            }
    if (share := found.get("float32", {}).get("equal_lists", 1.0)) < LEAST_EQUAL:
        raise ModelError(
            f"only {share:.1%} of the lists of {found['users']:,} users that ONNX Runtime makes from the export equal the table"
            f" recommendations, expected at least {LEAST_EQUAL:.0%}. Install the versions of torch, onnx and onnxruntime that"
            " distilrec's constraints.txt names, or remove the section export"
        )
    return found


def _difference(listed: dict[str, Any], item_ids: list[str], scores: list[float]) -> tuple[bool, float, float]:
    """Whether the lists are equal, the share of the table's items in both, and how far the scores of equal lists differ."""
    equal = item_ids == listed["item_ids"]
    shared = len({*item_ids} & {*listed["item_ids"]}) / max(1, len(listed["item_ids"]))
    return equal, shared, float(np.abs(np.subtract(scores, listed["scores"])).max(initial=0.0)) if equal else 0.0


def _some_users(
    recommendations: Path, histories: Path, item_ids: pa.Array, segments: Segments | None
) -> list[tuple[dict[str, Any], History, str | None]]:
    """Rows of the table with `user_values`, their histories, and their segments, in the order of the table."""
    table = pads.dataset(recommendations)
    rows = table.count_rows()
    chosen = np.unique(np.linspace(0, rows - 1, min(USERS, rows)).astype(np.int64))
    listed = table.take(pa.array(chosen), columns=["user_id", "item_ids", "scores"])
    source = pads.dataset(histories)
    columns = [name for name in HISTORY if name in source.schema.names]
    found = source.to_table(columns, filter=pads.field("user_id").isin(listed["user_id"].combine_chunks()))
    times = found.column_names.index("event_times")
    found = found.set_column(times, "event_times", found["event_times"].cast(pa.list_(pa.int64())))
    history_of = {row["user_id"]: row for row in found.to_pylist()}
    segment_of = segments.of(listed["user_id"]) if segments else [None] * len(listed)
    names, result = item_ids.to_pylist(), []
    for row, segment in zip(listed.to_pylist(), segment_of, strict=True):
        history = history_of[row["user_id"]]
        events = History(
            [names[index] for index in history["item_indices"]],
            history["event_types"],
            np.array(history["event_times"], np.int64).astype("datetime64[us]"),
            history["session_numbers"],
        )
        result.append((row | {"user_values": history.get("user_values", [])}, events, segment))
    return result
