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
MOST_DIFFERENCE = 1e-3
"""Of scores of the float32 graphs. Other processors round otherwise."""
CANDIDATES = 1000
"""Most items whose scores are compared for a user whose rules the graphs cannot apply."""
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
      `users`: how many lists were compared. `refused`: users whose rules the graphs cannot apply. Only their scores are
      compared. `float32` and `int8` have three figures each. `equal_lists` is the share of equal lists. `shared_items` is the
      share of the table's items that are in both lists. Both are None if no list was compared. The third is the
      `largest_score_difference` of an item of the table.

    Raises:
      ModelError: fewer than 99% of the float32 lists are equal, or their scores differ.
    """
    feature = json.loads((folder / POLICY).read_text(encoding="utf-8"))["segment_feature"]
    segments = Segments(user_features, feature) if user_features else None
    rows = _some_users(recommendations, histories, read_vocabulary(vocabulary)[0], segments)
    found: dict[str, Any] = {}
    for form in ("float32", *(["int8"] if int8 else [])):
        reader, equal, shared, differences = Reader(folder, int8=form == "int8"), [], [], []
        for listed, history, segment in rows:
            refused = bool(reader.rules_of(segment)["not_in_onnx"])
            k = CANDIDATES if refused else None
            made = reader.candidates(history, user_values=listed["user_values"], segment=segment, k=k)
            score_of = dict(zip(made.item_ids, made.scores, strict=True))
            both = [
                (score_of[i], s) for i, s in zip(listed["item_ids"], listed["scores"], strict=True) if i in score_of
            ]
            differences.append(max((abs(one - other) for one, other in both), default=0.0))
            if not refused:
                equal.append(made.item_ids == listed["item_ids"])
                shared.append(len(both) / max(1, len(listed["item_ids"])))
        found |= {"users": len(equal), "refused": len(rows) - len(equal)}
        found[form] = {
            "equal_lists": round(float(np.mean(equal)), 4) if equal else None,
            "shared_items": round(float(np.mean(shared)), 4) if equal else None,
            "largest_score_difference": float(f"{max(differences, default=0.0):.1e}"),
        }
    _judge(found)
    return found


def _judge(found: dict[str, Any]) -> None:
    """Raise ModelError where the float32 graphs do not make the table's lists."""
    share, difference = (found["float32"][name] for name in ("equal_lists", "largest_score_difference"))
    if difference > MOST_DIFFERENCE or (share is not None and share < LEAST_EQUAL):
        lists = (
            "" if share is None else f"{share:.1%} of the lists are equal, expected at least {LEAST_EQUAL:.0%}, and "
        )
        raise ModelError(
            f"with ONNX Runtime the export does not make the lists of recommendations: {lists}scores differ by up to"
            f" {difference:g}, expected at most {MOST_DIFFERENCE:g}. Install the versions of torch, onnx and onnxruntime that"
            " distilrec's constraints.txt names, or remove the section export"
        )


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
