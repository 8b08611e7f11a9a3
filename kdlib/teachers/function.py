"""A function of the user's own as a teacher: its scores at training positions, and the Ray task that records it.

`kdlib.models.function` says what the function gets and returns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlib.data.batches import WindowStore
from kdlib.data.windows import EvaluationRows, evaluation_rows, read_evaluation_histories, take_slices
from kdlib.errors import ModelError
from kdlib.models.encode import scorer
from kdlib.models.files import save_function
from kdlib.models.function import ScoringFunction
from kdlib.teachers.validation import validation_metrics

TRIED = 16
"""Number of histories that are scored together and alone, to find a function whose scores change from call to call."""
TOLERANCE = 0.05
"""Largest allowed difference of the two, as a share of a log-probability. Half precision gives far less."""


class FunctionAtPositions:
    """Scores at the positions of some training windows, with the interface of `kdlib.losses.scored.Scored`.

    Positions are numbered from 0, window after window. A position's history is its window up to there.

    Args:
      model: the function.
      store: all windows.
      windows: numbers of the chosen windows.
    """

    def __init__(self, model: ScoringFunction, store: WindowStore, windows: np.ndarray) -> None:
        lengths = np.diff(store.offsets)[windows]
        self._model = model
        self._items = store.inputs[take_slices(store.offsets[windows], lengths)]
        self._first = np.repeat(np.cumsum(lengths) - lengths, lengths)

    def logits(self, start: int, stop: int) -> Tensor:
        """Scores at positions `start` to `stop`: float32 [positions, items]."""
        places = range(start, min(stop, len(self._items)))
        return self._model.logits([self._items[self._first[place] : place + 1].tolist() for place in places])


def record_function(
    function: str,
    item_ids: list[str],
    files: list[str],
    folder: str,
    facts: dict[str, Any],
    *,
    version: str,
    max_length: int,
    max_validation_users: int,
    threads: int,
    event_weights: Sequence[float] | None = None,
) -> None:
    """Try a function on the validation users, and write its path with its validation metrics to a folder.

    Args:
      function: `my_shop.scores:score`.
      item_ids: of all items, in index order.
      files: Parquet files of `tables.HISTORIES`.
      folder: an existing folder.
      facts: further metadata for `model.json`.
      version: hash of the function's source.
      max_length: most items of a history.
      max_validation_users: most users to validate on, as in the training of other teachers.
      threads: of PyTorch.
      event_weights: weights of the validation rows by the type of the target's event. None: all are equal.

    Raises:
      ConfigError: the function cannot be imported.
      ModelError: its scores are not what `kdlib.models.function` asks for, or the same history gets different scores.
    """
    torch.set_num_threads(threads)
    model = ScoringFunction(function, item_ids, max_length=max_length)
    histories = read_evaluation_histories(files, position_column="validation_position", max_users=max_validation_users)
    rows = evaluation_rows(histories, position_column="validation_position")
    check_repeatable(model, rows)
    found = validation_metrics(model, rows, event_weights=event_weights)
    own = {"seed": None, "validation": found, "epochs": []}
    save_function(Path(folder), model, facts | own, version=version)


def check_repeatable(model: ScoringFunction, rows: EvaluationRows) -> None:
    """Raise ModelError where one of the first `TRIED` histories gets other scores alone than together with the others."""
    score = scorer(model, device=torch.device("cpu"))

    def log_probs(first: int, stop: int) -> Tensor:
        flat = slice(rows.offsets[first], rows.offsets[stop])
        return score(rows.items[flat], rows.context[flat], np.diff(rows.offsets[first : stop + 1])).log_softmax(1)

    number = min(TRIED, len(rows))
    if not number:
        return
    together_BV, alone_BV = log_probs(0, number), torch.cat([log_probs(row, row + 1) for row in range(number)])
    difference = float(((alone_BV - together_BV).abs() / together_BV.abs().clamp_min(1.0)).max())
    if difference > TOLERANCE:
        raise ModelError(
            f"the teacher function {model.function} gives a history other scores alone than together with"
            f" {number - 1} others: a log-probability differs by {difference:.1%}. Switch off what is random in it, such as"
            " dropout (model.eval() in PyTorch), and let no history depend on the others of a call"
        )
