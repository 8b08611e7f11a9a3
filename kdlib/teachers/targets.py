"""The cached-teacher store: the teachers' hidden states at each training position, int8 with one scale per position.

A recommender teacher's distribution is flat, so its top-K logits hold little of it. The hidden state and the teacher's
item matrix give the whole distribution at any temperature, for W + 4 bytes per position.

Shapes: B windows, L length, C context features, T positions, W scoring width, K bytes, N teachers.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdlib.data.batches import Batch, batch_of, store_from_tables
from kdlib.data.windows import list_array, take_slices
from kdlib.models.files import load_model, quantise_rows
from kdlib.models.sequence import SequenceModel
from kdlib.store import tables

MOST_BYTES = 1 << 30
"""Most bytes in one Arrow array: its offsets have 31 bits."""


def states_at(model: SequenceModel, batch: Batch) -> Tensor:
    """A model's hidden states at the real positions of the batch: [positions, width]."""
    return model(batch.items_BL, batch.context_BLC, lengths_B=batch.lengths_B).flatten(0, 1)[batch.positions_T]


class TargetWriter:
    """Ray Data actor: training windows in, `tables.TEACHER_TARGETS` out.

    Args:
      folders: one model folder per teacher.
      threads: of PyTorch.
      batch_size: windows encoded at a time.
    """

    def __init__(self, folders: list[str], threads: int, batch_size: int = 256) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._models = [load_model(Path(folder))[0].to(self._device) for folder in folders]
        self._batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, windows: pa.Table) -> pa.Table:
        store = store_from_tables([windows])
        lengths = np.diff(store.offsets)
        width = sum(model.head()[0].shape[1] for model in self._models)
        hidden = np.empty((len(store.inputs), width), np.int8)
        scales = np.empty((len(store.inputs), len(self._models)), np.float32)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), self._batch_size):
            which = order[start : start + self._batch_size]
            batch = batch_of(store, which).to(self._device)
            rows = take_slices(store.offsets[which], lengths[which])
            column = 0
            for number, model in enumerate(self._models):
                states_TW = states_at(model, batch)
                quantised_TW, scale_T = quantise_rows(states_TW.float())
                hidden[rows, column : column + quantised_TW.shape[1]] = quantised_TW.cpu().numpy()
                scales[rows, number] = scale_T.cpu().numpy()
                column += quantised_TW.shape[1]
        return targets_table(windows, hidden, scales, lengths)


def targets_table(windows: pa.Table, hidden_TK: np.ndarray, scales_TN: np.ndarray, lengths: np.ndarray) -> pa.Table:
    """Training windows with the teachers' targets at each position, as `tables.TEACHER_TARGETS`.

    Args:
      windows: from `kdlib.data.windows.training_windows`.
      hidden_TK: hidden states or packed samples, int8 [positions, bytes], in the order of the windows.
      scales_TN: scales or log-probabilities, float32 [positions, numbers].
      lengths: positions of each window.
    """
    columns = {name: windows[name] for name in tables.TEACHER_TARGETS.schema.names if name not in ("hidden", "scales")}
    columns["hidden"] = _binary(np.ascontiguousarray(hidden_TK), lengths)
    columns["scales"] = list_array(scales_TN.ravel(), lengths * scales_TN.shape[1], pa.float32())
    return pa.table(columns, schema=tables.TEACHER_TARGETS.schema)


def _binary(rows_TK: np.ndarray, lengths: np.ndarray) -> pa.ChunkedArray:
    """Value i holds the next `lengths[i]` rows of bytes. Chunks hold at most `MOST_BYTES`, or one larger value."""
    ends = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64) * rows_TK.shape[1]))
    data, chunks, start = rows_TK.reshape(-1), [], 0
    while start < len(lengths) or not chunks:
        stop = max(int(np.searchsorted(ends, ends[start] + MOST_BYTES, side="right")) - 1, min(start + 1, len(lengths)))
        part = data[ends[start] : ends[stop]]
        offsets = (ends[start : stop + 1] - ends[start]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(part)]
        chunks.append(pa.Array.from_buffers(pa.binary(), stop - start, buffers))
        start = stop
    return pa.chunked_array(chunks)
