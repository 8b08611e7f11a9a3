"""A worker's training windows: in memory if they fit on every worker, otherwise streamed from Ray Data in each epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from kdlib.data.batches import STREAM_ROWS, Batch, WindowStore, shuffled_batches, store_from_tables
from kdlib.data.weights import KINDS, kind_weights, kinds_of
from kdlib.training.stand_ins import permute_teacher_states

READ_ROWS = 8_192
"""Windows read at a time until it is known whether the shard fits in memory."""
LEAST_ROWS = 1_024
"""Fewest and most windows that a streamed shard holds at a time."""


class Shard:
    """This worker's training data.

    Args:
      iterator: Ray Data's, over windows or teacher targets.
      teachers: how many teacher states a position has.
      resident_bytes: largest shard that is kept in memory.
      world: number of workers; all of them must make their shard at the same time.

    Raises:
      ValueError: a worker has no windows.
    """

    def __init__(self, iterator: Any, *, teachers: int, resident_bytes: int, world: int) -> None:
        self._iterator, self._teachers = iterator, teachers
        held: list[pa.Table] | None = []
        size = rows = 0
        counts_K = np.zeros(KINDS, np.int64)
        for table in self._tables(READ_ROWS):
            held.append(table)
            size, rows = size + table.nbytes, rows + len(table)
            counts_K += np.bincount(kinds_of(store_from_tables([table])), minlength=KINDS)
            if size > resident_bytes:
                held = None
                break
        own = (-1 if held is None else rows, size // max(rows, 1), counts_K.sum() / max(rows, 1), counts_K)
        measured = [own] * world
        if world > 1:
            dist.all_gather_object(measured, own)
        counts = [count for count, *_ in measured]
        self.positions_a_window = sum(mean for _, _, mean, _ in measured) / world
        """The mean over all workers. Of a streamed shard only the first windows are measured."""
        self._counts_K = sum((counts_K for *_, counts_K in measured), np.zeros(KINDS, np.int64))
        self._rows = stream_rows(resident_bytes, [size for _, size, *_ in measured])
        if 0 in counts:
            raise ValueError(
                f"a worker got no training windows (windows a worker: {counts}): fewer users have two or more training"
                " items than there are workers. Lower training.workers"
            )
        self._resident: WindowStore | None = None
        if held is not None and min(counts) > 0:
            # all workers need the same number of steps, otherwise they would wait for each other forever
            self._resident = store_from_tables([pa.concat_tables(held).slice(0, min(counts))], teachers=teachers)

    def batch_size(self, most: int, *, least_steps: int) -> int:
        """How many windows a step has on this worker: `most`, or fewer if an epoch would not have `least_steps` steps.

        A streamed shard always has enough windows for `most`.
        """
        return most if self._resident is None else max(1, min(most, len(self._resident) // least_steps))

    def _tables(self, rows: int) -> Iterator[pa.Table]:
        yield from self._iterator.iter_batches(batch_size=rows, batch_format="pyarrow", prefetch_batches=1)

    def kind_weights(self, event_weights: Sequence[float] | None, session_opener_weight: float) -> np.ndarray | None:
        """`kdlib.data.weights.kind_weights` of the positions of all workers. Of a streamed shard only the first windows count.

        Raises:
          ValueError: no position has a weight.
        """
        return kind_weights(event_weights, session_opener_weight, counts_K=self._counts_K)

    def batches(
        self, *, batch_size: int, seed: int, permute_seed: int | None = None, weights_K: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
          batch_size: windows a batch.
          seed: of the order.
          permute_seed: if given, the teacher states of the windows in memory are permuted over their positions.
          weights_K: from `kind_weights`.
        """
        if self._resident is not None:
            store = _weighted(_permuted(self._resident, permute_seed), weights_K)
            yield from shuffled_batches(store, batch_size=batch_size, seed=seed)
            return
        for number, table in enumerate(self._tables(self._rows)):
            store = _permuted(store_from_tables([table], teachers=self._teachers), permute_seed)
            yield from shuffled_batches(_weighted(store, weights_K), batch_size=batch_size, seed=seed + number)


def stream_rows(resident_bytes: int, window_bytes: list[int]) -> int:
    """How many windows a streamed shard holds at a time, the same on all workers.

    A table, the next table and the store made of the first are in memory together.

    Args:
      resident_bytes: the memory for them.
      window_bytes: mean size of a window, one number a worker.
    """
    return max(LEAST_ROWS, min(STREAM_ROWS, resident_bytes // (4 * max(*window_bytes, 1))))


def _permuted(store: WindowStore, seed: int | None) -> WindowStore:
    return store if seed is None else permute_teacher_states(store, seed=seed)


def _weighted(store: WindowStore, weights_K: np.ndarray | None) -> WindowStore:
    return store if weights_K is None else replace(store, weights=weights_K[kinds_of(store)])
