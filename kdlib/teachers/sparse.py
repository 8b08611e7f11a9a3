"""Sampled targets: at each training position a few items sampled from what all teachers together predict, instead of hidden states.

They serve three cases:
- Teachers whose scores are not a product of a hidden state and a matrix: rules, functions of the user's own.
- Many teachers: together they need as much space as one teacher.
- Cross-fitted teachers, whose matrix differs from user to user.

Truncated top-K targets would be biased. Sampled targets are unbiased: an item's expected share of the samples is its
probability.

Shapes: T positions, V items, S samples.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdlib.data.batches import Batch, WindowStore, batch_of, store_from_tables
from kdlib.data.folds import fold_of
from kdlib.data.windows import take_slices
from kdlib.losses.distillation import pooled_log_probs
from kdlib.losses.scored import Scored
from kdlib.models.files import Predictor, load_predictor
from kdlib.models.function import ScoringFunction
from kdlib.models.rules import SequentialRules
from kdlib.teachers.function import FunctionAtPositions
from kdlib.teachers.rules import RulesAtPositions
from kdlib.teachers.targets import states_at, targets_table

AtPositions = Scored | RulesAtPositions | FunctionAtPositions
"""An object that gives a teacher's logits at training positions."""
CHUNK_PROBABILITIES = 1 << 22
"""Probabilities (positions × items) held at a time."""
GOLDEN = 0.6180339887498949
"""Multiples of this number, modulo 1, are spread evenly, so the positions of a window get different offsets."""


def sample_targets(probs_TV: Tensor, *, samples: int, offsets_T: Tensor) -> Tensor:
    """Sample items by systematic sampling (Madow 1949): unbiased, each item `floor(S·p)` or `ceil(S·p)` times.

    One uniform offset gives all S samples: the inverse of the distribution function at the points `(s + offset) / S` for
    s = 0 … S − 1. Independent samples have the same expectation but vary more. An item with p = 1/S then occurs 0 to S
    times.

    Args:
      probs_TV: float [positions, items], not negative. Each row is scaled to sum 1.
      samples: S ≥ 1.
      offsets_T: float [positions], uniform in [0, 1).

    Returns:
      int32 [positions, samples] in rising order along a row. An item that is sampled twice stands there twice.

    Raises:
      ValueError: an offset outside [0, 1), or no samples.
    """
    if samples < 1 or not ((offsets_T >= 0) & (offsets_T < 1)).all():
        raise ValueError(
            f"expected at least one sample and offsets in [0, 1), found {samples} samples and offsets {offsets_T}"
        )
    upto_TV = probs_TV.double().cumsum(1)
    total_T1 = upto_TV[:, -1:]
    steps_S = torch.arange(samples, dtype=torch.float64, device=probs_TV.device)
    points_TS = (steps_S + offsets_T.double()[:, None]) / samples * total_T1
    # rounding may move the last point up to the total, where no item is left
    points_TS = torch.minimum(points_TS, torch.nextafter(total_T1, torch.zeros_like(total_T1)))
    return torch.searchsorted(upto_TV, points_TS, right=True).int()


def pack_draws(items_TS: Tensor) -> np.ndarray:
    """Items int32 [positions, samples] as int8 [positions, 4 · samples], the form of `tables.TEACHER_TARGETS`."""
    return items_TS.cpu().numpy().astype("<i4").view(np.int8)


class SampledTargetWriter:
    """Ray Data actor: training windows in, `tables.TEACHER_TARGETS` with samples out.

    A position takes 4 · samples + 4 bytes. The samples of a window depend only on its user, its place and the seed, not
    on the other windows of the batch.

    Args:
      teachers: the model folders of each teacher: one folder, or one per fold in the order of the folds.
      weights: of the teachers, see `pooled_log_probs`.
      temperature: of the teachers' probabilities.
      samples: samples per position.
      seed: of the samples.
      threads: of PyTorch.
      batch_size: windows encoded at a time.
    """

    def __init__(
        self,
        teachers: Sequence[Sequence[str]],
        weights: Sequence[float],
        *,
        temperature: float,
        samples: int,
        seed: int,
        threads: int,
        batch_size: int = 256,
    ) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._teachers = [[load_predictor(Path(f))[0].to(self._device) for f in folders] for folders in teachers]
        self._weights = weights
        self._temperature, self._samples, self._seed = temperature, samples, seed
        self._batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, windows: pa.Table) -> pa.Table:
        store = store_from_tables([windows])
        lengths = np.diff(store.offsets)
        items = np.empty((len(store.inputs), 4 * self._samples), np.int8)
        log_probs = np.empty((len(store.inputs), 1), np.float32)
        offsets = _offsets(windows, lengths, seed=self._seed)
        users = windows["user_id"].to_pylist()
        folds = np.stack([fold_of(users, len(models)) for models in self._teachers])
        for numbers in np.unique(folds, axis=1).T:  # one pass for all windows with the same models
            models = [of_teacher[number] for of_teacher, number in zip(self._teachers, numbers, strict=True)]
            mine = np.flatnonzero((folds == numbers[:, None]).all(0))
            mine = mine[np.argsort(lengths[mine], kind="stable")]
            for start in range(0, len(mine), self._batch_size):
                which = mine[start : start + self._batch_size]
                batch = batch_of(store, which).to(self._device)
                rows = take_slices(store.offsets[which], lengths[which])
                predicted = [_at_positions(model, store, which, batch) for model in models]
                drawn_TS, log_probs[rows, 0] = self._draw(predicted, offsets[rows])
                items[rows] = pack_draws(drawn_TS)
        return targets_table(windows, items, log_probs, lengths)

    def _draw(self, predicted: Sequence[AtPositions], offsets: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Sampled items, int32 [T, S], and the mean of their log-probabilities, float32 [T]."""
        size, drawn, logs = max(1, CHUNK_PROBABILITIES // self._teachers[0][0].num_items), [], []
        for start in range(0, len(offsets), size):
            stop = start + size
            logits = [one.logits(start, stop) for one in predicted]
            log_probs_TV = pooled_log_probs(logits, self._weights, temperature=self._temperature)
            offsets_T = torch.from_numpy(offsets[start:stop]).to(self._device)
            drawn.append(sample_targets(log_probs_TV.exp(), samples=self._samples, offsets_T=offsets_T))
            logs.append(log_probs_TV.gather(1, drawn[-1].long()).mean(1))
        return torch.cat(drawn), torch.cat(logs).cpu().numpy()


def _at_positions(model: Predictor, store: WindowStore, which: np.ndarray, batch: Batch) -> AtPositions:
    """An object that gives a model's logits at the positions of the windows `which`. `batch` holds these windows."""
    if isinstance(model, SequentialRules):
        return RulesAtPositions(model, store, which)
    if isinstance(model, ScoringFunction):
        return FunctionAtPositions(model, store, which)
    return Scored(states_at(model, batch), *model.head())


def _offsets(windows: pa.Table, lengths: np.ndarray, *, seed: int) -> np.ndarray:
    """Offsets in [0, 1), float64 [positions]: a hash of user, window and seed, then steps of the golden ratio."""
    names = zip(windows["user_id"].to_pylist(), windows["start"].to_pylist(), strict=True)
    first = np.array([zlib.crc32(f"{seed}/{user}/{start}".encode()) / 2**32 for user, start in names])
    place = take_slices(np.zeros(len(lengths), np.int64), lengths)
    return (np.repeat(first, lengths) + GOLDEN * place) % 1.0
