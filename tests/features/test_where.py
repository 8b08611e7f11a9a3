"""The filter of the input: five rows in, rows out, for every kind of file."""

import json
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from kdlib.config.data import EventsConfig
from kdlib.errors import ConfigError
from kdlib.features.columns import raw_text
from kdlib.features.events import read_events
from kdlib.features.where import FILTERED, with_filtered

LAST_DAY = date(2024, 5, 3)
ORDERS = """Invoice,Customer ID,Item,Date,Quantity,Price
536365,1,a,2024-05-01,6,0.55
C536379,2,b,2024-05-01,-1,2.5
536381,3,c,2024-05-02,many,1
536382,4,d,2024-05-02,,1
536383,5,e,2024-05-02,2,0
536384,6,f
"""
"""Order lines as shops have them: a return, a quantity that is no number, one that is missing, and half a line."""


def config(path, **settings) -> EventsConfig:
    shop = {"format": "csv", "user": "Customer ID", "item": "Item", "time": {"column": "Date"}}
    return EventsConfig.model_validate({"path": str(path), **shop, **settings})


def read(spark, path, where, **settings):
    """(item, filtered, corrupt) of each row, in file order."""
    events = read_events(spark, config(path, where=where, **settings), last_day=LAST_DAY)
    return [tuple(row) for row in events.select("item_id", "filtered", "corrupt").collect()]


def left(spark, path, where, **settings) -> str:
    """The items that the filter lets pass, as one word."""
    return "".join(item for item, filtered, corrupt in read(spark, path, where, **settings) if not filtered | corrupt)


@pytest.fixture
def orders(tmp_path):
    (tmp_path / "orders.csv").write_text(ORDERS)
    return tmp_path / "orders.csv"


def test_rows_for_which_the_filter_is_not_true_are_filtered(spark, orders):
    """False, null and a value that is not a number leave a row out, and half a line stays corrupt."""
    rows = read(spark, orders, "Quantity > 0 and Invoice not like 'C%'")
    assert [row[1:] for row in rows] == [(False, False), *[(True, False)] * 3, (False, False), (False, True)]
    assert [row[1] for row in read(spark, orders, None)] == [False] * 6


NUMBERS = {
    "Price > 0": "abcd",
    "Price >= 1 and not Price = 2.5": "cd",
    "0 < Price": "abcd",
    "Price between 0 and 1": "acde",
    "Quantity in (6, 2)": "ae",
    "`Customer ID` <= 2": "ab",
    "Quantity * Price > 3L": "a",
    "coalesce(Quantity, 1) > 0": "ade",
    "coalesce(Price, 0) < 1": "ae",
    "1 / Quantity > 0.4": "e",
    "cast(Quantity as int) is null": "cd",
    "Date >= date'2024-05-02'": "cde",
    "split(Invoice, '3')[9] is null": "abcde",
    "exists(split(Invoice, ''), letter -> letter = 'C')": "b",
    "cast(null as boolean)": "",
}
"""Filter → the items that it lets pass."""


def test_text_is_compared_as_numbers_are(spark):
    """In a comparison with a number, text counts as its decimal number, and no value ends the run."""
    names, *lines = (line.split(",") for line in ORDERS.splitlines()[:-1])
    rows = spark.createDataFrame([[text or None for text in line] for line in lines], names)
    for number, where in enumerate(NUMBERS):
        rows = with_filtered(rows, where, found=names, path="orders.csv", parsed=F.lit(True))
        rows = rows.withColumnRenamed(FILTERED, str(number))
    found = [row.asDict() for row in rows.collect()]
    passed = {
        where: "".join(row["Item"] for row in found if not row[str(number)]) for number, where in enumerate(NUMBERS)
    }
    assert passed == NUMBERS


def test_json_keys_that_are_not_mapped_can_be_filtered_by(spark, tmp_path):
    """A filter reads numbers, texts and nested values of any key, and a missing key is null."""
    rows = [
        {"u": 1, "i": "a", "t": "2024-05-01", "qty": 2, "geo": {"country": "NL"}},
        {"u": 2, "i": "b", "t": "2024-05-01", "qty": "0.5"},
        {"u": 3, "i": "c", "t": "2024-05-01", "qty": None},
        {"u": 4, "i": "d", "t": "2024-05-01"},
    ]
    (tmp_path / "e.jsonl").write_text("\n".join([*map(json.dumps, rows), "{oops"]))
    shop = {"format": "jsonl", "user": "u", "item": "i", "time": {"column": "t"}}
    assert left(spark, tmp_path / "e.jsonl", "qty > 0", **shop) == "ab"
    assert left(spark, tmp_path / "e.jsonl", "get_json_object(geo, '$.country') = 'NL'", **shop) == "a"
    assert read(spark, tmp_path / "e.jsonl", "qty > 0", **shop)[4] == (None, False, True)
    with pytest.raises(ConfigError, match=r"'qtty > 0': no column has the name qtty.*: geo, i, qty, t, u$"):
        left(spark, tmp_path / "e.jsonl", "qtty > 0", **shop)


