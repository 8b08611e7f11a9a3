import gzip
import json
import re
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv
from pyspark.sql import functions as F

from kdlib.config.data import EventsConfig
from kdlib.errors import ConfigError, InputError
from kdlib.features.columns import ACCOUNT, MOST_ID_CHARACTERS, raw_text
from kdlib.features.events import input_columns, read_events
from kdlib.features.read_errors import reading
from kdlib.privacy.pseudonyms import KeySource

LAST_DAY = date(2024, 5, 3)
ISO = {"format": "iso", "column": "t"}


def read(spark, path, time_zone="UTC", **settings):
    """Events as (corrupt, user, session, item, type, id, time given, time, raw) tuples, in file order."""
    settings = {"format": "csv", "user": "u", "item": "i", "time": ISO, **settings}
    config = EventsConfig.model_validate({"path": str(path), **settings})
    events = read_events(spark, config, last_day=LAST_DAY, time_zone=time_zone)
    time = F.date_format("event_time", "yyyy-MM-dd HH:mm:ss.SSSSSS")
    names = ("corrupt", "user_id", "session_id", "item_id", "event_type", "event_id", "time_given")
    with reading(str(path)):
        return [tuple(row) for row in events.select(*names, time, raw_text()).collect()]


def times(spark, path, **time):
    return [row[7] for row in read(spark, path, time={"column": "t", **time})]


def test_of_csv_lines_with_a_wrong_number_of_fields_only_the_counts_are_kept(spark, tmp_path):
    """A CSV line with too few or too many fields is corrupt. The quarantine counts its fields and shows none of them.

    The fields of such a line cannot be told apart, so an address could stand in any of them.
    """
    lines = [
        "u;i;t;ip",
        "1;a;2024-05-01;0",
        "1;b;10.0.0.1",
        "",
        "1;b;2024-05-01;10.0.0.1;9",
        ' 2 ;"x;""y""";2024-05-02;0',
    ]
    lines += ['1;"b;""c;";10.0.0.1', '1;"10.0.0.1;2024-05-01', f'"{"x;" * 30_000}";10.0.0.1']
    (tmp_path / "e.csv").write_text("\n".join(lines))
    rows = read(spark, tmp_path / "e.csv", delimiter=";")
    corrupt = [row[8] for row in rows if row[0]]
    assert corrupt == [
        '{"found":"12 characters, 3 fields","expected":"4 fields"}',
        '{"found":"25 characters, 5 fields","expected":"4 fields"}',
        '{"found":"19 characters, 3 fields","expected":"4 fields"}',
        '{"found":"22 characters, 3 fields","expected":"4 fields"}',
        '{"found":"60011 characters, 2 fields","expected":"4 fields"}',
    ]
    assert all(re.fullmatch(ACCOUNT, text) for text in corrupt)
    assert rows[0][:8] == (False, "1", None, "a", "view", None, True, "2024-05-01 00:00:00.000000")
    assert rows[3][1] == "2"
    assert rows[3][3] == 'x;"y"'


def test_headerless_gzipped_csv_maps_event_types(spark, tmp_path):
    """A gzipped CSV without a header takes its names from `columns`; unmapped event types are null."""
    text = "1,a,pv,1511544070\n1,b,buy,1511544071.5\n1,c,zap,soon\n1,d"
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(text.encode()))
    rows = read(
        spark,
        tmp_path / "e.csv.gz",
        header=False,
        columns=["u", "i", "b", "t"],
        event_type="b",
        event_types={"pv": "view", "buy": "purchase"},
        time={"format": "epoch_seconds", "column": "t"},
    )
    assert [row[4] for row in rows[:3]] == ["view", "purchase", None]
    assert [row[7] for row in rows] == ["2017-11-24 17:21:10.000000", "2017-11-24 17:21:11.500000", None, None]
    assert [row[6] for row in rows] == [True, True, True, False]
    assert rows[3][0]


