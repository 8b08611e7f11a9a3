"""What the readers of Delta Lake and Iceberg metadata return."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Snapshot:
    """A table as it is now."""

    version: str
    """Identifies the table and its state. Another state has another version."""
    schema: pa.Schema
    """All columns, the partition columns included."""
    files: Mapping[str, Mapping[str, Any]]
    """Path or URL of a Parquet file → partition column → the value of all its rows, which the file itself may lack."""
