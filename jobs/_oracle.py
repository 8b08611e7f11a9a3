"""Ranks under the simulator's true model: the best that anyone can reach on the simulated clickstream."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import torch

from jobs.simulate_events import plan_of
from kdlib.config import RunConfig
from kdlib.data.windows import evaluation_rows, ragged
from kdlib.inference.ranks import ranks_of_scores
from kdlib.simulation.oracle import oracle_scores


def oracle_ranks(config: RunConfig, histories: pa.Table, item_ids: list[str]) -> np.ndarray:
    """The rank of each test target under the exact predictive distribution, int64 [rows].

    Args:
      config: a run config that simulates, with a time split.
      histories: rows of `tables.HISTORIES` in the order of evaluation.
      item_ids: the vocabulary in index order.
    """
    plan = plan_of(config)
    world = plan.world()
    numbers_V = np.array([world.number_of(item_id) for item_id in item_ids])
    rows = evaluation_rows(histories, position_column="test_position")
    users = {user: row for row, user in enumerate(histories["user_id"].to_pylist())}
    kept = histories.take(pa.array([users[user] for user in rows.user_ids], pa.int64()))
    start = np.datetime64(datetime.combine(plan.first_day, datetime.min.time()))
    times, offsets = ragged(kept["event_times"])
    days = (times.astype("datetime64[us]") - start) // np.timedelta64(1, "D")
    sessions, _ = ragged(kept["session_numbers"])
    position = kept["test_position"].to_numpy()
    target_days = days[offsets[:-1] + position]
    ranks = np.empty(len(rows), np.int64)
    for day in np.unique(target_days):
        which = np.flatnonzero(target_days == day)
        steps = []
        for row in which:
            prefix = slice(offsets[row], offsets[row] + position[row])
            items = numbers_V[rows.items[rows.offsets[row] : rows.offsets[row + 1]]]
            steps.append(_without_repeats(items, sessions[prefix], days[prefix]))
        items, in_sessions, on_days = zip(*steps, strict=True)
        scores = oracle_scores(world, items, in_sessions, on_days, target_day=int(day))[:, numbers_V]
        part = _subset(rows, which)
        ranks[which] = ranks_of_scores(
            lambda batch, s=scores: torch.from_numpy(s[batch]),
            part,
            num_items=scores.shape[1],
            device=torch.device("cpu"),
        ).ranks
    return ranks


def _without_repeats(items: np.ndarray, sessions: np.ndarray, days: np.ndarray) -> list[np.ndarray]:
    """The simulator repeats no item directly within a session; histories may, over midnight or where items are left out."""
    new = np.ones(len(items), bool)
    new[1:] = (items[1:] != items[:-1]) | (sessions[1:] != sessions[:-1])
    return [items[new], sessions[new], days[new]]


def _subset(rows, which):
    from dataclasses import replace

    from kdlib.data.windows import take_slices

    lengths = np.diff(rows.offsets)[which]
    flat = take_slices(rows.offsets[which], lengths)
    return replace(
        rows, user_ids=rows.user_ids[which], items=rows.items[flat], context=rows.context[flat],
        offsets=np.concatenate(([0], np.cumsum(lengths))), targets=rows.targets[which],
    )  # fmt: skip
