"""Tables of Delta Lake and Iceberg, written by their own libraries: rows in, rows out."""

import base64
import json
import struct
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyroaring
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import DataScan, FileScanTask
from pyiceberg.transforms import IdentityTransform

from kdlib.config.data import CatalogueConfig, EventsConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features.catalogue import read_catalogue
from kdlib.features.events import input_columns, read_events
from kdlib.features.lake import LAKES, snapshot

LAST_DAY = date(2024, 5, 3)
MAY = [datetime(2024, 5, day, 12, tzinfo=UTC) for day in (1, 2, 3)]
ROWS = pa.table(
    {
        "u": [1.0, 2.0, None, 4.0, 5.0],
        "i": ["a", "b", "c", "d", "e"],
        "t": pa.array([*MAY, *MAY[:2]], pa.timestamp("us", tz="UTC")),
        "country": ["New Zealand", "100% {nl}", None, "nl", "nl"],
        "day": [date(2024, 5, 1), date(2024, 5, 2), date(2024, 5, 3), date(2024, 5, 1), date(2024, 5, 1)],
    }
)
"""Five events. A user is missing, a country too, and some countries cannot stand in the name of a folder as they are."""
COLUMNS = {"u": "double", "i": "string", "t": "timestamp", "country": "string", "day": "date"}


def iceberg_table(folder: Path, rows: pa.Table = ROWS) -> Any:
    """An Iceberg table without partitions or rows, and the file of its catalog beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    catalog = SqlCatalog("shop", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace_if_not_exists("shop")
    return catalog.create_table("shop.events", schema=rows.schema)


def written(folder: Path, format_: str) -> str:
    """The path of a table with the five rows in two commits, partitioned by country and day."""
    if format_ == "delta":
        for part in (ROWS[:2], ROWS[2:]):
            write_deltalake(folder, part, mode="append", partition_by=["country", "day"])
        return str(folder)
    table = iceberg_table(folder)
    with table.update_spec() as spec:
        spec.add_field("country", IdentityTransform())
        spec.add_field("day", IdentityTransform())
    for part in (ROWS[:2], ROWS[2:]):
        table.append(part)
    return str(folder / "shop" / "events")


def without_column(file: str, column: str) -> None:
    """Rewrite a Parquet file as a writer of partitions does that leaves the partition's column out."""
    rows = pq.ParquetFile(file).read()
    pq.write_table(rows.drop_columns([column]), file)


def read(spark, path: str, format_: str, **settings):
    """(user, item, time, country, filtered) of each event, by item. The country is mapped as the session."""
    shop = {"user": "u", "item": "i", "session": "country", "time": {"column": "t"}}
    config = EventsConfig.model_validate({"path": path, "format": format_, **shop, **settings})
    events = read_events(spark, config, last_day=LAST_DAY)
    names = ("user_id", "item_id", "event_time", "session_id", "filtered")
    return sorted((tuple(row) for row in events.select(*names).collect()), key=lambda row: row[1])


@pytest.mark.parametrize("format_", LAKES)
def test_a_table_with_partitions_gives_its_rows(spark, tmp_path, format_):
    """All rows of both commits come back, and the filter can read the partition columns."""
    path = written(tmp_path / ("a folder" if format_ == "delta" else "a [folder]"), format_)
    rows = read(spark, path, format_, where="country like '%nl%' and day < date'2024-05-03'")
    assert [row[:2] for row in rows] == [("1", "a"), ("2", "b"), (None, "c"), ("4", "d"), ("5", "e")]
    assert [row[2].day for row in rows] == [1, 2, 3, 1, 2]
    assert [row[3] for row in rows] == ["New Zealand", "100% {nl}", None, "nl", "nl"]
    assert [row[4] for row in rows] == [True, False, True, False, False]
    config = EventsConfig.model_validate(
        {"path": path, "format": format_, "user": "u", "item": "i", "time": {"column": "t"}}
    )
    assert input_columns(spark, config, last_day=LAST_DAY) == COLUMNS