def test_json_values_are_read_as_text_and_lines_that_do_not_parse_are_corrupt(spark, tmp_path):
    """A JSON number is an id like any other, a missing key is null, and the quarantine shows the mapped keys only."""
    lines = ['{"u": 12, "i": "a", "t": "2024-05-01", "ip": "10.0.0.1"}', '{"i": "b", "t": null}', "{oops", "7"]
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    rows = read(spark, tmp_path / "e.jsonl", format="jsonl")
    assert [row[0] for row in rows] == [False, False, True, True]
    assert rows[0][1] == "12"
    assert rows[0][8] == '{"u":"12","i":"a","t":"2024-05-01"}'
    assert rows[1][1] is None
    assert rows[1][6] is False
    texts = [row[8] for row in rows[2:]]
    assert texts == [f'{{"found":"{n} characters","expected":"one JSON object with plain values"}}' for n in (5, 1)]
    assert all(re.fullmatch(ACCOUNT, text) for text in texts)


def test_parquet_types_are_cast(spark, tmp_path):
    """Whole-number ids, timestamps with a zone and the names of partition folders can all be mapped."""
    folder = tmp_path / "events" / "shop=nl"
    folder.mkdir(parents=True)
    zoned = pa.array([datetime(2024, 5, 1, 12)], pa.timestamp("us", tz="Europe/Amsterdam"))
    pq.write_table(pa.table({"u": [7], "i": pa.array([3], pa.int32()), "t": zoned}), folder / "a.parquet")
    rows = read(spark, tmp_path / "events", format="parquet", session="shop")
    assert rows[0][1:4] == ("7", "nl", "3")
    assert rows[0][7] == "2024-05-01 12:00:00.000000"


def test_a_json_line_is_one_object_and_nothing_besides(spark, tmp_path):
    """A second object, a list or anything else on the line makes it corrupt, as do ids that are objects or lists."""
    rest = '"i": "a", "t": "2024-05-01"}'
    whole = [
        '{"u": 2, ' + rest,
        f'  {{"u": "[deleted]", {rest} ',
        f'{{"u": "{{3F}}", {rest}',
        f'{{"u": true, {rest}',
        f'{{"u": "[1]", {rest}',
        f'{{"u": "{{}}", {rest}',
        f'{{"u": 3, {rest}, ',
    ]
    broken = [
        whole[0] * 2,
        f"{whole[0]} garbage",
        f"{whole[0]}, {whole[0]}",
        f"{whole[0]}] garbage",
        f"{whole[0]}}}",
        "[]",
        "null",
        "]",
        f"[{whole[0]}]",
        f'{{"u": {{"id": 5}}, {rest}',
        f'{{"u": [5, 6], {rest}',
        f'{{"u": {{}}, {rest}',
        f'{{"u": [], {rest}',
    ]
    (tmp_path / "e.jsonl").write_text("\n".join([*whole, *broken]))
    rows = read(spark, tmp_path / "e.jsonl", format="jsonl")
    ids = ["2", "[deleted]", "{3F}", "true", "[1]", "{}", "3"]
    assert [(row[0], row[1]) for row in rows[: len(ids)]] == [(False, name) for name in ids]
    kept = [f'{{"found":"{len(line)} characters","expected":"one JSON object with plain values"}}' for line in broken]
    assert [(row[0], row[1], row[8]) for row in rows[len(ids) :]] == [(True, None, text) for text in kept]


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
def test_files_in_subfolders_are_read(spark, tmp_path, format_):
    """Files at any depth are read, hidden folders are skipped, and with `{day}` the columns are those of the day."""
    for number, name in enumerate(["2024-05-02/x", "2024-05-03/y", "2024-05-03/00/z", "2024-05-03/_temporary/n"]):
        file, row = tmp_path / f"{name}.{format_}", {"u": str(number), "i": "a", "t": "2024-05-01"}
        row |= {"new": "1"} if "05-03" in name else {"gone": "1"}
        file.parent.mkdir(parents=True, exist_ok=True)
        if format_ == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), file)
        else:
            file.write_text(json.dumps(row) if format_ == "jsonl" else f"{','.join(row)}\n{','.join(row.values())}\n")
    found = read(spark, tmp_path / "2024-05-03", format=format_)
    assert sorted(row[1] for row in found) == ["1", "2"]
    (tmp_path / "2024-05-03" / f"y.{format_}").unlink()
    assert [row[1] for row in read(spark, tmp_path / "2024-05-03", format=format_)] == ["2"]
    config = EventsConfig.model_validate(
        {"path": f"{tmp_path}/{{day}}", "format": format_, "user": "u", "item": "i", "time": ISO}
    )
    columns = {} if format_ == "jsonl" else dict.fromkeys("uit", {"csv": "text", "parquet": "string"}[format_])
    new = {} if format_ == "jsonl" else {"new": columns["u"]}
    assert input_columns(spark, config, last_day=LAST_DAY) == columns | new


