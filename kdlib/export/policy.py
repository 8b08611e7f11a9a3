"""What a reader of an export must know beside the graphs, to make the lists that the run made: `policy.json`."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from kdlib.config.data import EVENT_TYPES
from kdlib.config.policy import PolicyConfig
from kdlib.export.items import bias_column
from kdlib.inference.list_rules import ListRules
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import CONTEXT

POLICY = "policy.json"
HOW_TO_READ = (
    "History: events in the order of time. If collapse_repeats is true, consecutive events of one item in one session and one"
    " day of time_zone are one interaction, with the time of the first and the strongest event type.",
    "Items that are not in items/items.parquet are left out of the history. The graph reads the last max_length interactions.",
    "Context columns. new_session: 1 if the next interaction opens a session; always 1 at the last one. event_type: index into"
    " event_types. time_gap: 0 at the first interaction, 1 for less than a second since the one before, b + 2 from 2^b"
    " seconds on, at most 27. It is computed before the history is cut to max_length. Then the codes of user_values.",
    "Sessions: a gap of more than session_gap_seconds opens one. null: the shop's own sessions count.",
    "excluded: items of interactions that are younger than seen_days of their event type at generated_at. null: for ever.",
    "item_bias: the column of the user's segment, else the default's. It holds the logarithm of boosts, and -inf for items that"
    " are not available or that include and exclude leave out.",
    "A history without a known item gets the items with the most num_train × exp(bias), then num_interactions, then the"
    " smaller item_index. Their score is their share of all num_train.",
    "Rules in not_in_onnx (at_most, new_items, pins) choose items together. The graphs score items one by one. A list without"
    " these rules would break them unnoticed, so the reference reader refuses it. It gives candidates instead.",
)


def write_policy(
    folder: Path,
    model: SequenceModel,
    rules: Mapping[str | None, ListRules],
    *,
    policy: PolicyConfig | None,
    k: int,
    generated_at: datetime,
    ds: str,
    version: str,
    time_zone: str,
    session_gap_seconds: int | None,
    collapse_repeats: bool,
    user_values: Sequence[Mapping[str, Any]],
) -> None:
    """Write `policy.json`.

    Args:
      folder: of the export.
      model: the student.
      rules: from `rules_of_policy`.
      policy: of the run config.
      k: length of the lists.
      generated_at: end of the data's last day, with time zone.
      ds: that day.
      version: of the student.
      time_zone: of days.
      session_gap_seconds: None: sessions are the shop's own.
      collapse_repeats: as in the features.
      user_values: the codings of the users' features, from the manifest of the item vocabulary.
    """
    others = rules[None]
    facts = {
        "ds": ds,
        "generated_at": generated_at.isoformat(),
        "model_version": version,
        "k": k,
        "max_length": model.max_length,
        "event_types": list(EVENT_TYPES),
        "context": list(CONTEXT),
        "user_values": list(user_values),
        "time_zone": time_zone,
        "session_gap_seconds": session_gap_seconds,
        "collapse_repeats": collapse_repeats,
        "default": _rules(others, None),
        "segment_feature": policy.segments.feature if policy and policy.segments else None,
        "segments": {name: _rules(one, name) for name, one in rules.items() if name is not None},
        "policy": policy.model_dump(mode="json") if policy else None,
        "how_to_read": HOW_TO_READ,
    }
    (folder / POLICY).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rules(rules: ListRules, segment: str | None) -> dict[str, Any]:
    named = {"at_most": rules.caps, "new_items": rules.least_new, "pins": rules.pins}
    return {
        "item_bias": bias_column(segment),
        "seen_days": [None if math.isinf(days) else days for days in rules.seen_days],
        "not_in_onnx": [name for name, value in named.items() if value],
    }
