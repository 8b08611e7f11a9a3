"""Handwritten and random histories as Parquet files."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.config.data import EVENT_TYPES
from kdlib.store.tables import HISTORIES

FIRST_DAY = datetime(2026, 11, 1, tzinfo=UTC)
FIRST = (FIRST_DAY - datetime(1970, 1, 1, tzinfo=UTC)).days
"""The first day, in days since 1970."""

Event = tuple[int, str, float, int]
"""Item index, event type, time in days from `FIRST_DAY`, session number."""


def write(folder: Path, users: Mapping[str, Sequence[Event]], *, rows_of_a_file: int = 2) -> list[str]:
    """Write one row for each user; returns the files."""
    rows = []
    for user, events in users.items():
        items, types, days, sessions = zip(*events, strict=True) if events else ((), (), (), ())
        rows.append(
            {
                "user_id": user,
                "item_indices": list(items),
                "event_types": [EVENT_TYPES.index(one) for one in types],
                "event_times": [FIRST_DAY + timedelta(days=day) for day in days],
                "session_numbers": list(sessions),
                "num_train": 0,
                "user_values": [],
            }
        )
    files = []
    for start in range(0, len(rows), rows_of_a_file):
        files.append(str(folder / f"part-{start:05}.parquet"))
        table = pa.Table.from_pylist(rows[start : start + rows_of_a_file], schema=HISTORIES.schema)
        pq.write_table(table, files[-1])
    return files


def random_users(seed: int, *, num_users: int = 40, num_items: int = 12, num_days: int = 30) -> dict[str, list[Event]]:
    """Users with up to twenty events, in order of time; a session a day."""
    draw = np.random.default_rng(seed)
    users: dict[str, list[Event]] = {}
    for number in range(num_users):
        times = np.sort(draw.uniform(0, num_days, draw.integers(0, 21)))
        users[f"user{number:03}"] = [
            (int(draw.integers(num_items)), EVENT_TYPES[draw.choice([0, 2, 3])], float(time), int(time))
            for time in times
        ]
    return users
