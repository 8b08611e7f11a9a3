"""The list of items that went out of stock since the night: a file that the shop replaces when it likes."""

import os
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from kdlib.errors import InputError
from kdlib.privacy.pseudonyms import BLANKS
from kdlib.store.remote_files import open_remote, remote_files

COLUMN = "item_id"


class StockFile:
    """Reads the list again when it changes.

    Args:
      path: a file or a URL. `.parquet` and `.csv` have a column `item_id`; any other file has one id a line.
    """

    def __init__(self, path: str) -> None:
        self._path, self._mark = path, None

    def changed(self) -> frozenset[str] | None:
        """The items that are out of stock; None where the file is the one that was read before.

        Raises:
          InputError: the file is missing or cannot be read.
        """
        try:
            mark = _mark(self._path)
            if mark == self._mark:
                return None
            items = _read(self._path)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"cannot read the items that are out of stock, {self._path} (serve.out_of_stock): {error}. Expected one id a"
                f" line, or a column {COLUMN} in a CSV or Parquet file"
            ) from None
        self._mark = mark
        return items


def _mark(path: str) -> object:
    """What changes with the file's content."""
    if "://" not in path:
        found = os.stat(path)
        return found.st_ino, found.st_size, found.st_mtime_ns
    file = next(iter(_files(path)), None)
    if file is None:
        raise FileNotFoundError("there is no such file")
    return file.size, file.mark


def _files(path: str) -> Iterator:
    return (file for file in remote_files(path) if file.url == path)


def _read(path: str) -> frozenset[str]:
    with open_remote(path) if "://" in path else pa.OSFile(path) as file:
        if path.endswith(".parquet"):
            column = pq.read_table(file, columns=[COLUMN])[COLUMN]
        elif path.endswith(".csv"):
            text = pacsv.ConvertOptions(column_types={COLUMN: pa.string()}, include_columns=[COLUMN])
            column = pacsv.read_csv(file, convert_options=text)[COLUMN]
        else:
            return _ids(file.read().decode().splitlines())
    return _ids(column.cast(pa.string()).drop_null().to_pylist())


def _ids(texts: list[str]) -> frozenset[str]:
    return frozenset(filter(None, (text.strip(BLANKS) for text in texts)))
