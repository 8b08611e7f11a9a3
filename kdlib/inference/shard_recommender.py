"""Batch inference by shards: each shard of the histories becomes one file of the table."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.data.shards import HistoryShard, ShardReader
from kdlib.inference.recommender import Recommender

COLUMNS = ["user_id", "item_indices", "event_types", "event_times", "session_numbers", "user_values"]


class ShardRecommender:
    """Ray Data actor: takes shards, writes one file for each, returns their numbers of rows.

    Args:
      folder: for the files.
      batch_size: users scored at a time.
      settings: arguments of `Recommender`.
    """

    def __init__(self, folder: str, batch_size: int, settings: dict[str, Any]) -> None:
        self._folder, self._batch_size = Path(folder), batch_size
        self._recommend = Recommender(**settings)
        self._read = ShardReader(COLUMNS)

    def __call__(self, shards: pa.Table) -> pa.Table:
        """`HistoryShard` rows → `number` of the shard and `rows`, its number of users."""
        done = []
        for row in shards.to_pylist():
            shard = HistoryShard(**row)
            histories = self._read(shard)
            lists = [
                self._recommend(histories.slice(start, self._batch_size))
                for start in range(0, len(histories), self._batch_size)
            ]
            pq.write_table(pa.concat_tables(lists), self._folder / shard.file_name)
            done.append({"number": shard.number, "rows": len(histories)})
        return pa.Table.from_pylist(done)