def test_columns_in_folders_names_need_all_files_in_such_folders(spark, tmp_path):
    """A file beside the folders is an error that names the file. If no folder column is mapped, the file is read."""
    for name in ("shop=nl/deep/a", "b"):
        file = tmp_path / f"{name}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("u,i,t\n1,a,2024-05-01\n")
    assert len(read(spark, tmp_path)) == 2
    with pytest.raises(InputError, match=r"b\.csv is not in a folder that names shop"):
        read(spark, tmp_path, session="shop")
    (tmp_path / "b.csv").unlink()
    assert read(spark, tmp_path, session="shop")[0][1:3] == ("1", "nl")
    (tmp_path / "shop=nl" / "deep" / "a.csv").write_text("1,a,2024-05-01\n")
    (found,) = read(spark, tmp_path, session="shop", header=False, columns=["u", "i", "t", "shop"])
    assert found[:3] == (False, "1", "nl")


def test_columns_of_folders_that_do_not_agree_are_those_of_the_files(spark, tmp_path):
    """The gate's look at the columns does not fail where the files can be read."""
    for shop in ("nl", "de"):
        folder = tmp_path / shop / "part=1"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": ["2024-05-01"]}), folder / "p.parquet")
    config = EventsConfig.model_validate(
        {"path": str(tmp_path), "format": "parquet", "user": "u", "item": "i", "time": ISO}
    )
    assert len(read(spark, tmp_path, format="parquet")) == 2
    assert input_columns(spark, config, last_day=LAST_DAY) == dict.fromkeys("uit", "string")


def test_whole_numbers_of_a_float_column_are_ids_without_a_fraction(spark, tmp_path):
    """pandas writes a column with a gap as floats. NaN and numbers too large to tell apart are missing. Times stay."""
    users = [12_345_678.0, -0.0, 2.0**53 - 1, 2.0**53, float("nan"), float("inf"), None, 1.5]
    table = {"u": users, "i": pa.array([2.0**24] + [7.0] * 7, pa.float32()), "t": [1_714_557_600.25] * 8}
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    rows = read(spark, tmp_path / "e.parquet", format="parquet", time={"format": "epoch_seconds", "column": "t"})
    assert [row[1] for row in rows] == ["12345678", "0", str(2**53 - 1), None, None, None, None, "1.5"]
    assert [row[3] for row in rows] == [None] + ["7"] * 7
    assert {row[7] for row in rows} == {"2024-05-01 10:00:00.250000"}
    assert json.loads(rows[0][8])["u"] == "12345678"


def test_whole_decimals_are_ids_without_a_fraction(spark, tmp_path):
    """A database exports a number without a scale as a decimal. A number with a fraction keeps it."""
    users = pa.array(["12", "12.5", "-3", "1e20", None]).cast(pa.decimal128(38, 10), safe=False)
    pq.write_table(pa.table({"u": users, "i": [1] * 5, "t": ["2024-05-01"] * 5}), tmp_path / "e.parquet")
    rows = read(spark, tmp_path / "e.parquet", format="parquet")
    assert [row[1] for row in rows] == ["12", "12.5000000000", "-3", "1" + "0" * 20, None]


def test_parquet_text_that_is_no_utf8_is_mended(spark, tmp_path):
    """Some writers leave bytes in it that Python could not read from the tables.

    They become U+FFFD, as in CSV and JSON.
    """
    latin = pa.array([b"caf\xe9", b"tea"]).view(pa.string())
    table = {"u": latin, "i": ["a", "b"], "t": ["2024-05-01"] * 2, "k": pa.array([b"\xe9", b"\xe9"]).view(pa.string())}
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    rows = read(spark, tmp_path / "e.parquet", format="parquet", event_id="k")
    assert [(row[0], row[1], row[5]) for row in rows] == [(True, "caf\ufffd", "\ufffd"), (False, "tea", "\ufffd")]
    assert json.loads(rows[0][8]) == {"u": "caf\ufffd", "i": "a", "t": "2024-05-01", "k": "\ufffd"}


def test_ids_of_another_encoding_are_corrupt(spark, tmp_path):
    """Otherwise one user could become two, and two users that differ only in this letter could become one."""
    (tmp_path / "e.csv").write_bytes(
        "u,i,t\nK\xe4ufer,a,2024-05-01\nb,S\xe4ge,2024-05-01\nb,a,2024-05-01\n".encode("latin-1")
    )
    assert [row[0] for row in read(spark, tmp_path / "e.csv")] == [True, True, False]


