"""Batch inference shard by shard: each shard of the histories becomes one file of the table, whoever works on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.inference.recommender import Recommender

COLUMNS = ["user_id", "item_indices", "event_types", "event_times", "session_numbers"]


@dataclass(frozen=True)
class HistoryShard:
    """Some rows of one row group of a histories file."""

    number: int
    """Place among all shards, and so of the file written: the table has the histories' order."""
    file: str
    row_group: int
    first_row: int
    num_rows: int


def history_shards(files: list[str], *, num_rows: int) -> list[HistoryShard]:
    """Cut all rows of the files, in order, into shards of at most `num_rows`."""
    shards: list[HistoryShard] = []
    for file in files:
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for first in range(0, rows, num_rows):
                shards.append(HistoryShard(len(shards), file, group, first, min(num_rows, rows - first)))
    return shards


class ShardRecommender:
    """Ray Data actor: shards in, their files written, the rows of each out.

    A shard that is worked on twice, because a worker died, writes the same file again.

    Args:
      folder: where the files go.
      batch_size: users scored at once.
      settings: arguments of `Recommender`.
    """

    def __init__(self, folder: str, batch_size: int, settings: dict[str, Any]) -> None:
        self._folder, self._batch_size = Path(folder), batch_size
        self._recommend = Recommender(**settings)
        self._group: tuple[str, int] | None = None

    def __call__(self, shards: pa.Table) -> pa.Table:
        """`HistoryShard` rows → `number`, `rows`."""
        done = []
        for row in shards.to_pylist():
            shard = HistoryShard(**row)
            histories = self._read(shard)
            lists = [
                self._recommend(histories.slice(start, self._batch_size))
                for start in range(0, len(histories), self._batch_size)
            ]
            pq.write_table(pa.concat_tables(lists), self._folder / f"part-{shard.number:06}.parquet")
            done.append({"number": shard.number, "rows": len(histories)})
        return pa.Table.from_pylist(done)

    def _read(self, shard: HistoryShard) -> pa.Table:
        if self._group != (shard.file, shard.row_group):  # neighbouring shards share a row group
            self._group = (shard.file, shard.row_group)
            self._rows = pq.ParquetFile(shard.file).read_row_group(shard.row_group, columns=COLUMNS)
        return self._rows.slice(shard.first_row, shard.num_rows)
