import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import ContractError
from kdlib.store import tables
from kdlib.store.tables import (
    ALL,
    HISTORIES,
    ITEM_VOCABULARY,
    METRICS,
    QUARANTINE,
    TEACHER_TARGETS,
    check_files,
    check_schema,
)

ROWS = pa.table(
    {
        "item_index": pa.array([0, 1], pa.int32()),
        "item_id": ["a", "b"],
        "title": [None, "Title"],
        "available": [True, False],
        "in_stock": [True, False],
        "first_seen": ["2026-11-22", "2026-11-22"],
    }
)


def write(folder, *parts, **options):
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"part-{number:05}.parquet", **options)


def test_good_files_are_counted(tmp_path):
    """Files that keep the contract give the number of rows of all files."""
    write(tmp_path, ROWS, ROWS)
    assert check_files(ITEM_VOCABULARY, tmp_path) == 4


@pytest.mark.parametrize("write_statistics", [True, False])
@pytest.mark.parametrize("row_group_size", [1, 10])
def test_a_null_in_a_column_that_has_none_is_found(tmp_path, write_statistics, row_group_size):
    """A null in a later file is an error that names column and file, with statistics in the file or without."""
    bad = ROWS.set_column(1, "item_id", pa.array(["a", None]))
    write(tmp_path, ROWS, bad, write_statistics=write_statistics, row_group_size=row_group_size)
    message = "column item_id must not be null, found 1 .*part-00001.parquet"
    with pytest.raises(ContractError, match=message):
        check_files(ITEM_VOCABULARY, tmp_path)


def test_files_without_statistics_pass(tmp_path):
    """Files without statistics pass if they have no nulls."""
    write(tmp_path, ROWS, write_statistics=False)
    assert check_files(ITEM_VOCABULARY, tmp_path) == 2


def test_a_missing_column_is_named_with_those_found():
    """A missing column is an error that names the column and the columns that were found."""
    with pytest.raises(
        ContractError, match=r"item_vocabulary at here lacks the column item_id \(string\), found \['item_index'"
    ):
        check_schema(ITEM_VOCABULARY, ROWS.drop_columns(["item_id"]).schema, where="here")


@pytest.mark.parametrize(
    ("column", "type_", "message"),
    [
        ("item_index", pa.int64(), "column item_index must be int32, found int64"),
        ("available", pa.string(), "column available must be bool, found string"),
        ("item_id", pa.dictionary(pa.int32(), pa.string()), "column item_id must be string, found dictionary"),
    ],
)
def test_a_column_of_another_type_is_named(column, type_, message):
    """A wrong type is an error that names the expected type and the type found."""
    schema = ROWS.schema
    schema = schema.set(schema.get_field_index(column), pa.field(column, type_))
    with pytest.raises(ContractError, match=message):
        check_schema(ITEM_VOCABULARY, schema, where="here")


def test_an_extra_column_is_an_error_unless_it_is_the_partition():
    """Columns outside the contract are listed; only `ds`, which readers add from the folder's name, may be there."""
    check_schema(ITEM_VOCABULARY, ROWS.schema.append(pa.field("ds", pa.string())), where="here")
    with pytest.raises(ContractError, match=r"columns outside its contract: \['price'\]"):
        check_schema(ITEM_VOCABULARY, ROWS.schema.append(pa.field("price", pa.float64())), where="here")


def test_what_writers_choose_freely_is_accepted():
    """Large strings and lists, other names of list items and another order of columns keep the contract."""
    large = {
        pa.string(): pa.large_string(),
        pa.binary(): pa.large_binary(),
        pa.list_(pa.int32()): pa.large_list(pa.field("element", pa.int32(), nullable=False)),
        pa.list_(tables.TIME): pa.list_(pa.field("array", tables.TIME)),
    }
    for table in (HISTORIES, TEACHER_TARGETS):
        fields = [pa.field(field.name, large.get(field.type, field.type)) for field in reversed(list(table.schema))]
        check_schema(table, pa.schema(fields), where="here")


@pytest.mark.parametrize(
    "type_", [pa.timestamp("us"), pa.timestamp("ns", tz="UTC"), pa.timestamp("us", tz="Europe/Berlin")]
)
def test_times_are_utc_microseconds(type_):
    """A time without zone, of another unit or of another zone breaks the contract, in a list too."""
    fields = {field.name: field.type for field in HISTORIES.schema} | {"event_times": pa.list_(type_)}
    with pytest.raises(ContractError, match="column event_times must be list"):
        check_schema(HISTORIES, pa.schema(list(fields.items())), where="here")


def test_no_rows_are_an_error_unless_the_table_may_be_empty(tmp_path):
    """An empty vocabulary is an error, an empty quarantine is not."""
    write(tmp_path, ROWS.slice(0, 0))
    with pytest.raises(ContractError, match=r"item_vocabulary at .* has no rows"):
        check_files(ITEM_VOCABULARY, tmp_path)
    write(tmp_path, QUARANTINE.schema.empty_table())
    assert check_files(QUARANTINE, tmp_path) == 0


def test_no_files_and_torn_files_are_errors(tmp_path):
    """An empty folder and a file that was cut off are errors that name them."""
    with pytest.raises(ContractError, match="table metrics: no Parquet files in"):
        check_files(METRICS, tmp_path)
    write(tmp_path, ROWS)
    file = tmp_path / "part-00000.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ContractError, match=r"part-00000.parquet is not a whole Parquet file"):
        check_files(ITEM_VOCABULARY, tmp_path)


@pytest.mark.parametrize("table", ALL.values(), ids=lambda table: table.name)
def test_every_table_s_grain_is_made_of_columns_that_are_never_null(table):
    """Each key column is in the schema and never null, and ALL lists the table under its own name."""
    assert ALL[table.name] is table
    assert all(not table.schema.field(name).nullable for name in table.key)
