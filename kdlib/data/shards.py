"""Cuts the histories into shards. A shard is one task of an actor and one file of the table that the actors write.

So the rows of the table and their order do not depend on which actor is faster. If a worker dies, another actor writes
the same file again.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class HistoryShard:
    """Some rows of one row group of a histories file."""

    number: int
    """Number among all shards and in the name of the file written, so that the table has the order of the histories."""
    file: str
    row_group: int
    first_row: int
    num_rows: int

    @property
    def file_name(self) -> str:
        return f"part-{self.number:06}.parquet"


def history_shards(files: list[str], *, num_rows: int) -> list[HistoryShard]:
    """Cut all rows of the files, in order, into shards of at most `num_rows` rows."""
    shards: list[HistoryShard] = []
    for file in files:
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for first in range(0, rows, num_rows):
                shards.append(HistoryShard(len(shards), file, group, first, min(num_rows, rows - first)))
    return shards


class ShardReader:
    """Reads the rows of shards. It reads a row group once for neighbouring shards of the group.

    Args:
      columns: columns of `tables.HISTORIES`; None: all columns.
    """

    def __init__(self, columns: list[str] | None = None) -> None:
        self._columns = columns
        self._group: tuple[str, int] | None = None

    def __call__(self, shard: HistoryShard) -> pa.Table:
        if self._group != (shard.file, shard.row_group):
            self._group = (shard.file, shard.row_group)
            self._rows = pq.ParquetFile(shard.file).read_row_group(shard.row_group, columns=self._columns)
        return self._rows.slice(shard.first_row, shard.num_rows)
