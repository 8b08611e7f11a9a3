"""Features of items and users: any format in, one row a feature out."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.config.data import CatalogueConfig, UsersConfig
from kdlib.errors import InputError
from kdlib.features.side_features import check_features, read_features, typed, warnings, with_value

KINDS = {"brand": "category", "tags": "categories", "price": "number", "image": "vector"}
ROWS = [
    {"item_id": "a", "brand": " acme ", "tags": ["y", "x", "y"], "price": 1.5, "image": [0.5, 1.0]},
    {"item_id": "b", "brand": None, "tags": [], "price": None, "image": None},
    {"item_id": "c", "brand": "b|c", "tags": ["z"], "price": 3.0, "image": [2.0, 3.0]},
    {"item_id": "a", "brand": "zeta", "tags": None, "price": 9.0, "image": None},
    {"item_id": "x" * 257, "brand": "acme", "tags": ["x"], "price": 9.0, "image": [1.0, 2.0]},
]
EXPECTED = {
    ("a", "brand"): ["acme"],
    ("a", "tags"): ["x", "y"],
    ("a", "price"): 1.5,
    ("a", "image"): [0.5, 1.0],
    ("c", "brand"): ["b|c"],
    ("c", "tags"): ["z"],
    ("c", "price"): 3.0,
    ("c", "image"): [2.0, 3.0],
}


def written(folder: Path, format_: str, rows=ROWS) -> str:
    path = folder / f"items.{format_}"
    if format_ == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif format_ == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = ["item_id;brand;tags;price;image"]
        for row in rows:
            tags = "" if row["tags"] is None else " | ".join(row["tags"])
            fields = [
                row["item_id"],
                row["brand"] or "",
                tags,
                row["price"],
                json.dumps(row["image"]) if row["image"] else "",
            ]
            lines.append(";".join("" if field is None else str(field) for field in fields))
        path.write_text("\n".join(lines) + "\n")
    return str(path)


def read(spark, path: str, format_: str, kinds=KINDS):
    source = CatalogueConfig.model_validate({"path": path, "format": format_, "delimiter": ";", "features": kinds})
    values = typed(read_features(spark, source, id_column="item_id"), source.features, key="id")
    return values, source.features


@pytest.mark.parametrize("format_", ["parquet", "jsonl", "csv"])
def test_every_format_gives_the_same_features(spark, tmp_path, format_):
    """Texts are trimmed, lists are sorted sets, missing values have no row, and the first value of a repeated id counts.

    An id that is too long for an event has no row.
    """
    values, kinds = read(spark, written(tmp_path, format_), format_)
    counts = check_features(values, kinds, section="input.catalogue")
    found = {
        (row["id"], row["feature"]): next(row[name] for name in ("values", "number", "vector") if row[name] is not None)
        for row in with_value(values).collect()
    }
    assert {key: value for key, value in found.items() if value} == EXPECTED
    assert {name: row["wrong"] for name, row in counts.items()} == dict.fromkeys(KINDS, 0)
    assert not warnings(counts, section="input.catalogue")


def test_a_few_wrong_values_count_as_missing(spark, tmp_path):
    """Up to one value in a hundred may be of a wrong kind: a warning gives their number and an example."""
    rows = [{"user": f"u{n}", "age": "old" if n == 7 else str(n), "empty": None} for n in range(150)]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = UsersConfig.model_validate(
        {
            "path": str(tmp_path / "users.jsonl"),
            "format": "jsonl",
            "user": "user",
            "features": {"age": "number", "empty": "category"},
        }
    )
    values = typed(read_features(spark, source, id_column="user"), source.features, key="id")
    counts = check_features(values, source.features, section="input.users")
    assert with_value(values).count() == 149
    assert warnings(counts, section="input.users") == [
        "input.users.features.age: 1 of 150 values have another kind and count as missing, for example 'old'",
        "input.users.features.empty is empty in every row",
    ]


@pytest.mark.parametrize(
    ("value", "kinds", "message"),
    [
        (
            "cheap",
            {"price": "number"},
            r"input\.catalogue\.features\.price: 1 of 3 values are no number, for example 'cheap'",
        ),
        (math.inf, {"price": "number"}, r"features\.price: 1 of 3 values are no number"),
        ("[1, 2", {"price": "vector"}, r"features\.price: 3 of 3 values are no vector"),
    ],
)
def test_a_feature_of_mixed_types_is_an_error(spark, tmp_path, value, kinds, message):
    """The error names the feature, the number of wrong values and an example."""
    rows = [{"item_id": str(n), "price": price} for n, price in enumerate([1, 2, value])]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values, features = read(spark, str(tmp_path / "items.jsonl"), "jsonl", kinds)
    with pytest.raises(InputError, match=message):
        check_features(values, features, section="input.catalogue")


def test_vectors_of_unequal_length_are_an_error(spark, tmp_path):
    """The error gives the shortest and the longest length."""
    rows = [{"item_id": str(n), "image": [1.0] * (2 + n % 2)} for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    values, features = read(spark, str(tmp_path / "items.parquet"), "parquet", {"image": "vector"})
    with pytest.raises(InputError, match=r"features\.image: the vectors have 2 to 3 numbers"):
        check_features(values, features, section="input.catalogue")


def test_a_missing_feature_column_is_named(spark, tmp_path):
    """The error lists the columns that the file has."""
    path = written(tmp_path, "parquet")
    with pytest.raises(InputError, match=r"colour.*item_id"):
        read(spark, path, "parquet", {"colour": "category"})
