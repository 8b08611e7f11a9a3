"""How the Spark jobs write their tables, and what they leave behind when every row of the input is bad."""

import shutil
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.features.funnel import reasons_text
from kdlib.features.read import spark_path

ROWS_A_FILE = 2_000_000


def write_sorted(frame: DataFrame, folder: Path, *, by: list[str], rows: int) -> None:
    """Few files in a fixed order, so that the same input gives the same files.

    Args:
      frame: what to write.
      folder: where to.
      by: the columns to sort by.
      rows: about how many there are.
    """
    ordered = frame.repartitionByRange(1 + rows // ROWS_A_FILE, *by).sortWithinPartitions(*by)
    ordered.write.mode("append").parquet(spark_path(folder))


def fail_all_quarantined(config: RunConfig, table: str, staged: Path, *, path: str, funnel: dict[str, Any]) -> None:
    """Keep a copy of the quarantine, as `<table>_failed/ds=…`, and end the night.

    Args:
      config: the run config.
      table: the quarantine's name.
      staged: its files.
      path: of the input.
      funnel: rows_read and reasons.

    Raises:
      InputError: always; it says where the rows can be looked at.
    """
    copy = config.root / f"{table}_failed" / f"ds={config.day}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(staged, copy, ignore=shutil.ignore_patterns("_*", ".*"))
    raise InputError(
        f"all {funnel['rows_read']:,} rows of {path} are quarantined ({reasons_text(funnel['reasons'])}). Look at them "
        f"in {copy} and mend the columns, the delimiter, the time format or the period in the run config"
    )
