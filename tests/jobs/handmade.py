"""Runs published by hand: all tables of a run but its gates, without an engine."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.__main__ import main
from kdlib.store import partitions
from kdlib.store.tables import METRICS

DAYS = [f"2024-11-{day}" for day in (20, 21, 22)]
FUNNEL = {
    "rows_read": 1000,
    "kept": 900,
    "duplicate": 50,
    "quarantined": 50,
    "reasons": {},
    "day_events": 100,
    "day_users": 40,
    "users": 200,
    "interactions": 800,
    "users_without_history": 0,
    "items": 100,
    "new_items": 2,
    "columns": {},
}


def root_of(config: Path) -> Path:
    """The output folder of the fixture `config`."""
    return config.parent / "out"


def put(root: Path, name: str, ds: str, table: pa.Table, made_from: tuple[str, ...] = (), **details: object) -> None:
    """Publish a table. Its manifest names the versions of `made_from` that are published now as its inputs."""
    staging = partitions.new_staging(root, name, ds)
    pq.write_table(table, staging / "part.parquet")
    inputs = {one: partitions.manifest_of(root, one, ds).version for one in made_from}
    partitions.publish(staging, root, name, ds, fingerprint=f"{ds} {inputs} {details}", inputs=inputs, details=details)


def put_night(config: Path, ds: str, *, student: tuple[float, float] = (0.01, 0.05), **funnel: object) -> Path:
    """Publish all tables of a run but its gates. `student` is the interval of the student's gain over popularity."""
    root = root_of(config)
    put(root, "histories", ds, pa.table({"ds": [ds]}), funnel=FUNNEL | funnel)
    for name in ("item_vocabulary", "item_statistics", "models/student", "models/teacher", "models/control"):
        put(root, name, ds, pa.table({"ds": [ds]}))
    put(root, "recommendations", ds, pa.table({"ds": [ds]}), ("histories", "models/student"))
    rows = [
        {"model": model, "metric": "ndcg@10", "value": 0.03, "low": student[0], "high": student[1], "num_users": 100}
        for model in ("student", "student - popularity")
    ]
    rows.append(
        {"model": "student", "metric": "coverage@20", "value": 0.4, "low": None, "high": None, "num_users": 100}
    )
    put(root, "metrics", ds, pa.Table.from_pylist(rows, schema=METRICS.schema), ("histories", "models/student"))
    return root


def run(command: str, config: Path, *more: str) -> int:
    """The exit status of a command with this run config."""
    return main([command, "--config", str(config), *more])


def of_telemetry(config: Path) -> tuple[str, float]:
    """Date and exit status of the run that `shop.prom` describes."""
    found = dict(re.findall(r"^distilrec_night_(\w+)\{.*\} (\S+)$", (config.parent / "shop.prom").read_text(), re.M))
    day = datetime.fromtimestamp(float(found["day_timestamp_seconds"]), UTC).date().isoformat()
    return day, float(found["exit_status"])
