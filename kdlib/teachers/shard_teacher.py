"""The cached-teacher store by shards: the teachers' targets for the windows of one shard become one file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.data.shards import HistoryShard, ShardReader
from kdlib.data.windows import training_windows, whole_histories
from kdlib.store import tables


class ShardTeacher:
    """Ray Data actor: takes shards, writes one file for each, returns their numbers of windows.

    Args:
      folder: for the files.
      batch_size: users whose windows and targets are held at a time. They form one row group of the file.
      max_length: positions of a window.
      writer: `TargetWriter` or `SampledTargetWriter`.
      options: arguments of the writer.
      whole: the held-out positions get targets too.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int,
        max_length: int,
        writer: Callable[..., Callable[[pa.Table], pa.Table]],
        options: dict[str, Any],
        whole: bool = False,
    ) -> None:
        self._folder, self._batch_size, self._max_length = Path(folder), batch_size, max_length
        self._write = writer(**options)
        self._read, self._whole = ShardReader(), whole

    def __call__(self, shards: pa.Table) -> pa.Table:
        """`HistoryShard` rows → `number` of the shard and `rows`, its number of windows."""
        return pa.Table.from_pylist(
            [{"number": row["number"], "rows": self._shard(HistoryShard(**row))} for row in shards.to_pylist()]
        )

    def _shard(self, shard: HistoryShard) -> int:
        histories, rows = self._read(shard), 0
        histories = whole_histories(histories) if self._whole else histories
        with pq.ParquetWriter(self._folder / shard.file_name, tables.TEACHER_TARGETS.schema) as file:
            for start in range(0, len(histories), self._batch_size):
                windows = training_windows(histories.slice(start, self._batch_size), max_length=self._max_length)
                if len(windows):
                    file.write_table(self._write(windows))
                rows += len(windows)
        return rows