@pytest.mark.parametrize("format_", LAKES)
def test_a_removed_row_and_a_new_column_are_seen(spark, tmp_path, format_):
    """Files that the table no longer uses are not read, and older rows have null in a new column."""
    path = written(tmp_path, format_)
    before = snapshot(path, format_).version
    new = ROWS[:1].set_column(1, "i", [["f"]]).append_column("colour", pa.array(["red"]))
    if format_ == "delta":
        DeltaTable(path).delete("i = 'd'")
        write_deltalake(path, new, mode="append", schema_mode="merge")
    else:
        table = SqlCatalog("shop", uri=f"sqlite:///{tmp_path}/catalog.db").load_table("shop.events")
        table.delete("i = 'd'")
        with table.update_schema() as schema:
            schema.union_by_name(new.schema)
        table.append(new)
    assert snapshot(path, format_).version != before
    rows = read(spark, path, format_, where="colour = 'red'", session=None)
    assert [(row[1], row[4]) for row in rows] == [(item, item != "f") for item in "abcef"]


def test_a_value_of_a_partition_that_its_file_lacks_comes_from_the_metadata(spark, tmp_path):
    """If a file lacks its partition column, the table's metadata gives the value."""
    path = written(tmp_path, "iceberg")
    for file in snapshot(path, "iceberg").files:
        without_column(file.removeprefix("file://"), "country")
        without_column(file.removeprefix("file://"), "day")
    rows = read(spark, path, "iceberg", where="day = date'2024-05-01'")
    assert [row[3] for row in rows] == ["New Zealand", "100% {nl}", None, "nl", "nl"]
    assert [row[4] for row in rows] == [False, True, True, False, False]


def test_files_from_before_the_partitions_are_read(spark, tmp_path):
    """Files from before the table had partitions give their own values."""
    table = iceberg_table(tmp_path)
    table.append(ROWS[:2])
    with table.update_spec() as spec:
        spec.add_field("country", IdentityTransform())
    table.append(ROWS[2:])
    rows = read(spark, table.metadata_location, "iceberg")
    assert [row[3] for row in rows] == ["New Zealand", "100% {nl}", None, "nl", "nl"]
    assert [row[2].day for row in rows] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("format_", LAKES)
def test_a_catalogue_can_be_a_table(spark, tmp_path, format_):
    """A catalogue in a table gives the same titles as one in Parquet files."""
    rows = pa.table({"item_id": ["a", "b"], "title": ["The A", None]})
    if format_ == "delta":
        write_deltalake(path := str(tmp_path), rows)
    else:
        table = iceberg_table(tmp_path, rows)
        table.append(rows)
        path = table.metadata_location
    products = read_catalogue(spark, CatalogueConfig(path=path, format=format_))
    assert sorted(products.select("item_id", "title").collect()) == [("a", "The A"), ("b", None)]


def test_a_column_of_a_type_that_spark_lacks_can_stand_beside_the_mapped_ones(spark, tmp_path):
    """A column of UUIDs, which Spark cannot read, is left out of the input's columns."""
    rows = ROWS.append_column("id", pa.array([bytes(16)] * 5, pa.uuid()))
    table = iceberg_table(tmp_path, rows)
    table.append(rows)
    assert len(read(spark, table.metadata_location, "iceberg")) == 5
    with pytest.raises(InputError, match="lacks the mapped column id; found u, i, t, country, day"):
        read(spark, table.metadata_location, "iceberg", event_id="id")


def test_the_newest_metadata_is_found(tmp_path):
    """The hint or the highest number names the metadata file, and two files of that number are an error."""
    table = iceberg_table(tmp_path)
    table.append(ROWS[:2])
    first = Path(table.metadata_location.removeprefix("file://"))
    table.append(ROWS[2:])
    folder, home = tmp_path / "shop" / "events", first.parent
    now, before = (snapshot(str(path), "iceberg").version for path in (folder, first))
    assert now != before
    assert snapshot(f"file://{folder}", "iceberg").version == now
    (home / "v1.metadata.json").write_bytes(first.read_bytes())
    (home / "version-hint.text").write_text("1\n")
    assert snapshot(str(folder), "iceberg").version == before
    (home / "version-hint.text").write_text("9\n")
    assert snapshot(str(folder), "iceberg").version == now
    newest = Path(table.metadata_location).name
    (home / f"{newest[:6]}other.metadata.json").write_bytes(b"{}")
    with pytest.raises(InputError, match=rf"two newest metadata files: (?=.*{newest}).*Give the path of the one"):
        snapshot(str(folder), "iceberg")


