"""The recommendations with one row for each item of a list."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.store.list_tables import RECOMMENDATIONS_LONG


def write_long_form(files: Sequence[str], path: Path) -> None:
    """Write RECOMMENDATIONS as RECOMMENDATIONS_LONG to one file, batch by batch.

    Args:
      files: Parquet files of RECOMMENDATIONS.
      path: the file to write.
    """
    schema = RECOMMENDATIONS_LONG.schema
    with pq.ParquetWriter(path, schema) as writer:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(columns=["user_id", "item_ids", "scores", "variant"]):
                items, scores = batch["item_ids"].flatten(), batch["scores"].flatten()
                owners, lengths = batch["item_ids"].value_parent_indices(), batch["item_ids"].value_lengths().to_numpy()
                ranks = np.arange(len(items)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
                users, variants = batch["user_id"].take(owners), batch["variant"].take(owners)
                columns = [users, items, pa.array(ranks), scores, variants]
                writer.write_table(pa.table(columns, names=schema.names).cast(schema))
