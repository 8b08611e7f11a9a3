"""What further lists, and the metrics beyond accuracy, need to know of each item."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from jobs.runtime.published import Features, parquet_files
from jobs.runtime.stage import Input
from kdlib.config.run import RunConfig
from kdlib.data.folds import training_counts
from kdlib.data.windows import whole_histories
from kdlib.metrics.beyond import Items, first_seen_lately
from kdlib.models.files import load_model


def items_of(config: RunConfig, source: Features, student: Path) -> Items:
    """Counts and first days from the feature tables, and the item vectors of a student that knows all items.

    Args:
      config: for the run's day, and how long an item is new.
      source: the feature tables.
      student: the folder of the student.
    """
    counts = pq.read_table(source.statistics, columns=["item_index", "num_users", "num_interactions"])
    counts = counts.sort_by("item_index")
    first_seen = pq.read_table(source.vocabulary, columns=["item_index", "first_seen"]).sort_by("item_index")
    model, _ = load_model(student)
    vectors, _ = model.head()
    return Items(
        num_users=counts["num_users"].to_numpy(),
        num_interactions=counts["num_interactions"].to_numpy(),
        vectors=vectors.detach().numpy(),
        is_new=first_seen_lately(
            first_seen["first_seen"].to_pylist(), last_day=config.last_day, days=config.evaluation.new_item_days
        ),
        total_users=pads.dataset(parquet_files(source.histories)).count_rows(),
    )


def trained_items(config: RunConfig, inputs: Mapping[str, Input], *, num_items: int) -> np.ndarray:
    """Which items occur in the training windows of the student that makes the lists: bool [items]."""
    if config.student.refit:
        files = parquet_files(inputs["histories"].folder)
        return training_counts(files, whole_histories, num_items=num_items)[1] > 0
    statistics = pq.read_table(inputs["item_statistics"].folder, columns=["item_index", "num_in_windows"])
    return statistics.sort_by("item_index")["num_in_windows"].to_numpy() > 0
