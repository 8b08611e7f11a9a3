"""The histories in shards: each is one task of an actor and one file of what the actors write, whoever works on it.

So the rows of a table and their order don't depend on which actor was faster, and a shard whose worker died writes the
same file again.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class HistoryShard:
    """Some rows of one row group of a histories file."""

    number: int
    """Place among all shards, and so of the file written: the table has the histories' order."""
    file: str
    row_group: int
    first_row: int
    num_rows: int

    @property
    def file_name(self) -> str:
        return f"part-{self.number:06}.parquet"


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


class ShardReader:
    """Reads the rows of shards; of neighbouring shards, which share a row group, it reads the group once.

    Args:
      columns: of `tables.HISTORIES`; all when None.
    """

    def __init__(self, columns: list[str] | None = None) -> None:
        self._columns = columns
        self._group: tuple[str, int] | None = None

    def __call__(self, shard: HistoryShard) -> pa.Table:
        if self._group != (shard.file, shard.row_group):
            self._group = (shard.file, shard.row_group)
            self._rows = pq.ParquetFile(shard.file).read_row_group(shard.row_group, columns=self._columns)
        return self._rows.slice(shard.first_row, shard.num_rows)
