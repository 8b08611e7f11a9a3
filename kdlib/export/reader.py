"""A reference reader of an export: a user's history → the list that the run made.

A shop may copy this file: it needs numpy, onnxruntime and pyarrow only. `policy.json` says the same in words (`how_to_read`).

Shapes: N interactions of a history, V items, K length of a list, U features of the users.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

MICROSECONDS_A_DAY = 86_400_000_000


class History(NamedTuple):
    """A user's interactions, oldest first."""

    item_ids: Sequence[str]
    event_types: ArrayLike
    """N indices into `policy["event_types"]`."""
    times: ArrayLike
    """N times in UTC, as datetime64 or as text without an offset."""
    sessions: ArrayLike
    """N numbers: another number than before means another session."""


class TopItems(NamedTuple):
    """A user's list, best first. It is shorter than k if fewer items are left."""

    item_ids: list[str]
    scores: list[float]
    source: str
    """`model`, or `popular` for a history without a known item."""


def history_of_events(policy: Mapping[str, Any], events: History, *, own_sessions: bool = False) -> History:
    """A user's events as the run makes a history of them: with sessions, and with repeats as one interaction.

    Args:
      policy: of the export.
      events: in the order of time.
      own_sessions: keep the given sessions. Else a gap opens a session, and `events.sessions` is not read.

    Raises:
      ValueError: the run's sessions are the shop's own, and none are given.
    """
    items, types = np.array(events.item_ids, object), np.asarray(events.event_types)
    times, sessions = np.asarray(events.times, "datetime64[us]"), np.asarray(events.sessions)
    if not own_sessions:
        if policy["session_gap_seconds"] is None:
            raise ValueError("the run's sessions are the shop's own: give them, with own_sessions")
        opens = np.diff(times) > np.timedelta64(policy["session_gap_seconds"], "s")
        sessions = np.cumsum(np.append(False, opens))[: len(items)]
    if policy["collapse_repeats"] and len(items):
        zone = ZoneInfo(policy["time_zone"])
        days = np.array([datetime.fromtimestamp(time / 1e6, zone).toordinal() for time in times.astype(int).tolist()])
        starts = np.flatnonzero(np.append(True, np.any([one[1:] != one[:-1] for one in (items, sessions, days)], 0)))
        items, times, sessions = items[starts], times[starts], sessions[starts]
        types = np.maximum.reduceat(types, starts)
    return History(items.tolist(), types, times, sessions)


class Reader:
    """Makes lists from histories.

    Args:
      folder: of the export, such as `promoted/export`. Links are followed once, so a later promotion changes nothing.
      int8: use the small graphs.
    """

    def __init__(self, folder: str | Path, *, int8: bool = False) -> None:
        home, end = Path(folder).resolve(), ".int8.onnx" if int8 else ".onnx"
        self.policy = json.loads((home / "policy.json").read_text(encoding="utf-8"))
        items = pq.read_table(home / "items" / "items.parquet")
        self._items: dict[str, NDArray] = {name: items[name].to_numpy() for name in items.column_names}
        self._index_of = {item: index for index, item in enumerate(self._items["item_id"])}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._encoder, self._topk = (
            onnxruntime.InferenceSession(home / f"{name}{end}", options, providers=["CPUExecutionProvider"])
            for name in ("encoder", "topk")
        )
        self._now = np.datetime64(datetime.fromisoformat(self.policy["generated_at"]).replace(tzinfo=None), "us")

    def list_of(
        self, history: History, *, user_values: Sequence[int] = (), segment: str | None = None, k: int | None = None
    ) -> TopItems:
        """The list of a user, as in the table.

        Args:
          history: as `history_of_events` makes it.
          user_values: the user's codes, U of them, in the order of `policy["user_values"]`. Missing codes are unknown values.
          segment: the user's value of `policy["segment_feature"]`.
          k: length of the list; None: as in the table.

        Raises:
          ValueError: the user's rules choose items together, which the graphs cannot do.
        """
        if rules := self.rules_of(segment)["not_in_onnx"]:
            raise ValueError(
                f"the rules {', '.join(rules)} choose items together, and the graphs score items one by one: read the table"
                " recommendations, or apply the rules to `candidates`"
            )
        return self.candidates(history, user_values=user_values, segment=segment, k=k)

    def rules_of(self, segment: str | None) -> dict[str, Any]:
        """The rules of a segment of users, as in `policy.json`."""
        return self.policy["segments"].get(segment, self.policy["default"])

    def candidates(
        self, history: History, *, user_values: Sequence[int] = (), segment: str | None = None, k: int | None = None
    ) -> TopItems:
        """The best items under all rules but those that choose items together. Arguments as in `list_of`."""
        rules = self.rules_of(segment)
        items = np.array([self._index_of.get(item, -1) for item in history.item_ids], np.int64)
        known = items >= 0
        items, types, sessions = (
            items[known],
            np.asarray(history.event_types)[known],
            np.asarray(history.sessions)[known],
        )
        times = np.asarray(history.times, "datetime64[us]")[known]
        seen_days = np.array([np.inf if days is None else days for days in rules["seen_days"]])
        ages = (self._now - times).astype(np.int64) / MICROSECONDS_A_DAY
        seen = np.unique(items[ages < seen_days[types.astype(int)]])
        bias, length = self._items[rules["item_bias"]], min(k or self.policy["k"], len(self._index_of))
        if len(items):
            context = self._context(types, times, sessions, user_values)
            scores, best = self._best(items, context, seen, bias, length)
        else:
            scores, best = self._popular(bias, length)
        return TopItems(self._items["item_id"][best].tolist(), scores.tolist(), "model" if len(items) else "popular")

    def _context(self, types: NDArray, times: NDArray, sessions: NDArray, user_values: Sequence[int]) -> NDArray:
        """The columns that the encoder reads, int64 [N, C]."""
        context = np.zeros((len(types), self._encoder.get_inputs()[2].shape[2]), np.int64)
        context[:, 0] = np.append(sessions[1:] != sessions[:-1], True)
        context[:, 1] = types
        seconds = np.diff(times.astype(np.int64)) // 1_000_000
        context[1:, 2] = np.minimum(1 + np.frexp(seconds.astype(np.float64))[1], 27)
        values = user_values[: context.shape[1] - 3]
        context[:, 3 : 3 + len(values)] = values
        return context

    def _best(self, items: NDArray, context: NDArray, seen: NDArray, bias: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """Scores and indices of the k items with the best scores."""
        last = slice(-self.policy["max_length"], None)
        fed = {"items": items[None, last], "context": context[None, last]}
        [vector] = self._encoder.run(None, fed | {"lengths": np.array([len(items[last])])})
        chosen = {"excluded": seen[None], "item_bias": bias[None], "k": np.array([k])}
        scores, best = (np.asarray(one)[0] for one in self._topk.run(None, {"vector": vector} | chosen))
        left = scores > -np.inf
        return scores[left], best[left]

    def _popular(self, bias: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """Popularity shares and indices of the k most popular items."""
        train, total = self._items["num_train"], self._items["num_interactions"]
        order = np.lexsort((-total, -train * np.exp(bias.astype(np.float64))))
        best = order[bias[order] > -np.inf][:k]
        return (train / max(1, train.sum())).astype(np.float32)[best], best
