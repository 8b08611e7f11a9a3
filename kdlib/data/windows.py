"""Histories → training windows: slices of a user's training positions, as ragged arrays.

Shapes: N positions, U features of the users, C columns of the context and of the users' values.

A window has n + 1 items and n positions: each of the first n items predicts the item after it. A window holds at most
`max_length` positions. The last window of a user ends with the last training item. Together the windows cover each
training position once.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from kdlib.store import tables
from kdlib.store.days import UTC, days_of, starts_of

WINDOWS_SCHEMA = pa.schema(
    [tables.TEACHER_TARGETS.schema.field(name) for name in ("user_id", "start", "items", "context", "target_types")]
)


def ragged(column: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A list column as flat values and int64 offsets [rows + 1]. Row i is `values[offsets[i]:offsets[i + 1]]`."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    values, lengths = [], [np.zeros(1, np.int64)]
    # not combined in Arrow: the chunks together may exceed the 2³¹ values of one array
    for chunk in chunks or [column.combine_chunks()]:
        ends = chunk.offsets.to_numpy().astype(np.int64)
        values.append(chunk.values.to_numpy(zero_copy_only=False)[ends[0] : ends[-1]])
        lengths.append(np.diff(ends))
    return values[0] if len(values) == 1 else np.concatenate(values), np.cumsum(np.concatenate(lengths))


def take_slices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Flat positions of many slices, one after another: `starts[i] … starts[i] + lengths[i] - 1`, int64."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)


def list_array(values: np.ndarray, lengths: np.ndarray, type_: pa.DataType) -> pa.ListArray:
    """Flat values and row lengths as a plain list column."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=type_))


def list_matrix(column: pa.ChunkedArray, length: int) -> np.ndarray:
    """A column of lists of one length as a matrix [rows, length]."""
    return ragged(column)[0].reshape(len(column), length)


@dataclass(frozen=True)
class Marks:
    """The data of contexts at N positions, one history after another."""

    owners: np.ndarray
    """int64, ascending: the row of each position's history."""
    sessions: np.ndarray
    event_types: np.ndarray
    event_times: np.ndarray
    user_values: np.ndarray
    """int8 [N, U], the values of the position's user."""

    def take(self, places: np.ndarray, owners: np.ndarray) -> "Marks":
        """The marks at the given places, as positions of other histories with the rows `owners`."""
        kept = (self.sessions, self.event_types, self.event_times, self.user_values)
        return Marks(owners, *(values[places] for values in kept))


def marks_of(histories: pa.Table, *, keep_N: np.ndarray | None = None) -> Marks:
    """The marks of the positions of the histories; arguments as in `context_of`."""
    sessions, offsets = ragged(histories["session_numbers"])
    types, times = ragged(histories["event_types"])[0], ragged(histories["event_times"])[0]
    owners = np.repeat(np.arange(len(histories)), np.diff(offsets))
    marks = Marks(owners, sessions, types, times, _user_values(histories)[owners])
    return marks if keep_N is None else marks.take(keep_N, marks.owners[keep_N])


def _user_values(histories: pa.Table) -> np.ndarray:
    """The values of each user, int8 [rows, U]; without columns for a table of an earlier release, which has none."""
    if "user_values" not in histories.column_names or not len(histories):
        return np.zeros((len(histories), 0), np.int8)
    return ragged(histories["user_values"])[0].astype(np.int8, copy=False).reshape(len(histories), -1)


def context_of(histories: pa.Table, *, keep_N: np.ndarray | None = None) -> np.ndarray:
    """The context of each position, one history after another: int8 [N, C].

    The columns are those of `tables.CONTEXT`, then the user's values. The position after the last one of a history is
    assumed to open a session.

    Args:
      histories: rows with the columns session_numbers, event_types, event_times and user_values of `tables.HISTORIES`.
        Without user_values, no value is known.
      keep_N: bool, the positions to read; None: all. Other positions are ignored: they are neither neighbours nor in
        the result.
    """
    return context_from(marks_of(histories, keep_N=keep_N))


def context_from(marks: Marks) -> np.ndarray:
    """The context of the positions of the marks, as `context_of` returns it."""
    same_history = marks.owners[1:] == marks.owners[:-1]
    microseconds = marks.event_times.astype("datetime64[us]").astype(np.int64)
    gap_seconds = (microseconds[1:] - microseconds[:-1]) // 1_000_000
    bit_lengths = np.frexp(gap_seconds.astype(np.float64))[1]
    columns = {
        "new_session": np.ones(len(marks.owners), np.int8),
        "event_type": marks.event_types,
        "time_gap": np.zeros(len(marks.owners), np.int8),
    }
    columns["new_session"][:-1] = (marks.sessions[1:] != marks.sessions[:-1]) | ~same_history
    columns["time_gap"][1:] = np.where(same_history, np.minimum(1 + bit_lengths, tables.CONTEXT["time_gap"] - 1), 0)
    columns_NC = np.stack([columns[name] for name in tables.CONTEXT], axis=1).astype(np.int8, copy=False)
    return np.concatenate([columns_NC, marks.user_values], axis=1)