def test_the_length_of_an_id_is_that_of_the_shops(spark, tmp_path):
    """Characters count, without the blanks around an id. A short pseudonym does not hide a long id of a user."""
    longest = "é" * MOST_ID_CHARACTERS
    names = ("u", "s", "i", "k")
    rows = [{"t": "2024-05-01"} | dict.fromkeys(names, f"  {longest} ")]
    rows += [rows[0] | {name: longest + "x"} for name in names] + [rows[0] | {"i": "a", "s": None, "k": None}]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "key").write_text("0123456789abcdef-a-key")
    settings = {"path": f"{tmp_path}/e.jsonl", "format": "jsonl", "user": "u", "session": "s", "item": "i"}
    config = EventsConfig.model_validate(settings | {"event_id": "k", "time": ISO})
    for key in (None, KeySource(f"{tmp_path}/key", None)):
        events = read_events(spark, config, last_day=LAST_DAY, key=key)
        assert [row["long_id"] for row in events.collect()] == [False, *[True] * 4, False]
    (tmp_path / "s.txt").write_text(f"u {longest} {longest}x\n")
    sequences = EventsConfig.model_validate({"path": f"{tmp_path}/s.txt", "format": "sequences"})
    assert [row["long_id"] for row in read_events(spark, sequences, last_day=LAST_DAY).collect()] == [False, True]


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_column_of_the_name_of_spark_s_own_does_no_harm(spark, tmp_path, format_):
    """Spark holds a row's file in its own column `_metadata`."""
    table = pa.table({"u": ["1"], "i": ["a"], "t": ["2024-05-01"], "_metadata": ["x"]})
    if format_ == "csv":
        csv.write_csv(table, tmp_path / "e.csv")
    else:
        pq.write_table(table, tmp_path / "e.parquet")
    assert read(spark, tmp_path / f"e.{format_}", format=format_)[0][1] == "1"


def test_types_and_headers_that_spark_cannot_read_are_named(spark, tmp_path):
    """This includes columns that are not mapped."""
    table = {"u": ["1"], "i": ["a"], "t": ["2024-05-01"], "at": pa.array([1], pa.time32("ms"))}
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"e.parquet has a column of the Parquet type INT32 \(TIME.*Leave it out"):
        read(spark, tmp_path / "e.parquet", format="parquet")
    (tmp_path / "e.csv").write_text("u,i,t,tag,tag\n1,a,2024-05-01,x,y\n")
    with pytest.raises(InputError, match=r"the header of .*e.csv has tag twice. Rename one"):
        read(spark, tmp_path / "e.csv")


@pytest.mark.parametrize("type_", [pa.decimal128(18, 3), pa.float64()])
def test_numbers_are_no_iso_times(spark, tmp_path, type_):
    """The error names the formats that take numbers."""
    seconds = pa.array([1_714_557_600.0]).cast(type_)
    pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": seconds}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"but t is d\w+.*\. Set time.format to epoch_seconds"):
        read(spark, tmp_path / "e.parquet", format="parquet")


def test_parts_of_a_day_that_are_too_long_are_no_day(spark, tmp_path):
    """A year of five digits or a month of three digits is not cut. Floats from pandas are read as whole numbers."""
    lines = ["u,i,y,m,d,n", "1,a,20267,11,3,0", "1,a,2026,123,3,0", "1,a,2024.0,5.0,2.0,0", "1,a,2024,5,2,1"]
    (tmp_path / "e.csv").write_text("\n".join(lines))
    time = {"format": "day_and_order", "day_columns": ["y", "m", "d"], "order_column": "n"}
    rows = read(spark, tmp_path / "e.csv", time=time)
    assert [row[7] for row in rows] == [None, None, "2024-05-02 00:00:00.000000", "2024-05-02 00:00:01.000000"]


def test_bytes_that_are_no_utf8_are_quarantined_as_text(spark, tmp_path):
    """So the quarantine can be read later. The same holds for ids of sequences."""
    (tmp_path / "e.jsonl").write_bytes(b'{"u": 1, "i": "a", "t": "2024-05-01"}\n{"u\xff\n')
    assert read(spark, tmp_path / "e.jsonl", format="jsonl")[1][8].startswith('{"found":"4 characters",')
    (tmp_path / "s.txt").write_bytes(b"\xff1 a\n")
    assert read(spark, tmp_path / "s.txt", format="sequences", user=None, item=None, time=None)[0][1] == "\ufffd1"


