"""Runs to deliver, and what a reader finds at a place."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from kdlib.release import delivery, promotions
from kdlib.release.parquet_files import dataset_of
from kdlib.store import partitions

USERS = 300

both = pytest.mark.parametrize("send", [delivery.deliver, delivery.deliver_delta])
formats = pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        (delivery.deliver, delivery.deliver_delta, "/_versions/recommendations/ds="),
        (delivery.deliver_delta, delivery.deliver, "/recommendations/_delta_log"),
    ],
)
"""A change of `delivery.format`, and a path that only the first format writes."""


def put(root, ds, mark, *, users=USERS, files=3, table="recommendations"):
    """Publish and promote a run whose rows all hold a mark."""
    staging = partitions.new_staging(root, table, ds)
    for number, ids in enumerate(np.array_split(np.arange(users), files)):
        rows = {"user_id": [f"u{one}" for one in ids], "mark": [mark] * len(ids), "item_ids": [["a", "b"]] * len(ids)}
        pq.write_table(pa.table(rows), staging / f"{number}.parquet")
    version = partitions.publish(staging, root, table, ds, fingerprint=str(mark)).version
    return promotions.promote(root, ds, {table: version})


def put_both(root, ds, mark):
    """Publish a run of two tables and promote both in one switch."""
    parts = [put(root, ds, mark, table=table).versions for table in delivery.TABLES]
    return promotions.promote(root, ds, parts[0] | parts[1])


def put_with_export(root, ds, mark):
    """Publish a run of a table and an export, and promote both in one switch."""
    parts = put(root, ds, mark).versions
    staging = partitions.new_staging(root, "export", ds)
    (staging / "items").mkdir()
    (staging / "encoder.onnx").write_text(f"graph {mark}")
    pq.write_table(pa.table({"item_id": [f"i{mark}"]}), staging / "items" / "items.parquet")
    version = partitions.publish(staging, root, "export", ds, fingerprint=str(mark)).version
    return promotions.promote(root, ds, parts | {"export": version})


def marks(url):
    """(number of rows, the different marks) that a reader finds."""
    table = delivery.read(url, "recommendations").to_table()
    return len(table), set(table["mark"].to_pylist())


def folders_at(url):
    """Names of the version folders of `recommendations` at a place."""
    return sorted({path.split("/")[2] for path in delivery.place(url).files("_versions/recommendations")})


def refuse(*_, **__):
    """A step that the store refuses."""
    raise OSError("AWS Error ACCESS_DENIED")


def files_naming(url, user):
    """All Parquet files at a place that name the user, used or not."""
    return [path for path, users in users_at(url).items() if user in users]


def users_at(url):
    """Parquet file at a place, used or not → its users."""
    there = delivery.place(url)
    found = [path for path in there.files() if path.endswith(".parquet") and "_delta_log" not in path]
    return {path: dataset_of(there, [path]).to_table(columns=["user_id"])["user_id"].to_pylist() for path in found}


def newest_of_delta(url):
    """(date, number of rows, marks) of the newest run in the Delta table."""
    table = DeltaTable(f"{url}/recommendations").to_pyarrow_table()
    newest = max(table["ds"].to_pylist())
    rows = table.filter(pc.call_function("equal", [table["ds"], pa.scalar(newest)]))
    return newest, len(rows), set(rows["mark"].to_pylist())