def whole_histories(histories: pa.Table) -> pa.Table:
    """The histories with all their positions as training positions: nothing validates or tests.

    Args:
      histories: rows of `tables.HISTORIES`; `validation_position` and `test_position` may be missing.
    """
    lengths = pc.call_function("list_value_length", [histories["item_indices"]])
    none = pa.nulls(len(histories), pa.int32())
    for name, values in (("num_train", lengths), ("validation_position", none), ("test_position", none)):
        if (place := histories.schema.get_field_index(name)) >= 0:
            histories = histories.set_column(place, histories.schema.field(place), values)
    return histories


def training_windows(histories: pa.Table, *, max_length: int) -> pa.Table:
    """Cut the training positions of each user into windows.

    Args:
      histories: rows of `tables.HISTORIES`.
      max_length: the largest number of positions of a window.

    Returns:
      `user_id`, `start`, `items` (list<int32> of n + 1), `context` (list<int8> of n · columns), `target_types`
      (list<int8> of n). Users with fewer than two training items have no window.
    """
    items, offsets = ragged(histories["item_indices"])
    context, types = context_of(histories), ragged(histories["event_types"])[0]
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
            "context": list_array(context[inputs].ravel(), length * context.shape[1], pa.int8()),
            "target_types": list_array(types[inputs + 1], length, pa.int8()),
        },
        schema=WINDOWS_SCHEMA,
    )