@pytest.mark.parametrize("first", ["ns", "us"])
def test_nanoseconds_in_some_files_only_are_refused(spark, tmp_path, first):
    """Otherwise Spark would take one unit for the other, whichever unit it reads first."""
    for name, unit in zip("ab", [first, {"ns": "us", "us": "ns"}[first]], strict=True):
        times = pa.array([datetime(2024, 5, 1)], pa.timestamp(unit))
        pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": times}), tmp_path / f"{name}.parquet")
    other = (
        r"a\.parquet has the column t in nanoseconds, .*b\.parquet does not"
        if first == "ns"
        else r"b\.parquet has the column t"
    )
    try:
        with pytest.raises(InputError, match=other):
            read(spark, tmp_path, format="parquet")
    finally:
        spark.conf.unset("spark.sql.legacy.parquet.nanosAsLong")


def test_a_csv_header_without_a_name_is_told(spark, tmp_path):
    """The error does not say that a single file differs from others."""
    (tmp_path / "e.csv").write_text("u,i,t,\n1,a,2024-05-01,\n")
    with pytest.raises(InputError, match=r"the header of \S+e\.csv has a field without a name"):
        read(spark, tmp_path / "e.csv")


def test_parquet_nanoseconds_as_pandas_writes_them_are_read(spark, tmp_path):
    """Spark reads nanosecond timestamps only as whole numbers; they become the right times."""
    moment = pa.array([1_714_557_600_123_456_789, None], pa.timestamp("ns"))
    for name in ("a 1", "b"):  # URLs write a blank in a name in another way
        pq.write_table(pa.table({"u": ["1", "2"], "i": ["a", "b"], "t": moment}), tmp_path / f"{name}.parquet")
    try:
        rows = read(spark, tmp_path / "a 1.parquet", format="parquet")
        assert read(spark, tmp_path, format="parquet") == rows * 2
        old = (
            tmp_path / "old" / "e.parquet"
        )  # old versions of Spark wrote times like this; pyarrow reads them as nanoseconds too
        old.parent.mkdir()
        table = pa.table({"u": ["1", "2"], "i": ["a", "b"], "t": moment})
        pq.write_table(table, old, use_deprecated_int96_timestamps=True)
        assert [row[7] for row in read(spark, old, format="parquet")] == ["2024-05-01 10:00:00.123456", None]
    finally:
        spark.conf.unset("spark.sql.legacy.parquet.nanosAsLong")
    assert [row[7] for row in rows] == ["2024-05-01 10:00:00.123456", None]
    assert [row[6] for row in rows] == [True, False]


def test_blanks_at_either_end_are_trimmed_and_what_is_only_blank_is_missing(spark, tmp_path):
    """Spaces, tabs and line ends are cut from both ends of an id. Inside the id they stay, and so do other blanks."""
    written = ["a", " a", "a\t", "\r\n a \n", "a\tb", "\u00a0a", "", " ", "\t\r\n", None]
    pq.write_table(
        pa.table({"u": written, "i": ["x"] * len(written), "t": ["2024-05-01"] * len(written)}), tmp_path / "e.parquet"
    )
    rows = read(spark, tmp_path / "e.parquet", format="parquet")
    assert [row[1] for row in rows] == ["a", "a", "a", "a", "a\tb", "\u00a0a", None, None, None, None]


def test_iso_times_with_and_without_offset(spark, tmp_path):
    """An ISO time without an offset is UTC. A text without a full date is not a time."""
    given = ["2024-05-01T10:00:00Z", "2024-05-01 10:00:00+0200", "2024-05-01T10:00:00.5", "2024-05-01"]
    given += ["2024-05-01T10:00Z", "2024-05-01 10:00+02:00", "2024-05-01T10:00-0130"]
    no_date = ["12:30", "2024", "2024-05", "2024-5-01", "2024-05-01T", "2024-05-01x10:00", "2024-02-31"]
    (tmp_path / "e.csv").write_text("u,i,t\n" + "".join(f"1,a,{text}\n" for text in given + no_date))
    assert times(spark, tmp_path / "e.csv", format="iso") == [
        "2024-05-01 10:00:00.000000",
        "2024-05-01 08:00:00.000000",
        "2024-05-01 10:00:00.500000",
        "2024-05-01 00:00:00.000000",
        "2024-05-01 10:00:00.000000",
        "2024-05-01 08:00:00.000000",
        "2024-05-01 11:30:00.000000",
        *[None] * len(no_date),
    ]


