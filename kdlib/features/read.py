"""What the readers of all formats share: paths, names of columns, and columns from the names of folders.

`read_parquet` and `read_text` turn files into rows of the mapped columns, with values as written. A path means all files
below it, in all subfolders.
"""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame

from kdlib.errors import InputError
from kdlib.features.stored_input import readable_paths, shop_names

FILE = "_input_file"
"""Column with the file that a row came from."""


def quoted(name: str) -> str:
    """A column's name in Spark's quotes, for names with dots or spaces."""
    return "`" + name.replace("`", "``") + "`"


def spark_path(path: str | Path) -> str:
    """The path for Spark.

    A path without a scheme is local or on a shared mount, whatever the cluster's default file system. Of a URL in an object
    store, see `kdlib.features.stored_input`.
    """
    return spark_paths([path])[0]


def spark_paths(paths: Iterable[str | Path]) -> list[str]:
    """The paths for Spark, of one place."""
    return readable_paths(
        [path if isinstance(path, str) and "://" in path else f"file:{os.path.abspath(path)}" for path in paths]
    )


def file_column(rows: DataFrame) -> Column:
    """The file that a row came from, as the shop names it.

    It is right even if the input has a column `_metadata`, the name of Spark's own column.
    """
    return shop_names(rows.metadataColumn("_metadata")["file_path"]).alias(FILE)


def in_folder_names(missing: Collection[str], rows: DataFrame, *, path: str) -> bool:
    """Whether the names of folders give these columns, which the files lack, as in `shop=nl`.

    Spark either searches all subfolders or takes columns from folder names. In the second case it skips files outside
    these folders.

    Raises:
      InputError: a file lies outside these folders; the text names it.
    """
    files = (
        {file: all(f"/{name}=" in unquote(file) for name in missing) for file in rows.inputFiles()} if missing else {}
    )
    if not any(files.values()):
        return False
    if outside := [file for file, inside in files.items() if not inside]:
        raise InputError(
            f"{path}: {outside[0]} is not in a folder that names {', '.join(sorted(missing))}, unlike other files. "
            "Move the file into one, or take it out of the input"
        )
    return True
