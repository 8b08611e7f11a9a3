"""The Ray tasks that make a teacher of rules: they read the histories file by file, count and write."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from kdlib.data.folds import training_counts
from kdlib.data.windows import evaluation_rows, read_evaluation_histories, training_windows, whole_histories
from kdlib.models.files import save_rules
from kdlib.models.rules import RuleSettings
from kdlib.teachers.rules import count_rules
from kdlib.teachers.validation import validation_metrics

COLUMNS = ["user_id", "item_indices", "event_types", "event_times", "session_numbers", "num_train"]


def count_and_save(
    settings: dict[str, Any],
    files: list[str],
    num_train_V: np.ndarray,
    folder: str,
    facts: dict[str, Any],
    *,
    max_length: int,
    max_validation_users: int,
    event_weights: Sequence[float] | None = None,
) -> None:
    """Count rules over the training windows, and write them with their validation metrics to a folder.

    Args:
      settings: the fields of `RuleSettings`.
      files: Parquet files of `tables.HISTORIES`.
      num_train_V: training interactions of each item.
      folder: an existing folder.
      facts: further metadata for `model.json`.
      max_length: of a window.
      max_validation_users: most users to validate on, as in the training of other teachers.
      event_weights: weights of the validation rows by the type of the target's event. None: all are equal.
    """
    windows = (training_windows(rows, max_length=max_length) for rows in _histories(files))
    rules = count_rules(windows, RuleSettings(**settings), num_train_V=num_train_V)
    histories = read_evaluation_histories(files, position_column="validation_position", max_users=max_validation_users)
    rows = evaluation_rows(histories, position_column="validation_position")
    found = validation_metrics(rules, rows, event_weights=event_weights)
    own = {"seed": None, "validation": found, "epochs": []}
    save_rules(Path(folder), rules, facts | own)


def recount_and_save(
    settings: dict[str, Any], files: list[str], folder: str, facts: dict[str, Any], *, num_items: int, max_length: int
) -> None:
    """Count rules over the whole histories, the held-out positions too, and write them to a folder.

    Args:
      settings: the fields of `RuleSettings`.
      files: Parquet files of `tables.HISTORIES`.
      folder: for the model; it is made.
      facts: further metadata for `model.json`.
      num_items: size of the vocabulary.
      max_length: of a window.
    """
    counts_V = training_counts(files, whole_histories, num_items=num_items)[0]
    windows = (training_windows(whole_histories(rows), max_length=max_length) for rows in _histories(files))
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_rules(Path(folder), count_rules(windows, RuleSettings(**settings), num_train_V=counts_V), facts)


def _histories(files: list[str]) -> Iterator[pa.Table]:
    for batch in pads.dataset(files, format="parquet").to_batches(columns=COLUMNS):
        yield pa.Table.from_batches([batch])
