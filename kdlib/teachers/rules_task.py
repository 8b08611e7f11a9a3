"""The Ray task that makes a teacher of rules: it reads the histories file by file, counts, validates and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from kdlib.data.windows import evaluation_rows, read_evaluation_histories, training_windows
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
    batches = pads.dataset(files, format="parquet").to_batches(columns=COLUMNS)
    windows = (training_windows(pa.Table.from_batches([batch]), max_length=max_length) for batch in batches)
    rules = count_rules(windows, RuleSettings(**settings), num_train_V=num_train_V)
    histories = read_evaluation_histories(files, position_column="validation_position", max_users=max_validation_users)
    rows = evaluation_rows(histories, position_column="validation_position")
    found = validation_metrics(rules, rows, event_weights=event_weights)
    own = {"seed": None, "validation": found, "epochs": []}
    save_rules(Path(folder), rules, facts | own)
