"""The Ray task that makes a teacher of rules: it reads the histories file by file, counts, validates and writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch

from kdlib.data.windows import evaluation_rows, read_evaluation_histories, training_windows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.ranking import all_metrics
from kdlib.models.files import save_rules
from kdlib.models.rules import RuleSettings
from kdlib.teachers.rules import count_rules

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
    """
    batches = pads.dataset(files, format="parquet").to_batches(columns=COLUMNS)
    windows = (training_windows(pa.Table.from_batches([batch]), max_length=max_length) for batch in batches)
    rules = count_rules(windows, RuleSettings(**settings), num_train_V=num_train_V)
    histories = read_evaluation_histories(files, position_column="validation_position", max_users=max_validation_users)
    rows = evaluation_rows(histories, position_column="validation_position")
    ranks = ranks_of_models([rules], [1.0], rows, device=torch.device("cpu")).ranks
    scores = all_metrics(ranks, (10,))
    names = ("accuracy@1", "recall@10", "ndcg@10")
    validation = {"epoch": 0} | {name: float(scores[name].mean()) if len(ranks) else 0.0 for name in names}
    save_rules(Path(folder), rules, facts | {"seed": None, "validation": validation, "epochs": []})