@pytest.mark.parametrize(
    ("pattern", "given", "expected"),
    [
        ("d/M/yyyy H:mm", ["1/5/2024 9:05", "01/05/2024 09:05"], "2024-05-01 09:05:00.000000"),
        ("yyyyMMdd", ["20240501"], "2024-05-01 00:00:00.000000"),
        ("dd.MM.yyyy HH:mm:ss", ["01.05.2024 23:59:59"], "2024-05-01 23:59:59.000000"),
        ("M/d/yyyy h:mm a", ["5/1/2024 1:02 PM", "5/1/2024 1:02 pm"], "2024-05-01 13:02:00.000000"),
        ("yyyy-MM-dd'T'HH:mmXXX", ["2024-05-01T10:00+02:00"], "2024-05-01 08:00:00.000000"),
    ],
)
def test_times_of_a_pattern(spark, tmp_path, pattern, given, expected):
    """Text that fits the pattern is a time in UTC, and any other text is null."""
    other = ["soon", "31/31/2024 1:00", "2024", "99991", "-"]
    (tmp_path / "e.csv").write_text("u,i,t\n" + "".join(f"1,a,{text}\n" for text in given + other))
    found = times(spark, tmp_path / "e.csv", format="pattern", pattern=pattern)
    assert found == [expected] * len(given) + [None] * len(other)


def test_a_day_as_a_number_has_a_pattern(spark, tmp_path):
    """A Parquet column of whole numbers, or of floats where a day is missing, is read as the text of its numbers."""
    days = pa.array([20240501.0, None])
    pq.write_table(pa.table({"u": ["1"] * 2, "i": ["a"] * 2, "t": days}), tmp_path / "e.parquet")
    time = {"format": "pattern", "column": "t", "pattern": "yyyyMMdd"}
    rows = read(spark, tmp_path / "e.parquet", format="parquet", time=time)
    assert [row[6:8] for row in rows] == [(True, "2024-05-01 00:00:00.000000"), (False, None)]


def test_a_pattern_that_spark_does_not_know_is_an_error(spark, tmp_path):
    """An unknown pattern is an error, and so is a pattern for a column of times."""
    (tmp_path / "e.csv").write_text("u,i,t\n1,a,2024-05-01\n")
    with pytest.raises(ConfigError, match=r"does not know the datetime pattern 'yyyy-MM-dd e' .*Expected letters"):
        times(spark, tmp_path / "e.csv", format="pattern", pattern="yyyy-MM-dd e")
    pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": [datetime(2024, 5, 1)]}), tmp_path / "e.parquet")
    time = {"format": "pattern", "column": "t", "pattern": "yyyyMMdd"}
    with pytest.raises(
        InputError, match=r"pattern needs a text column, but t is timestamp\w*\. Set time\.format to iso"
    ):
        read(spark, tmp_path / "e.parquet", format="parquet", time=time)


def test_order_lines_without_event_types_are_of_one_type(spark, tmp_path):
    """Every event of an input without a type column is a view, or of `only_type`."""
    (tmp_path / "e.csv").write_text("u,i,t\n1,a,2024-05-01\n")
    assert [read(spark, tmp_path / "e.csv", **only)[0][4] for only in ({}, {"only_type": "purchase"})] == [
        "view",
        "purchase",
    ]
    (tmp_path / "s.txt").write_text("1 a\n")
    sequences = {"format": "sequences", "user": None, "item": None, "time": None, "only_type": "cart"}
    assert read(spark, tmp_path / "s.txt", **sequences)[0][4] == "cart"


def test_epoch_millis_beyond_every_calendar_are_bad_and_do_not_fail(spark, tmp_path):
    """A number too large for a time is null like any other bad time."""
    (tmp_path / "e.csv").write_text("u,i,t\n1,a,1714557600123\n1,a,99999999999999999999999999\n1,a,1.7145576E12\n")
    found = times(spark, tmp_path / "e.csv", format="epoch_millis")
    assert found == ["2024-05-01 10:00:00.123000", None, "2024-05-01 10:00:00.000000"]


