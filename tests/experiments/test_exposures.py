"""Exposure logs as files: what is read, added up, and refused."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from kdlib.errors import InputError
from kdlib.experiments.exposures import Columns, Metric, add_up, names_of, read_log

ROWS = [
    {"who": " 007", "variant": "a", "clicks": 1, "revenue": 2.5, "propensity": 0.5, "target": 0.25},
    {"who": "007", "variant": "a", "clicks": 0, "revenue": 0.0, "propensity": 0.1, "target": 0.2},
    {"who": "NA", "variant": "b", "clicks": 1, "revenue": 1.0, "propensity": 0.2, "target": 0.0},
    {"who": None, "variant": "b", "clicks": 1, "revenue": 9.0, "propensity": 0.2, "target": 0.1},
    {"who": "NA", "variant": None, "clicks": 1, "revenue": 1.0, "propensity": 1.0, "target": 1.0},
]
COLUMNS = Columns("who", "variant", propensity="propensity", target="target")
METRICS = [Metric("clicks"), Metric("revenue", "exposures")]


def write(path, rows):
    """Write rows as the file's ending says; returns its path as text."""
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pacsv.write_csv(table, path, pacsv.WriteOptions(delimiter=";", quoting_style="none"))
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    return str(path)


def added(log):
    """(user, variant) → the sums."""
    keys = zip(log.users.to_pylist(), log.variants.to_pylist(), strict=True)
    return {key: {name: float(one[place]) for name, one in log.sums.items()} for place, key in enumerate(keys)}


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.csv.gz", "log.jsonl"])
def test_rows_are_added_up_by_user_and_variant(tmp_path, name):
    """Parquet, CSV and JSON lines give the same sums. `007` and `NA` are users; a row without a user is counted only."""
    log = read_log(write(tmp_path / name, ROWS), COLUMNS, METRICS)
    assert log.nameless == 1
    sums = added(log)
    assert sums.keys() == {("007", "a"), ("NA", "b"), ("NA", None)}
    assert {key: one["rows"] for key, one in sums.items()} == {("007", "a"): 2, ("NA", "b"): 1, ("NA", None): 1}
    first = sums["007", "a"]
    assert (first["clicks"], first["revenue"]) == (1, 2.5)
    assert (first["weight"], first["weighted clicks"], first["weighted revenue"]) == pytest.approx((2.5, 0.5, 1.25))


def test_many_files_and_batches_give_the_sums_of_one(tmp_path):
    """A user whose rows stand in several files and batches is one user."""
    rng = np.random.default_rng(1)
    users = pa.array([f"u{number}" for number in rng.integers(0, 1_000, 300_000)])
    table = pa.table({"who": users, "variant": pa.repeat("a", len(users)), "clicks": rng.integers(0, 2, len(users))})
    table = table.append_column("revenue", pa.array(rng.integers(0, 9, len(users))))
    pq.write_table(table.slice(0, 290_000), tmp_path / "one.parquet")
    pq.write_table(table.slice(290_000), tmp_path / "two.parquet")
    columns = Columns("who", "variant")
    found = added(read_log(str(tmp_path), columns, METRICS))
    expected = table.group_by(["who"]).aggregate([("clicks", "sum"), ("revenue", "sum"), ("who", "count")]).to_pydict()
    assert {
        user: tuple(one[name] for name in ("clicks", "revenue", "rows")) for (user, _), one in found.items()
    } == dict(
        zip(
            expected["who"],
            zip(*(expected[name] for name in ("clicks_sum", "revenue_sum", "who_count")), strict=True),
            strict=True,
        )
    )


def test_exposures_are_rows_unless_the_log_counts_them(tmp_path):
    """One row a user with a column `exposures` is read as such."""
    rows = [{"who": "u", "variant": "a", "clicks": 3, "revenue": 4.0, "exposures": 20}]
    log = read_log(write(tmp_path / "log.csv", rows), Columns("who", "variant"), METRICS)
    assert (log.sums["exposures"].tolist(), log.sums["rows"].tolist()) == ([20], [1])


