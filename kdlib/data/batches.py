"""Training windows in memory → ragged batches of tensors, shuffled by a seed and grouped by length.

Shapes: B windows, L longest window of the batch, T real positions, K sum of the teachers' widths, N teachers, C columns
of the context.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdlib.data.windows import ragged, take_slices
from kdlib.store.tables import CONTEXT

BUCKET_BATCHES = 32
"""Windows are sorted by length in groups of this many batches."""

AHEAD = 2
"""Batches that are ready for a GPU before it asks for them."""

STREAM_ROWS = 65_536
"""Rows of a worker's shard that are read at a time, at most."""


@dataclass(frozen=True)
class Batch:
    """The input of one training step, all on one device."""

    items_BL: Tensor
    """int64, right-padded with 0."""
    context_BLC: Tensor
    """int8, see `kdlib.data.windows.context_of`; right-padded with 0."""
    positions_T: Tensor
    """int64, places of the real positions in the flattened [B · L]."""
    targets_T: Tensor
    """int64, the item index to predict at each real position."""
    hidden_TK: Tensor | None = None
    """int8, the teachers' hidden states at the real positions, side by side."""
    scales_TN: Tensor | None = None
    """float32; the hidden state of teacher n is `int8 · scale`."""
    weights_T: Tensor | None = None
    """float32, the weights of the positions in the loss. None: all are 1."""

    @property
    def lengths_B(self) -> Tensor:
        """int64, the number of real positions of each window."""
        rows, longest = self.items_BL.shape
        counts_B = torch.zeros(rows, dtype=torch.int64, device=self.positions_T.device)
        return counts_B.index_add_(0, self.positions_T // longest, torch.ones_like(self.positions_T))

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def pinned(self) -> Self:
        """The same in pinned memory, from which a GPU copies while it computes."""
        return replace(self, **{name: value.pin_memory() for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class WindowStore:
    """Many windows as flat arrays. Window i has the positions `offsets[i]:offsets[i + 1]` of `inputs`, `targets`, ….

    Arrays over positions are int32 or smaller: 10⁸ positions take about 1 GB without teacher states.
    """

    inputs: np.ndarray
    targets: np.ndarray
    context: np.ndarray
    """int8 [positions, C], see `kdlib.data.windows.context_of`."""
    offsets: np.ndarray
    hidden: np.ndarray | None = None
    scales: np.ndarray | None = None
    target_types: np.ndarray | None = None
    """int8, indices into EVENT_TYPES."""
    weights: np.ndarray | None = None
    """float32, the weights of the positions in the loss. None: all are 1."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def positions_a_window(self) -> float:
        """The mean number of positions of a window."""
        return len(self.inputs) / len(self)


def store_from_tables(chunks: list[pa.Table], *, teachers: int = 0) -> WindowStore:
    """A store from rows of training windows or, with `teachers` > 0, of `tables.TEACHER_TARGETS`."""
    table = pa.concat_tables(chunks)
    items, offsets = ragged(table["items"])
    context = ragged(table["context"])[0].astype(np.int8, copy=False)
    is_input, is_target = np.ones((2, len(items)), bool)  # in a window all items but the last, all but the first
    is_input[offsets[1:] - 1] = is_target[offsets[:-1]] = False
    positions = len(items) - len(table)
    hidden = scales = None
    if teachers:
        hidden = _bytes_of(table["hidden"]).reshape(positions, -1 if positions else 0)
        scales = ragged(table["scales"])[0].reshape(positions, teachers).astype(np.float32)
    return WindowStore(
        inputs=items[is_input].astype(np.int32, copy=False),
        targets=items[is_target].astype(np.int32, copy=False),
        context=context.reshape(positions, -1 if positions else len(CONTEXT)),
        offsets=offsets - np.arange(len(offsets)),
        hidden=hidden,
        scales=scales,
        target_types=ragged(table["target_types"])[0].astype(np.int8, copy=False),
    )


def _bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    """All bytes of a binary column, int8. Its chunks together may exceed the 2 GiB of one Arrow array."""
    parts = [np.zeros(0, np.int8)]
    for chunk in column.chunks:
        ends = np.frombuffer(chunk.buffers()[1], np.int32, len(chunk) + 1, chunk.offset * 4) if len(chunk) else [0, 0]
        if ends[0] < ends[-1]:
            parts.append(np.frombuffer(chunk.buffers()[2], np.int8)[ends[0] : ends[-1]])
    return np.concatenate(parts) if len(parts) > 2 else parts[-1]


def batch_of(store: WindowStore, windows: np.ndarray) -> Batch:
    """The given windows as one batch."""
    starts = store.offsets[windows]
    lengths = store.offsets[windows + 1] - starts
    flat = take_slices(starts, lengths)
    longest = int(lengths.max())
    places = take_slices(np.arange(len(windows)) * longest, lengths)
    items = np.zeros(len(windows) * longest, np.int64)
    items[places] = store.inputs[flat]
    context = np.zeros((len(windows) * longest, store.context.shape[1]), np.int8)
    context[places] = store.context[flat]
    return Batch(
        items_BL=torch.from_numpy(items.reshape(-1, longest)),
        context_BLC=torch.from_numpy(context.reshape(len(windows), longest, -1)),
        positions_T=torch.from_numpy(places),
        targets_T=torch.from_numpy(store.targets[flat].astype(np.int64)),
        hidden_TK=None if store.hidden is None else torch.from_numpy(store.hidden[flat]),
        scales_TN=None if store.scales is None else torch.from_numpy(store.scales[flat]),
        weights_T=None if store.weights is None else torch.from_numpy(store.weights[flat]),
    )


def shuffled_batches(store: WindowStore, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """All windows once, in an order that the seed fixes.

    Windows of a batch have similar lengths, so there is little padding.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(store))
    lengths = np.diff(store.offsets)
    batches: list[np.ndarray] = []
    for start in range(0, len(order), BUCKET_BATCHES * batch_size):
        bucket = order[start : start + BUCKET_BATCHES * batch_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[place : place + batch_size] for place in range(0, len(bucket), batch_size)]
    for number in generator.permutation(len(batches)):
        yield batch_of(store, batches[number])


def made_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches. For a GPU a thread makes the next ones while the caller trains; an error in it is raised here.

    On the CPU the caller makes them: a thread would take its time from the training.
    """
    if device.type == "cpu":
        yield from batches
        return

    def make() -> Batch | None:
        batch = next(batches, None)
        return batch.pinned() if batch is not None and device.type == "cuda" else batch

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(make) for _ in range(AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(make))
            yield batch