def test_day_and_order_counts_as_seconds_after_midnight(spark, tmp_path):
    """Year, month and day columns give the day, the running number its second.

    Without a user column the session is the user.
    """
    (tmp_path / "e.csv").write_text(
        "y,m,d,n,s,i\n2008,4,1,2,9,a\n2008,4,31,1,9,a\n2008,4,1,86400,9,a\n2008,,1,1,9,a\n9999,12,31,1,9,a\n1900,1,1,0,9,a\n"
    )
    time = {"format": "day_and_order", "day_columns": ["y", "m", "d"], "order_column": "n"}
    rows = read(spark, tmp_path / "e.csv", user=None, session="s", time=time)
    far = ["9999-12-31 00:00:01.000000", "1900-01-01 00:00:00.000000"]
    assert [row[7] for row in rows] == ["2008-04-01 00:00:02.000000", None, None, None, *far]
    assert [row[6] for row in rows] == [True, True, True, False, True, True]
    assert rows[0][1:3] == ("9", "9")


def test_a_number_of_days_and_milliseconds_give_an_order(spark, tmp_path):
    """A number of days since 1970-01-01 may replace the date, and running numbers may be milliseconds."""
    (tmp_path / "e.csv").write_text(
        "u,i,n,o\n1,a,7,86400\n1,a,8.0,0\n1,a,-1,0\n1,a,123456,0\n1,a,2008-04-01,86400000\n"
    )
    time = {"format": "day_and_order", "day_columns": ["n"], "order_column": "o"}
    found = [row[7] for row in read(spark, tmp_path / "e.csv", time=time | {"order_unit": "milliseconds"})]
    assert found == ["1970-01-08 00:01:26.400000", "1970-01-09 00:00:00.000000", None, None, None]
    assert [row[7] for row in read(spark, tmp_path / "e.csv", time=time)][:2] == [None, "1970-01-09 00:00:00.000000"]


def test_dates_without_a_time_are_local(spark, tmp_path):
    """A date is midnight in the time zone, and made-up times stay on it. A time without an offset is UTC in any zone."""
    (tmp_path / "e.csv").write_text(
        "u,i,t,n\n1,a,2024-03-10,7200\n1,a,2024-03-10 00:00:00,86399\n1,a,2024-03-10T09:30,0\n"
    )
    berlin, york = ({"time_zone": zone} for zone in ("Europe/Berlin", "America/New_York"))

    def found(zone, file="e.csv", **settings):
        return [row[7] and row[7][:19] for row in read(spark, tmp_path / file, **zone, **settings)]

    assert found(york) == ["2024-03-10 05:00:00", "2024-03-10 00:00:00", "2024-03-10 09:30:00"]
    assert found(berlin)[0] == "2024-03-09 23:00:00"
    pattern = {"format": "pattern", "column": "t", "pattern": "yyyy-MM-dd"}
    assert found(york, time=pattern) == ["2024-03-10 05:00:00", None, None]
    pattern["pattern"] = "yyyy-MM-dd HH:mm:ss"
    assert found(york, time=pattern) == [None, "2024-03-10 00:00:00", None]
    (tmp_path / "d.csv").write_text(
        "u,i,d,n\n1,a,2024-03-10,0\n1,a,2024-03-10,7200\n1,a,2024-03-10,86399\n1,a,19792,1\n"
    )
    order = {"format": "day_and_order", "day_columns": ["d"], "order_column": "n"}
    assert found(york, "d.csv", time=order) == [
        "2024-03-10 05:00:00",
        "2024-03-10 07:00:00",
        "2024-03-11 03:59:59",  # the day has 23 hours
        "2024-03-10 05:00:01",
    ]
    days = pa.table({"u": ["1"], "i": ["a"], "t": [date(2024, 3, 10)]})
    pq.write_table(days, tmp_path / "e.parquet")
    assert found(york, "e.parquet", format="parquet") == ["2024-03-10 05:00:00"]
    (tmp_path / "s.txt").write_text("1 a b\n")
    sequences = {"format": "sequences", "user": None, "item": None, "time": None}
    assert found(york, "s.txt", **sequences) == ["2024-05-02 04:00:00", "2024-05-03 04:00:00"]