def test_users_get_their_variants_where_the_log_has_none(tmp_path):
    """The function gets the trimmed users of each batch."""
    log = read_log(
        write(tmp_path / "log.csv", ROWS),
        Columns("who"),
        METRICS,
        variant_of=lambda users: pa.array([f"of {u}" for u in users.to_pylist()]),
    )
    assert set(log.variants.to_pylist()) == {"of 007", "of NA"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clicks": None},
            "column clicks has 1 values that are missing or infinite, the first of user 007.* Write .* 0",
        ),
        ({"revenue": float("inf")}, "column revenue has 1 values that are missing or infinite"),
        (
            {"propensity": 0.0},
            "column propensity has 1 values that are no probability .*, the first 0 of user 007.* above 0",
        ),
        ({"propensity": None}, "column propensity has 1 values that are missing"),
        ({"propensity": 1.5}, "column propensity has 1 .* the first 1.5 of user 007"),
        ({"target": -0.1}, "column target has 1 .* the first -0.1 .* from 0 to 1"),
    ],
)
@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_an_impossible_value_is_an_error(tmp_path, name, change, message):
    """The error names file, column, user and what a value may be."""
    path = write(tmp_path / name, [ROWS[0] | change, *ROWS[1:]])
    with pytest.raises(InputError, match=f"{name}: {message}"):
        read_log(path, COLUMNS, METRICS)


def test_a_missing_column_is_named_with_those_found(tmp_path):
    """The error says which columns the file has, and how to name the right one."""
    path = write(tmp_path / "log.csv", ROWS)
    with pytest.raises(
        InputError, match=r"log.csv has no column outcome, found who, variant, clicks, .* --metric or --col"
    ):
        read_log(path, COLUMNS, [Metric("outcome")])
    assert names_of(path) == tuple(ROWS[0])


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.jsonl"])
def test_text_in_a_column_of_numbers_is_an_error(tmp_path, name):
    """The error names the file, its columns and which of them are numbers."""
    path = write(tmp_path / name, [row | {"clicks": "yes"} for row in ROWS])
    with pytest.raises(
        InputError, match=rf"cannot read who, variant, clicks.* of .*{name}: .*yes.* numbers in the other"
    ):
        read_log(path, COLUMNS, METRICS)


def test_a_delimiter_of_two_signs_is_an_error(tmp_path):
    """The error has the reader's reason."""
    (tmp_path / "log.csv").write_text("".join(f"u{user}::a::1::2\n" for user in range(50)))
    with pytest.raises(InputError, match=r"cannot read column_1, .* of .*log.csv: only single character"):
        read_log(str(tmp_path / "log.csv"), Columns("column_1", "column_2"), [Metric("column_3")])


def test_files_that_are_no_log_are_an_error(tmp_path):
    """So is a Delta table, whose folder also holds files of old versions."""
    lines = [f"{user} {' '.join(str(item) for item in range(user % 7 + 1))}\n" for user in range(50)]
    (tmp_path / "log.txt").write_text("".join(lines))
    with pytest.raises(InputError, match="is a file of sequences, expected Parquet, CSV or JSON lines"):
        read_log(str(tmp_path / "log.txt"), COLUMNS, METRICS)
    (tmp_path / "lake" / "_delta_log").mkdir(parents=True)
    write(tmp_path / "lake" / "part.parquet", ROWS)
    with pytest.raises(InputError, match=r"is a table of delta, expected files. Export the log"):
        read_log(str(tmp_path / "lake"), COLUMNS, METRICS)


def test_a_table_in_memory_is_added_up_alike(tmp_path):
    """`add_up` gives what `read_log` gives of the same rows."""
    table = pa.Table.from_pylist([row | {"clicks": float(row["clicks"])} for row in ROWS])
    one, other = add_up(table, COLUMNS, METRICS), read_log(write(tmp_path / "log.parquet", ROWS), COLUMNS, METRICS)
    assert added(one) == added(other)