def test_parquet_columns_keep_their_types_in_the_filter(spark, tmp_path):
    """The filter compares large whole numbers, nanoseconds, booleans and fields of structs with their own types."""
    table = {
        "u": [2**53, 2**53 + 1, 3],
        "i": ["a", "b", "c"],
        "t": pa.array([datetime(2024, 5, day) for day in (1, 2, 3)], pa.timestamp("ns")),
        "at": pa.array([datetime(2024, 5, day) for day in (1, 2, 3)], pa.timestamp("ns")),
        "paid": [True, True, False],
        "geo": [{"country": "NL"}, {"country": "DE"}, None],
    }
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    shop = {"format": "parquet", "user": "u", "item": "i", "time": {"column": "t"}}
    wanted = {
        f"u > {2**53}": "b",
        "at >= '2024-05-02'": "bc",
        "paid": "ab",
        "not paid": "c",
        "geo.country = 'NL'": "a",
    }
    try:
        assert {where: left(spark, tmp_path / "e.parquet", where, **shop) for where in wanted} == wanted
    finally:
        spark.conf.unset("spark.sql.legacy.parquet.nanosAsLong")


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_column_in_the_names_of_folders_can_be_filtered_by(spark, tmp_path, format_):
    """The filter reads a column from folder names, even if the column is not mapped."""
    for country in ("nl", "de"):
        file = tmp_path / f"country={country}" / "month=5" / f"e.{format_}"
        file.parent.mkdir(parents=True)
        if format_ == "csv":
            file.write_text(f"u,i,t\n1,{country[0]},2024-05-01\n")
        else:
            pq.write_table(pa.table({"u": [1], "i": [country[0]], "t": ["2024-05-01"]}), file)
    shop = {"format": format_, "user": "u", "item": "i", "time": {"column": "t"}}
    assert left(spark, tmp_path, "country = 'nl'", **shop) == "n"
    assert sorted(left(spark, tmp_path, "month > 4", **shop)) == ["d", "n"]


def test_what_only_the_filter_reads_is_not_kept(spark, orders):
    """The quarantine shows only mapped columns, so a filter by an address stores no address."""
    events = read_events(spark, config(orders, where="Price > 0"), last_day=LAST_DAY)
    assert [json.loads(row[0]).keys() for row in events.limit(1).select(raw_text()).collect()] == [
        {"Customer ID", "Item", "Date"}
    ]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("Quantity >", "Syntax error at or near end of input"),
        ("Customer ID is not null", "Syntax error at or near 'is'"),
        ("Quantity > 0; drop table x", "Syntax error at or near ';'"),
        ("Quantiy > 0", "no column has the name Quantiy\\. Give a Spark SQL condition over the columns"),
        ("_input_file like '%nl%'", "no column has the name _input_file"),
        ("sum(Quantity) > 0", r"invalid expressions: sum\("),
        ("row_number() over (order by Price) = 1", "not allowed to use window functions"),
        ("Price", 'Filter expression "Price" of type "STRING" is not a boolean'),
        ("Item in (select Item from parquet.`x`)", "a filter may not hold a subquery"),
        ("(select 1) = 1", "a filter may not hold a subquery"),
        ("rand() < 0.5", "may not depend on chance"),
        ("Date > current_date() - 30", "may not depend on the clock"),
        ("Invoice rlike '['", "Unclosed character class"),
        ("to_date(Date, 'YYYY') is null", "Fail to recognize 'YYYY' pattern"),
        ("nope(Price)", "Cannot resolve routine `nope`"),
        ("*", r"Invalid usage of '\*' in Filter\. "),
    ],
)
def test_a_wrong_filter_shows_itself_the_reason_and_the_columns(spark, orders, where, reason):
    """The error is one line with the filter, Spark's reason and the columns of the input."""
    with pytest.raises(ConfigError, match=reason) as caught:
        read(spark, orders, where)
    text = str(caught.value)
    assert text.startswith(f"the filter input.events.where is wrong: {where!r}: ")
    assert text.endswith("Invoice, Customer ID, Item, Date, Quantity, Price")
    assert "\n" not in text
    assert "SQLSTATE" not in text
    assert spark.conf.get("spark.sql.ansi.enabled") == "true"