def test_epoch_micros(spark, tmp_path):
    """A number of microseconds keeps its last digit."""
    (tmp_path / "e.csv").write_text("u,i,t\n1,a,1511544070000012\n")
    assert times(spark, tmp_path / "e.csv", format="epoch_micros") == ["2017-11-24 17:21:10.000012"]


def test_sequences_become_one_view_a_day_that_end_on_the_last_day(spark, tmp_path):
    """The last item of a line is on the last day, the item before it one day earlier.

    A line with only a user is corrupt.
    """
    (tmp_path / "s.txt").write_text("1 a b\tc\n\n2\n3 z\n")
    rows = read(spark, tmp_path / "s.txt", format="sequences", user=None, item=None, time=None)
    days = [(row[1], row[3], row[7] and row[7][:10]) for row in rows if not row[0]]
    assert days == [
        ("1", "a", "2024-05-01"),
        ("1", "b", "2024-05-02"),
        ("1", "c", "2024-05-03"),
        ("3", "z", "2024-05-03"),
    ]
    assert [row[8] for row in rows if row[0]] == ["2"]


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        ({}, "user,i,t\n1,a,2024-05-01\n", r"lacks the mapped column u; found user, i, t"),
        ({}, "u;i;t\n1;a;2024-05-01\n", r"lacks .* columns u, i, t; found u;i;t\. .*delimiter is probably not ','"),
        (
            {"format": "jsonl", "session": "s"},
            '{"u": 1, "i": 2, "t": 3}\n',
            r"lacks the mapped column s; found i, t, u",
        ),
        ({"format": "parquet"}, "PAR1?", r"cannot read .*e\.data: .*Check that"),
    ],
)
def test_unusable_files_are_named(spark, tmp_path, settings, text, message):
    """A missing column, a wrong delimiter and a damaged file each have their own error."""
    (tmp_path / "e.data").write_text(text)
    with pytest.raises(InputError, match=message):
        read(spark, tmp_path / "e.data", **settings)


@pytest.mark.parametrize("format_", ["csv", "parquet", "jsonl", "sequences"])
def test_a_path_without_files_is_named(spark, tmp_path, format_):
    """A glob that matches nothing is an error that shows it."""
    with pytest.raises(InputError, match=r"no file matches .*/day=\*"):
        read(spark, tmp_path / "day=*", format=format_)


def test_csv_files_with_different_headers_are_refused(spark, tmp_path):
    """Columns in another order in a second file are an error, not swapped values."""
    (tmp_path / "a.csv").write_text("u,i,t\n1,a,2024-05-01\n")
    (tmp_path / "b.csv").write_text("i,u,t\na,1,2024-05-01\n")
    with pytest.raises(InputError, match=r"the same header: \S+b\.csv has i, u, t, the first file has u, i, t\. Give"):
        read(spark, tmp_path)


def test_a_cut_off_gzip_file_is_named(spark, tmp_path):
    """A gzip file that ends too early is an error that names the file."""
    whole = gzip.compress(b"u,i,t\n" + b"".join(b"%d,%d,2024-05-01\n" % (n, n * n) for n in range(5000)))
    (tmp_path / "e.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot read .*e\.csv\.gz: .*Check that"):
        read(spark, tmp_path / "e.csv.gz")


def test_parquet_files_with_different_types_are_refused(spark, tmp_path):
    """If a column is a number in one file and text in another, the error names the file, the column and both types."""
    for name, users in (("a", ["1"]), ("b", [1])):
        pq.write_table(pa.table({"u": users, "i": ["a"], "t": ["2024-05-01"]}), tmp_path / f"{name}.parquet")
    with pytest.raises(
        InputError, match=r"[ab]\.parquet has the column u as \w+, other files of .* as \w+\. Give it one type"
    ):
        read(spark, tmp_path, format="parquet")


def test_a_parquet_time_of_the_wrong_kind_is_refused(spark, tmp_path):
    """Whole numbers under the time format iso are an error that names the right formats."""
    pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": [1]}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"t is bigint\. Set time\.format to epoch_seconds"):
        read(spark, tmp_path / "e.parquet", format="parquet")


def test_a_parquet_list_column_is_refused(spark, tmp_path):
    """A column of lists cannot be an id."""
    pq.write_table(pa.table({"u": [["1"]], "i": ["a"], "t": ["2024-05-01"]}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"column u must hold one plain value a row, found array<string>"):
        read(spark, tmp_path / "e.parquet", format="parquet")