@dataclass(frozen=True)
class EvaluationRows:
    """Prefixes of histories to predict from, with one target a row.

    `items` and `context` are flat, with `offsets` [rows + 1].
    """

    user_ids: np.ndarray
    items: np.ndarray
    context: np.ndarray
    """int8 [positions, C], see `context_of`. The last new_session of a row is the target's."""
    offsets: np.ndarray
    targets: np.ndarray
    """int64 [rows]; −1 for a row without a target (`evaluation_rows` with `everyone`)."""
    target_types: np.ndarray
    """int8 [rows], the types of the targets' events, indices into EVENT_TYPES; −1 for a row without a target."""
    repeats: int
    """Users without a usable target: their lists may not hold it, because it is in the prefix."""
    marks: Marks | None = None
    """The marks of `context`, for an earlier run's model that does not know all items; None unless requested."""
    hidden: np.ndarray | None = None
    """bool [positions]: the positions whose items the row's list may not hold. None: all."""
    ages: np.ndarray | None = None
    """float64 [positions]: days from each interaction to the start of the day on which the list is shown. None unless
    `seen_days` was given."""

    def __len__(self) -> int:
        return len(self.targets)

    def hidden_items(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items that the lists of some rows may not hold: their places in `which`, and the items; int64 [N]."""
        return self.items_where(self.hidden, which)

    def items_where(self, chosen: np.ndarray | None, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for the positions that are chosen, bool [positions]; None: all."""
        lengths = np.diff(self.offsets)[which]
        places, flat = np.repeat(np.arange(len(which)), lengths), take_slices(self.offsets[which], lengths)
        if chosen is not None:
            places, flat = places[chosen[flat]], flat[chosen[flat]]
        return places, self.items[flat]

    def weights(self, event_weights: Sequence[float] | None) -> np.ndarray | None:
        """The weight of each row's target, float64 [rows]; None without weights. All rows must have a target.

        Args:
          event_weights: the weight of each of EVENT_TYPES.
        """
        return None if event_weights is None else np.array(event_weights, np.float64)[self.target_types]


def evaluation_rows(
    histories: pa.Table,
    *,
    position_column: str,
    with_marks: bool = False,
    everyone: bool = False,
    seen_days: Sequence[float] | None = None,
    time_zone: str = UTC,
) -> EvaluationRows:
    """Rows to validate or test on: each history before the position in a column, with the item there as target.

    The target is assumed to open a session, as in the nightly table, where nobody knows when the user will come back.

    Args:
      histories: rows of `tables.HISTORIES`.
      position_column: `validation_position` or `test_position`. A user has no row if the position is null or if the
        list may not hold the target.
      with_marks: keep the marks, for an earlier run's model.
      everyone: these users have a row too, with target −1. Where the position is null, the row has the whole history.
      seen_days: for each event type, for how many days an item of such an event stays out of a list. The days are counted
        up to the day of the target, or else to the day after the last event. None: no list holds an item of the history.
      time_zone: of these days.
    """
    if not everyone:
        histories = histories.filter(histories[position_column].is_valid())
    items, offsets = ragged(histories["item_indices"])
    has_target = histories[position_column].is_valid().to_numpy()
    position = np.diff(offsets)
    position[has_target] = histories[position_column].drop_null().to_numpy()
    targets = np.full(len(position), -1)
    target_places = (offsets[:-1] + position)[has_target]
    targets[has_target] = items[target_places]
    target_types = np.full(len(position), -1, np.int8)
    target_types[has_target] = ragged(histories["event_types"])[0][target_places]
    inputs = take_slices(offsets[:-1], position)
    owner = np.repeat(np.arange(len(position)), position)
    ages = hidden = None
    if seen_days is not None:
        ages = _ages(histories, inputs, owner, offsets, position, has_target, time_zone)
        hidden = ages < np.array(seen_days)[ragged(histories["event_types"])[0][inputs]]
    repeated = items[inputs] == targets[owner]
    seen = np.zeros(len(position), bool)
    np.logical_or.at(seen, owner, repeated if hidden is None else repeated & hidden)
    targets[seen] = target_types[seen] = -1
    keep = np.flatnonzero((position > 0) & (everyone | (targets >= 0)))
    kept = np.isin(owner, keep)
    inputs = take_slices(offsets[:-1][keep], position[keep])
    ends = np.cumsum(position[keep])
    marks = marks_of(histories).take(inputs, np.repeat(np.arange(len(keep)), position[keep]))
    return EvaluationRows(
        user_ids=histories["user_id"].take(pa.array(keep)).to_numpy(zero_copy_only=False),
        items=items[inputs].astype(np.int64),
        context=context_from(marks),
        offsets=np.concatenate(([0], ends)),
        targets=targets[keep],
        target_types=target_types[keep],
        repeats=int(seen.sum()),
        marks=marks if with_marks else None,
        hidden=None if hidden is None else hidden[kept],
        ages=None if ages is None else ages[kept],
    )


def _ages(
    histories: pa.Table,
    inputs: np.ndarray,
    owner: np.ndarray,
    offsets: np.ndarray,
    position: np.ndarray,
    has_target: np.ndarray,
    time_zone: str,
) -> np.ndarray:
    """`EvaluationRows.ages` of the positions `inputs`."""
    times = ragged(histories["event_times"])[0].astype("datetime64[us]")
    days = days_of(times, time_zone)
    there = np.flatnonzero(np.diff(offsets) > 0)
    shown = np.zeros(len(position), "datetime64[D]")
    shown[there] = days[offsets[1:][there] - 1] + np.timedelta64(1, "D")
    shown[has_target] = days[(offsets[:-1] + position)[has_target]]
    return (starts_of(shown, time_zone)[owner] - times[inputs]) / np.timedelta64(1, "D")


def read_evaluation_histories(
    files: Sequence[str], *, position_column: str, max_users: int, part: int = 0, parts: int = 1, everyone: bool = False
) -> pa.Table:
    """The histories to evaluate on, read file by file.

    A hash of the user's id chooses the users, so they are the same in every run and for any number of parts.

    Args:
      files: Parquet files of `tables.HISTORIES`.
      position_column: users whose position is null are left out.
      max_users: the largest number of users, over all parts.
      part: the part of the users to return, from 0.
      parts: the number of parts.
      everyone: also keep users whose position is null.
    """
    dataset = pads.dataset(list(files), format="parquet")
    kept_rows = None if everyone else pads.field(position_column).is_valid()
    known = [name for name in tables.HISTORIES.schema.names if name in dataset.schema.names]
    kept = tables.HISTORIES.schema.empty_table().select(known)
    keys = np.zeros(0, np.int64)
    for batch in dataset.to_batches(columns=kept.column_names, filter=kept_rows):
        new_keys = np.array([zlib.crc32(user.encode()) for user in batch["user_id"].to_pylist()], np.int64)
        kept = pa.concat_tables([kept, pa.Table.from_batches([batch]).cast(kept.schema)])
        keys = np.concatenate([keys, new_keys])
        if len(keys) > max_users:
            chosen = np.sort(np.argsort(keys, kind="stable")[:max_users])
            kept, keys = kept.take(pa.array(chosen)), keys[chosen]
    return kept.take(pa.array(np.flatnonzero(keys % parts == part)))
