"""Judge lists by the simulator's true model of each user's next item. It also gives the best lists possible."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from kdlib.config.data import EVENT_TYPES
from kdlib.config.run import RunConfig
from kdlib.data.windows import EvaluationRows, Marks, ragged
from kdlib.inference.ranks import target_ranks
from kdlib.simulation.events import BOT_VIEWS
from kdlib.simulation.input import plan_of
from kdlib.simulation.oracle import Oracle
from kdlib.simulation.steps import BOUGHT, CARTED, LONGEST_GAP_SECONDS, SHORTEST_BREAK_SECONDS, VIEWED

BEST = "best_reachable"
USERS = 1024
"""Number of users whose probabilities of all items are held at once."""
_OUTCOMES = np.array([{"cart": CARTED, "purchase": BOUGHT}.get(name, VIEWED) for name in EVENT_TYPES])


class Truth(NamedTuple):
    """What the true model gives for the rows."""

    ranks: np.ndarray
    """int64 [rows]: rank of each target; −1 where a row has no target."""
    probabilities: dict[str, np.ndarray]
    """Model → float64 [rows, top]: probability of each item in the model's lists. `best_reachable` has the best."""


def knows_the_truth(config: RunConfig) -> bool:
    """Whether the histories are the simulator's: all items, sessions and days, without the bots, split by time."""
    features = config.features
    if config.input.simulate is None or features.split.kind != "time" or features.max_items is not None:
        return False
    start = features.period_start
    return (
        LONGEST_GAP_SECONDS <= features.session_gap_seconds <= SHORTEST_BREAK_SECONDS
        and features.max_events_per_user_day <= BOT_VIEWS[0]
        and (start is None or start <= plan_of(config).first_day)
    )


def truth_of(
    config: RunConfig,
    histories: pa.Table,
    item_ids: list[str],
    rows: EvaluationRows,
    lists: Mapping[str, np.ndarray],
    *,
    top: int,
) -> Truth:
    """Judge lists by the probability of each user's next item.

    The next item is the first item of a session on a certain day. This is the day of the user's test item. For a user
    without a test item it is the first test day, or the day of the last event if that is later.

    Args:
      config: a run config for which `knows_the_truth` holds.
      histories: rows of `tables.HISTORIES`.
      item_ids: the vocabulary in index order.
      rows: the histories' evaluation rows, with marks and for everyone.
      lists: model → int64 item indices [rows, top], −1 where a list has ended.
      top: length of the best lists.
    """
    plan = plan_of(config)
    world = plan.world()
    numbers_V = np.array([world.number_of(item_id) for item_id in item_ids])
    start = np.datetime64(datetime.combine(plan.first_day, datetime.min.time()))
    days_U = _target_days(config, histories, rows, start)
    assert rows.marks is not None
    marks_days = _days(rows.marks.event_times, start)
    ranks = np.full(len(rows), -1)
    found = {name: np.zeros(of_model.shape) for name, of_model in lists.items()} | {BEST: np.zeros((len(rows), top))}
    for day in np.unique(days_U).tolist():
        oracle = Oracle(world, target_day=day)
        users = np.flatnonzero(days_U == day)
        for which in np.split(users, range(USERS, len(users), USERS)):
            steps = [_steps(rows, marks_days, numbers_V, row) for row in which]
            scores_BV = oracle.scores(*zip(*steps, strict=True))[:, numbers_V]
            for name, of_model in lists.items():
                chosen = of_model[which]
                probabilities = np.take_along_axis(scores_BV, chosen.clip(0), axis=1)
                found[name][which] = np.where(chosen < 0, 0.0, probabilities)
            unseen_BV = torch.from_numpy(scores_BV)
            seen_rows, seen_items = rows.hidden_items(which)
            ranks_B = target_ranks(
                unseen_BV,
                torch.from_numpy(rows.targets[which].clip(0)),
                seen_rows=torch.from_numpy(seen_rows),
                seen_items=torch.from_numpy(seen_items),
            )
            ranks[which] = np.where(rows.targets[which] < 0, -1, ranks_B.numpy())
            found[BEST][which] = unseen_BV.topk(top, dim=1).values.clamp(min=0).numpy()
    return Truth(ranks, found)


def _days(times: np.ndarray, start: np.datetime64) -> np.ndarray:
    return (times.astype("datetime64[us]") - start) // np.timedelta64(1, "D")


def _target_days(config: RunConfig, histories: pa.Table, rows: EvaluationRows, start: np.datetime64) -> np.ndarray:
    """int64 [rows], days of the period, see `truth_of`."""
    first = config.last_day - timedelta(days=config.features.split.test_days - 1)
    times, offsets = ragged(histories["event_times"])
    days = np.full(len(histories), int(_days(np.array([first], "datetime64[D]"), start)[0]))
    some = np.diff(offsets) > 0
    days[some] = np.maximum(days[some], _days(times[offsets[1:][some] - 1], start))
    tested = histories["test_position"].is_valid().to_numpy()
    position = histories["test_position"].drop_null().to_numpy()
    days[tested] = _days(times[offsets[:-1][tested] + position], start)
    place = {user: row for row, user in enumerate(histories["user_id"].to_pylist())}
    return days[[place[user] for user in rows.user_ids.tolist()]]


def _steps(rows: EvaluationRows, marks_days: np.ndarray, numbers_V: np.ndarray, row: int) -> list[np.ndarray]:
    """A row's history as the oracle takes it.

    With `features.collapse_repeats: false` a view, its cart and its purchase are three rows. They are one step with
    the strongest outcome.
    """
    part = slice(rows.offsets[row], rows.offsets[row + 1])
    marks = rows.marks
    assert isinstance(marks, Marks)
    items, sessions = numbers_V[rows.items[part]], marks.sessions[part]
    first = np.ones(len(items), bool)
    first[1:] = (items[1:] != items[:-1]) | (sessions[1:] != sessions[:-1])
    strongest = np.maximum.reduceat(_OUTCOMES[marks.event_types[part]], np.flatnonzero(first))
    return [items[first], strongest, sessions[first], marks_days[part][first]]