@pytest.mark.parametrize(
    ("format_", "package", "message"),
    [
        ("delta", "deltalake", "needs deltalake.*`delta`.*pip"),
        ("iceberg", "pyiceberg.table", "needs pyiceberg.*`iceberg`"),
    ],
)
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, format_, package, message):
    """The error of a missing package names the extra to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=message):
        snapshot(str(tmp_path), format_)


@pytest.mark.parametrize("format_", LAKES)
def test_no_table_and_a_table_without_rows_are_errors(tmp_path, format_):
    """The error says what was expected at the path."""
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=rf"{tmp_path} is no \w+ table: expected a folder with"):
        snapshot(str(tmp_path), format_)
    with pytest.raises(InputError, match=r"nowhere is no \w+ table"):
        snapshot(f"{tmp_path}/nowhere", format_)
    if format_ == "delta":
        write_deltalake(path := str(tmp_path / "empty"), ROWS[:0])
    else:
        path = iceberg_table(tmp_path / "empty").metadata_location
    with pytest.raises(InputError, match=rf"the {format_} table .* has no rows"):
        snapshot(path, format_)


def test_a_damaged_metadata_file_is_named(tmp_path):
    """The error names a metadata file that is damaged or does not exist."""
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "v1.metadata.json").write_text("{}")
    with pytest.raises(InputError, match=r"cannot read the Iceberg table .*v1\.metadata\.json"):
        snapshot(str(tmp_path), "iceberg")
    with pytest.raises(InputError, match=r"cannot read the Iceberg table .*v2\.metadata\.json"):
        snapshot(f"{tmp_path}/metadata/v2.metadata.json", "iceberg")


def change_log(table: str, **changes: dict[str, Any]) -> None:
    """Change the entries of a Delta table's first commit, as another writer would have written them."""
    log = Path(table, "_delta_log", "00000000000000000000.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        for name, change in changes.items():
            if name in entry:
                entry[name] |= change
    log.write_text("\n".join(map(json.dumps, entries)))


def deletion_vector(*rows: int) -> dict[str, Any]:
    """A deletion vector inside a commit: a bitmap of the rows' numbers, in base 85 as ZeroMQ writes it (Z85)."""
    bitmap = struct.pack("<iqi", 1681511377, 1, 0) + pyroaring.BitMap(rows).serialize()
    bitmap += bytes(-len(bitmap) % 4)
    theirs = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = base64.b85encode(bitmap).decode().translate(str.maketrans(theirs, z85))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(bitmap), "cardinality": len(rows)}


def test_a_delta_table_with_deletion_vectors_is_an_error(tmp_path):
    """A Delta table with deletion vectors is an error, and one that only allows them is read."""
    write_deltalake(path := str(tmp_path), ROWS)
    features = ["deletionVectors", "timestampNtz"]
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": features,
        "writerFeatures": features,
    }
    change_log(path, protocol=protocol)
    assert len(snapshot(path, "delta").files) == 1
    change_log(path, add={"deletionVector": deletion_vector(0, 2)})
    with pytest.raises(InputError, match=r"has deletion vectors: .*REORG TABLE"):
        snapshot(path, "delta")


def test_a_delta_table_with_column_mapping_is_an_error(tmp_path):
    """A Delta table whose files have other column names is an error."""
    write_deltalake(path := str(tmp_path), ROWS)
    configuration = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "5"}
    schema = json.loads(DeltaTable(path).schema().to_json())
    for number, field in enumerate(schema["fields"], start=1):
        field["metadata"] = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"c{number}"}
    protocol = {"minReaderVersion": 2, "minWriterVersion": 5, "readerFeatures": None, "writerFeatures": None}
    change_log(path, protocol=protocol, metaData={"configuration": configuration, "schemaString": json.dumps(schema)})
    with pytest.raises(InputError, match=r"has column mapping \(name\): .*AS SELECT"):
        snapshot(path, "delta")


def test_an_iceberg_table_with_delete_files_is_an_error(tmp_path, monkeypatch):
    """An Iceberg table whose plan has delete files is an error."""
    table = iceberg_table(tmp_path)
    table.append(ROWS)
    plan = DataScan.plan_files

    def with_deletes(scan):
        return [FileScanTask(task.file, delete_files={task.file}) for task in plan(scan)]

    monkeypatch.setattr(DataScan, "plan_files", with_deletes)
    with pytest.raises(InputError, match=r"has delete files: .*rewrite_data_files"):
        snapshot(table.metadata_location, "iceberg")


def test_an_iceberg_column_that_was_renamed_is_an_error(tmp_path):
    """A renamed Iceberg column is an error, because older files have the old name."""
    table = iceberg_table(tmp_path)
    table.append(ROWS)
    with table.update_schema() as schema:
        schema.rename_column("i", "item")
    with pytest.raises(InputError, match=r"another column item, or this column under another name"):
        snapshot(table.metadata_location, "iceberg")
