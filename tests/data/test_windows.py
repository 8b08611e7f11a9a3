"""Histories to training windows and evaluation rows."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.data.batches import store_from_tables
from kdlib.data.windows import (
    context_of,
    evaluation_rows,
    ragged,
    read_evaluation_histories,
    training_windows,
    whole_histories,
)
from kdlib.store import tables


def histories(rows: Sequence[tuple[list[int], list[int], int, int | None, int | None]]) -> pa.Table:
    """Rows of (items, sessions, num_train, validation_position, test_position) for users u0, u1, …."""
    items, sessions, train, validation, test = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {
            "user_id": [f"u{number}" for number in range(len(rows))],
            "item_indices": items,
            "event_types": [[0] * len(row) for row in items],
            "event_times": [[0] * len(row) for row in items],
            "session_numbers": sessions,
            "num_train": train,
            "validation_position": pa.array(validation, pa.int32()),
            "test_position": pa.array(test, pa.int32()),
            "user_values": [[]] * len(rows),
        }
    ).cast(tables.HISTORIES.schema)


def timed(*rows: tuple[list[int], list[int], list[int]]) -> pa.Table:
    """Histories of (sessions, event types, seconds). The last item tests, all other items train."""
    sessions, types, seconds = (list(column) for column in zip(*rows, strict=True))
    lengths = [len(row) for row in sessions]
    items = [[100 * user + place for place in range(length)] for user, length in enumerate(lengths)]
    plain = histories(
        [(row, owned, len(row) - 1, None, len(row) - 1) for row, owned in zip(items, sessions, strict=True)]
    )
    stamps = pa.array([[one * 1_000_000 for one in row] for row in seconds], pa.list_(pa.int64())).cast(
        tables.HISTORIES.schema.field("event_times").type
    )
    return (
        plain.set_column(2, "event_types", [types]).set_column(3, "event_times", stamps).cast(tables.HISTORIES.schema)
    )


def with_values(table: pa.Table, values: list[list[int]]) -> pa.Table:
    """The histories with other `user_values`."""
    place = table.column_names.index("user_values")
    return table.set_column(place, "user_values", [values]).cast(tables.HISTORIES.schema)


def test_context_by_hand() -> None:
    """Session flags look one item ahead, types are the item's own, gaps look back.

    The first gap of each history is 0: gaps do not cross histories. The position after the last one opens a session.
    """
    table = timed(
        ([0, 0, 1, 1], [0, 3, 2, 1], [50, 50, 51, 53]),
        ([1], [2], [0]),
        ([1, 2, 2], [0, 0, 1], [10, 10 + 86_400, 2**40]),
    )
    assert context_of(table).tolist() == [
        [0, 0, 0],
        [1, 3, 1],
        [0, 2, 2],
        [1, 1, 3],
        [1, 2, 0],
        [1, 0, 0],
        [0, 0, 18],
        [1, 1, 27],
    ]
    assert context_of(table.slice(1, 2)).tolist() == context_of(table)[4:].tolist()
    assert context_of(table.slice(0, 0)).shape == (0, 3)


def test_lists_in_several_parts_are_read_as_one() -> None:
    """Slices may begin anywhere in a part. A column without parts is empty and keeps its type."""
    one = pa.array([[9], [1, 2], [], [3]], pa.list_(pa.int32()))
    column = pa.chunked_array([one.slice(1), one.slice(0, 0), one.slice(2, 2)])
    values, offsets = ragged(column)
    assert (values.tolist(), offsets.tolist()) == ([1, 2, 3, 3], [0, 2, 2, 3, 3, 4])
    values, offsets = ragged(pa.chunked_array([], pa.list_(pa.int8())))
    assert (values.dtype, values.tolist(), offsets.tolist()) == (np.int8, [], [0])


def test_time_gaps_are_powers_of_two() -> None:
    """Gaps from 2^b to 2^(b+1) − 1 seconds have bucket b + 2.

    Gaps below a second have 1, gaps over a year the last bucket.
    """
    edges = [edge for power in range(25) for edge in (2**power, 2 ** (power + 1) - 1)]
    gaps = [0, *edges, 2**25, 2**33]
    found = context_of(timed(*(([0, 0], [0, 0], [7, 7 + gap]) for gap in gaps)))[1::2, 2]
    assert found.tolist() == [1, *np.repeat(range(2, 27), 2), 27, 27]


def test_positions_that_are_not_read_do_not_exist() -> None:
    """The context is the same as for histories without these positions: gaps and flags go across the hole."""
    table = timed(([0, 1, 1, 2], [0, 3, 2, 1], [0, 100, 200, 4000]), ([5, 5, 6], [1, 1, 1], [0, 8, 9]))
    keep = np.array([True, False, True, True, False, False, True])
    shorter = timed(([0, 1, 2], [0, 2, 1], [0, 200, 4000]), ([6], [1], [9]))
    assert context_of(table, keep_N=keep).tolist() == context_of(shorter).tolist()


def test_windows_and_prefixes_have_the_history_s_context() -> None:
    """A window in the middle of a history has the gap before its first item.

    The time of the target is unknown everywhere, and the target is assumed to open a session.
    """
    table = timed(([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 0, 1], [0, 1, 3, 7, 15, 1_000]))
    context = context_of(table).tolist()
    windows = training_windows(table, max_length=2)
    found = [np.array(row).reshape(-1, 3).tolist() for row in windows["context"].to_pylist()]
    assert found == [context[0:2], context[2:4]]
    rows = evaluation_rows(table, position_column="test_position")
    assert rows.context.tolist() == [*context[:4], [1, *context[4][1:]]]
    later = timed(([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 0, 2], [0, 1, 3, 7, 15, 99_000]))
    assert evaluation_rows(later, position_column="test_position").context.tolist() == rows.context.tolist()


def test_the_values_of_a_user_stand_at_each_position() -> None:
    """They are columns after the context, in windows and prefixes too, whatever positions are read."""
    plain = timed(([0, 0, 1, 1], [0] * 4, [1, 2, 3, 4]), ([3], [1], [5]), ([0, 1, 2], [0] * 3, [1, 2, 3]))
    table = with_values(plain, [[5, 0], [7, 7], [0, 127]])
    expected = [[5, 0]] * 4 + [[7, 7]] + [[0, 127]] * 3
    assert context_of(table)[:, :3].tolist() == context_of(plain).tolist()
    assert context_of(table)[:, 3:].tolist() == expected
    keep = np.array([True, False, True, False, False, False, False, True])
    assert context_of(table, keep_N=keep)[:, 3:].tolist() == [[5, 0], [5, 0], [0, 127]]
    windows = training_windows(table, max_length=1)
    assert [row[3:] for row in windows["context"].to_pylist()] == [[5, 0], [5, 0], [0, 127]]
    assert store_from_tables([windows]).context[:, 3:].tolist() == [[5, 0], [5, 0], [0, 127]]
    assert store_from_tables([windows.slice(0, 0)]).context.shape == (0, 3)
    rows = evaluation_rows(table, position_column="test_position")
    assert rows.context[:, 3:].tolist() == [[5, 0]] * 3 + [[0, 127]] * 2


def test_a_table_of_an_earlier_release_has_no_values(tmp_path: Path) -> None:
    """A file that lacks the column is read as one with empty lists."""
    table = timed(([0, 0, 1], [0] * 3, [1, 2, 3]), ([0, 1], [1] * 2, [1, 2]))
    pq.write_table(table.drop_columns(["user_values"]), tmp_path / "old.parquet")
    old = read_evaluation_histories([str(tmp_path / "old.parquet")], position_column="test_position", max_users=9)
    assert context_of(old).tolist() == context_of(table).tolist()
    assert context_of(old).shape == (5, 3)


def test_windows_end_align_and_overlap_by_one_item() -> None:
    """Seven training items at length 3 give two windows of 3 positions, and the windows share one item."""
    table = training_windows(
        histories([([9, 8, 7, 6, 5, 4, 3, 2], [0, 0, 0, 1, 1, 1, 2, 2], 7, 7, None)]), max_length=3
    )
    assert table["items"].to_pylist() == [[9, 8, 7, 6], [6, 5, 4, 3]]
    assert table["start"].to_pylist() == [0, 3]
    new_session = [np.array(row).reshape(3, 3)[:, 0].tolist() for row in table["context"].to_pylist()]
    assert new_session == [[0, 0, 1], [0, 0, 1]]


def test_a_long_history_leaves_the_short_window_first() -> None:
    """Five items at length 3 have four positions: a window of one, then a window of three."""
    table = training_windows(histories([([1, 2, 3, 4, 5], [0] * 5, 5, None, None)]), max_length=3)
    assert table["items"].to_pylist() == [[1, 2], [2, 3, 4, 5]]


def test_users_without_two_training_items_give_none() -> None:
    """Histories that are empty, have one item or have no training items give no windows."""
    table = training_windows(
        histories([([], [], 0, None, None), ([4], [0], 1, None, None), ([4, 5], [0, 0], 0, 0, 1)]), max_length=3
    )
    assert len(table) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 7))
def test_each_training_position_is_covered_once(lengths: list[int], max_length: int) -> None:
    """Each (user, position) with a training target is in exactly one window, with the right item and target."""
    items = [list(range(100 * user, 100 * user + length)) for user, length in enumerate(lengths)]
    table = training_windows(
        histories([(row, [0] * len(row), max(len(row) - 1, 0), None, None) for row in items]), max_length=max_length
    )
    seen = []
    for user, start, window in zip(
        table["user_id"].to_pylist(), table["start"].to_pylist(), table["items"].to_pylist(), strict=True
    ):
        assert 2 <= len(window) <= max_length + 1
        row = items[int(user[1:])]
        assert window == row[start : start + len(window)]
        seen += [(user, start + place) for place in range(len(window) - 1)]
    expected = [(f"u{user}", position) for user, row in enumerate(items) for position in range(len(row) - 2)]
    assert sorted(seen) == sorted(expected)


def test_evaluation_rows() -> None:
    """The prefix excludes the target, and its last flag is set. Repeats and users without a target are left out."""
    rows = evaluation_rows(
        histories(
            [
                ([3, 4, 5, 6], [0, 0, 1, 2], 2, 2, 3),
                ([3, 4], [0, 0], 2, None, None),
                ([7, 8, 7], [0, 0, 0], 1, 1, 2),
                ([1, 2], [0, 0], 1, None, 1),
            ]
        ),
        position_column="test_position",
    )
    assert rows.user_ids.tolist() == ["u0", "u3"]
    assert rows.items.tolist() == [3, 4, 5, 1]
    assert rows.context[:, 0].tolist() == [0, 1, 1, 1]
    assert rows.offsets.tolist() == [0, 3, 4]
    assert rows.targets.tolist() == [6, 2]
    assert rows.repeats == 1


def test_the_same_users_are_evaluated_whatever_the_files_and_parts(tmp_path) -> None:
    """The sample depends only on the user ids, not on files, order or the number of parts. Parts are disjoint."""
    table = histories([([1, 2], [0, 0], 1, 1, None) for _ in range(200)])
    pq.write_table(table, tmp_path / "whole.parquet")
    order = np.random.default_rng(0).permutation(200)
    pq.write_table(table.take(pa.array(order[:90])), tmp_path / "a.parquet")
    pq.write_table(table.take(pa.array(order[90:])), tmp_path / "b.parquet")
    kept = []
    for files, parts in ((["whole.parquet"], 1), (["a.parquet", "b.parquet"], 1), (["a.parquet", "b.parquet"], 7)):
        found: list[str] = []
        for part in range(parts):
            read = read_evaluation_histories(
                [str(tmp_path / file) for file in files],
                position_column="validation_position",
                max_users=30,
                part=part,
                parts=parts,
            )
            found += read["user_id"].to_pylist()
        assert len(found) == len(set(found)) == 30
        kept.append(sorted(found))
    assert kept[0] == kept[1] == kept[2]


def test_everyone_has_a_row_where_everyone_is_asked_for() -> None:
    """Users without a target and users who return to an item have a row too. Users without a history have none."""
    table = histories(
        [
            ([1, 2, 3], [0, 0, 1], 2, None, 2),  # judged by item 3
            ([4, 5], [0, 0], 2, None, None),  # no test item: the row has the whole history
            ([6, 7, 6], [0, 0, 1], 2, None, 2),  # returns to item 6
            ([8], [0], 0, None, 0),  # nothing before the test item
            ([], [], 0, None, None),
        ]
    )
    judged = evaluation_rows(table, position_column="test_position")
    every = evaluation_rows(table, position_column="test_position", everyone=True)
    assert judged.user_ids.tolist() == ["u0"]
    assert every.user_ids.tolist() == ["u0", "u1", "u2"]
    assert every.targets.tolist() == [3, -1, -1]
    assert np.split(every.items, every.offsets[1:-1])[1].tolist() == [4, 5]
    assert np.split(every.items, every.offsets[1:-1])[2].tolist() == [6, 7]
    assert judged.repeats == every.repeats == 1
    assert every.context[every.offsets[1:] - 1, 0].tolist() == [1, 1, 1]  # each prediction opens a session


def test_an_item_that_may_come_back_is_a_target() -> None:
    """With `seen_days`, only recent events hide their item; the age counts to the day of the target."""
    start = datetime(2026, 11, 1, 18, tzinfo=UTC)
    rows = [  # (item, type, days after the start); the last one is the target
        ("bought", [(1, 3, 0), (2, 0, 5), (1, 0, 10)]),
        ("bought_lately", [(1, 3, 4), (2, 0, 5), (1, 0, 10)]),
        ("viewed", [(1, 0, 9), (1, 0, 10)]),
        ("in_cart", [(1, 2, 0), (1, 0, 10)]),
        ("new", [(1, 3, 0), (2, 0, 0), (3, 0, 1)]),
        ("untested", [(1, 3, 0), (2, 3, 9)]),
    ]
    table = pa.table(
        {
            "user_id": [user for user, _ in rows],
            "item_indices": pa.array([[item for item, *_ in steps] for _, steps in rows], pa.list_(pa.int32())),
            "event_types": pa.array([[kind for _, kind, _ in steps] for _, steps in rows], pa.list_(pa.int8())),
            "event_times": pa.array(
                [[start + timedelta(days=day) for *_, day in steps] for _, steps in rows], pa.list_(tables.TIME)
            ),
            "session_numbers": pa.array([[*range(len(steps))] for _, steps in rows], pa.list_(pa.int32())),
            "test_position": pa.array(
                [None if user == "untested" else len(steps) - 1 for user, steps in rows], pa.int32()
            ),
        }
    )
    how = {"position_column": "test_position", "seen_days": (0.0, 1.0, math.inf, 7.0)}
    found = evaluation_rows(table, **how)
    assert found.user_ids.tolist() == ["bought", "viewed", "new"]
    assert found.targets.tolist() == [1, 1, 3]
    assert found.repeats == 2
    assert found.hidden is not None
    assert found.hidden.tolist() == [False, False, False, True, False]
    places, items = found.hidden_items(np.array([2, 0]))
    assert (places.tolist(), items.tolist()) == ([0], [1])
    every = evaluation_rows(table, **how, everyone=True)
    assert every.targets.tolist() == [1, -1, 1, -1, 3, -1]
    assert every.hidden is not None
    assert every.hidden[-2:].tolist() == [False, True], "ten days and one day before the day after the last event"
    assert evaluation_rows(table, position_column="test_position").user_ids.tolist() == ["new"]


@pytest.mark.parametrize(("zone", "hidden"), [("UTC", [True]), ("Europe/Berlin", [False])])
def test_the_age_counts_from_local_midnight(zone: str, hidden: list[bool]) -> None:
    """A target at 00:30 in Berlin is of the next day there: an item of the day before has come back by then."""
    seen, target = datetime(2026, 11, 1, 22, 45, tzinfo=UTC), datetime(2026, 11, 3, 23, 30, tzinfo=UTC)
    table = pa.table(
        {
            "user_id": ["a"],
            "item_indices": pa.array([[2, 1]], pa.list_(pa.int32())),
            "event_types": pa.array([[0, 0]], pa.list_(pa.int8())),
            "event_times": pa.array([[seen, target]], pa.list_(tables.TIME)),
            "session_numbers": pa.array([[0, 1]], pa.list_(pa.int32())),
            "test_position": pa.array([1], pa.int32()),
        }
    )
    found = evaluation_rows(table, position_column="test_position", seen_days=(2.0, 0.0, 0.0, 0.0), time_zone=zone)
    assert found.hidden is not None
    assert found.hidden.tolist() == hidden


def test_whole_histories_train_to_their_ends() -> None:
    """All positions are in windows, the held-out ones too, and no position validates or tests."""
    table = histories(
        [([1, 2, 3, 4, 5, 6], [0] * 6, 3, 3, 5), ([7], [0], 1, None, None), ([8, 9], [0] * 2, 0, None, 1)]
    )
    whole = whole_histories(table)
    assert whole.schema == table.schema
    assert whole["num_train"].to_pylist() == [6, 1, 2]
    assert whole["validation_position"].null_count == whole["test_position"].null_count == 3
    for name in ("user_id", "item_indices", "event_times", "session_numbers"):
        assert whole[name] == table[name]
    windows = training_windows(whole, max_length=3)
    assert windows["items"].to_pylist() == [[1, 2, 3], [3, 4, 5, 6], [8, 9]]
    few = ["user_id", "item_indices", "num_train"]
    assert whole_histories(table.select(few)) == whole.select(few)


def test_no_history_has_no_positions() -> None:
    """An empty block of a stream stays an empty table."""
    assert len(training_windows(whole_histories(tables.HISTORIES.schema.empty_table()), max_length=3)) == 0
    assert len(evaluation_rows(tables.HISTORIES.schema.empty_table(), position_column="validation_position")) == 0
