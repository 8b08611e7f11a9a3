"""Writes the tables of the Spark jobs, and ends a run whose input has only bad rows."""

import shutil
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.features.funnel import reasons_text
from kdlib.features.read import spark_path
from kdlib.store.mirror import send
from kdlib.store.working_copy import fetch

ROWS_A_FILE = 2_000_000
"""About how many rows a file holds."""


def write_sorted(frame: DataFrame, folder: Path, *, by: list[str], rows: int) -> None:
    """Write a table as few files in a fixed order: the same input gives the same files.

    Args:
      frame: the table.
      folder: folder for the files.
      by: columns to sort by.
      rows: about how many rows the table has.
    """
    ordered = frame.repartitionByRange(1 + rows // ROWS_A_FILE, *by).sortWithinPartitions(*by)
    ordered.write.mode("append").parquet(spark_path(folder))


def fail_all_quarantined(config: RunConfig, table: str, staged: Path, *, path: str, funnel: dict[str, Any]) -> None:
    """Keep a copy of the quarantine in `<table>_failed/ds=…`, and end the run with an error.

    Args:
      config: the run config.
      table: name of the quarantine table.
      staged: folder with the files of the quarantine.
      path: path of the input.
      funnel: holds rows_read and reasons, and filtered with a filter.

    Raises:
      InputError: always; the text names the folder of the copy, or the filter if it leaves out all rows that parse.
    """
    filtered = funnel.get("filtered", 0)
    if filtered and not {*funnel["reasons"]} - {"corrupt_row"}:
        where = config.input.events and config.input.events.where
        raise InputError(
            f"the filter input.events.where leaves out all {filtered:,} rows of {path}: {where!r}. Correct it: it"
            " must be true for the rows to keep"
        )
    copy = config.root / f"{table}_failed" / f"ds={config.day}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(fetch(staged), copy, ignore=shutil.ignore_patterns("_*", ".*"))
    send(copy)
    passed = " that the filter lets pass" if filtered else ""
    raise InputError(
        f"all {funnel['rows_read'] - filtered:,} rows of {path}{passed} are quarantined ({reasons_text(funnel['reasons'])}). Look at them "
        f"in {copy}, and correct the columns, the delimiter, the time format or the period in the run config"
    )
