"""Histories → training windows: the slices of a user's training positions that a model sees, as ragged arrays.

A window has n + 1 items and n positions: each of the first n items predicts the one after it. Windows end-align, hold at
most `max_length` positions, and together cover each training position once.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from kdlib import tables

WINDOWS_SCHEMA = pa.schema(
    [tables.TEACHER_TARGETS.schema.field(name) for name in ("user_id", "start", "items", "new_session")]
)


def ragged(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A list column as flat values and int64 offsets [rows + 1]; row i is `values[offsets[i]:offsets[i + 1]]`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    return values, offsets - offsets[0]


def take_slices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Flat positions of many slices one after another: `starts[i] … starts[i] + lengths[i] - 1`, int64."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def list_array(values: np.ndarray, lengths: np.ndarray, type_: pa.DataType) -> pa.ListArray:
    """Flat values and row lengths as a plain list column."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=type_))


def training_windows(histories: pa.Table, *, max_length: int) -> pa.Table:
    """Cut the training positions of each user into windows.

    Args:
      histories: rows of `tables.HISTORIES`.
      max_length: most positions of one window.

    Returns:
      `user_id`, `start`, `items` list<int32> of n + 1, `new_session` list<int8> of n; users with < 2 training items give none.
    """
    items, offsets = ragged(histories["item_indices"])
    sessions, _ = ragged(histories["session_numbers"])
    positions = np.maximum(histories["num_train"].to_numpy().astype(np.int64) - 1, 0)
    windows = -(-positions // max_length)
    row = np.repeat(np.arange(len(positions)), windows)
    from_end = np.concatenate([np.arange(count)[::-1] for count in windows]) if len(row) else np.zeros(0, np.int64)
    stop = positions[row] - from_end * max_length  # first position after the window
    start = np.maximum(stop - max_length, 0)
    length = stop - start
    flat_start = offsets[:-1][row] + start
    inputs = take_slices(flat_start, length)
    return pa.table(
        {
            "user_id": histories["user_id"].combine_chunks().take(pa.array(row)),
            "start": pa.array(start, pa.int32()),
            "items": list_array(items[take_slices(flat_start, length + 1)], length + 1, pa.int32()),
            "new_session": list_array((sessions[inputs + 1] != sessions[inputs]).astype(np.int8), length, pa.int8()),
        },
        schema=WINDOWS_SCHEMA,
    )


@dataclass(frozen=True)
class EvaluationRows:
    """Prefixes to predict from: flat `items` and `new_session` with `offsets` [rows + 1], and one target a row."""

    user_ids: np.ndarray
    items: np.ndarray
    new_session: np.ndarray
    """int8 like `items`: the item after this position opens a session; the last one speaks of the target."""
    offsets: np.ndarray
    targets: np.ndarray
    repeats: int
    """Rows left out because the target already stands in the prefix: the table never recommends what was seen."""

    def __len__(self) -> int:
        return len(self.targets)


def evaluation_rows(histories: pa.Table, *, position_column: str) -> EvaluationRows:
    """Rows to validate or test on: the history up to but excluding the position named by a column.

    Args:
      histories: rows of `tables.HISTORIES`.
      position_column: `validation_position` or `test_position`; users where it is null give no row.
    """
    histories = histories.filter(histories[position_column].is_valid())
    items, offsets = ragged(histories["item_indices"])
    sessions, _ = ragged(histories["session_numbers"])
    position = histories[position_column].to_numpy().astype(np.int64)
    targets = items[offsets[:-1] + position]
    inputs = take_slices(offsets[:-1], position)
    owner = np.repeat(np.arange(len(position)), position)
    seen = np.zeros(len(position), bool)
    np.logical_or.at(seen, owner, items[inputs] == targets[owner])
    keep = np.flatnonzero(~seen & (position > 0))
    inputs = take_slices(offsets[:-1][keep], position[keep])
    return EvaluationRows(
        user_ids=histories["user_id"].take(pa.array(keep)).to_numpy(zero_copy_only=False),
        items=items[inputs].astype(np.int64),
        new_session=(sessions[inputs + 1] != sessions[inputs]).astype(np.int8),
        offsets=np.concatenate(([0], np.cumsum(position[keep]))),
        targets=targets[keep].astype(np.int64),
        repeats=int(seen.sum()),
    )


def read_evaluation_histories(
    files: Sequence[str], *, position_column: str, max_users: int, part: int = 0, parts: int = 1
) -> pa.Table:
    """The histories to evaluate on, read file by file: the same users every night, chosen by a hash of their id.

    Args:
      files: Parquet files of `tables.HISTORIES`.
      position_column: users where it is null are left out.
      max_users: most users over all parts.
      part: which share of the users to return.
      parts: into how many shares they are divided.
    """
    columns = [field.name for field in tables.HISTORIES.schema if field.name != "event_types"]
    dataset = pads.dataset(list(files), format="parquet")
    kept = pa.schema([tables.HISTORIES.schema.field(name) for name in columns]).empty_table()
    keys = np.zeros(0, np.int64)
    limit = -(-max_users // parts)
    for batch in dataset.to_batches(columns=columns, filter=pads.field(position_column).is_valid()):
        new_keys = np.array([zlib.crc32(user.encode()) for user in batch["user_id"].to_pylist()], np.int64)
        mine = np.flatnonzero(new_keys % parts == part)
        table = pa.Table.from_batches([batch]).take(pa.array(mine))
        kept = pa.concat_tables([kept, table.cast(kept.schema)])
        keys = np.concatenate([keys, new_keys[mine]])
        if len(keys) > limit:
            chosen = np.sort(np.argsort(keys, kind="stable")[:limit])
            kept, keys = kept.take(pa.array(chosen)), keys[chosen]
    return kept
