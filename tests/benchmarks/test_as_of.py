"""A shop cut at an earlier day, and what follows the cut."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from kdlib.config.features import SplitConfig
from kdlib.store import tables
from tests.benchmarks.as_of import cut_at, what_follows

FIRST = datetime(2024, 5, 1, tzinfo=UTC)
SPLIT = SplitConfig(validation_days=1, test_days=1)
USERS = {  # (item, hours since the first midnight)
    "ann": [(7, 1), (2, 30), (2, 60), (5, 72), (2, 73), (7, 80), (3, 90)],
    "bob": [(3, 71.9), (3, 72), (7, 95.9), (2, 96)],
    "cy": [(5, 75)],
}


@pytest.fixture
def histories() -> pa.Table:
    """Three users. The fourth day begins after 72 hours."""
    rows = [
        {
            "user_id": user,
            "item_indices": [item for item, _ in events],
            "event_types": [0] * len(events),
            "event_times": [FIRST + timedelta(hours=hours) for _, hours in events],
            "session_numbers": list(range(len(events))),
            "num_train": 0,
        }
        for user, events in USERS.items()
    ]
    return pa.Table.from_pylist(rows, schema=tables.HISTORIES.schema)


def test_a_cut_ends_with_its_day(histories: pa.Table) -> None:
    """Events, items and users of later days are unknown, and the split's days count back from the cut."""
    cut = cut_at(histories, date(2024, 5, 3), SPLIT)
    assert cut.known.tolist() == [2, 3, 7]
    rows = cut.histories.to_pylist()
    assert [(row["user_id"], row["item_indices"]) for row in rows] == [("ann", [2, 0, 0]), ("bob", [1])]
    assert [row["session_numbers"] for row in rows] == [[0, 1, 2], [0]]
    split = [(row["num_train"], row["validation_position"], row["test_position"]) for row in rows]
    assert split == [(1, 1, 2), (0, None, None)]
    assert cut.histories.schema == tables.HISTORIES.schema


def test_the_first_new_known_item_of_the_next_days_follows(histories: pa.Table) -> None:
    """Unknown items are passed over and counted, items of the history are no targets, and the period has an end."""
    day = date(2024, 5, 3)
    cut = cut_at(histories, day, SPLIT)
    rows, unknown = what_follows(histories, cut, day, 1)
    assert unknown == 1
    assert rows.user_ids.tolist() == ["ann", "bob"]
    assert cut.known[rows.targets].tolist() == [3, 7]
    assert [cut.known[rows.items[rows.offsets[n] : rows.offsets[n + 1]]].tolist() for n in (0, 1)] == [[7, 2, 2], [3]]
    assert what_follows(histories, cut_at(histories, date(2024, 5, 4), SPLIT), date(2024, 5, 4), 1)[
        0
    ].targets.tolist() == [0]
    assert len(what_follows(histories, cut_at(histories, date(2024, 5, 5), SPLIT), date(2024, 5, 5), 1)[0]) == 0
