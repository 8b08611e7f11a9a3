"""Features of users as small codes, which mean the same in all runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.features.user_values import RANGES, add_user_values
from kdlib.store.tables import USER_CODES

USERS = {
    "anna": ("de", "20"),
    "ben": ("fr", "30"),
    "cara": ("fr", ""),
    "dora": ("de", "40"),
    "emil": ("at", "50"),
    "fynn": ("fr", "30"),
    "stranger": ("at", "70"),  # without a history
}
KINDS = {"country": "category", "age": "number"}


def config_of(folder: Path, rows: dict[str, tuple], kinds: dict[str, str], read: tuple[str, ...]) -> RunConfig:
    """A run config whose student reads features of a list of users."""
    lines = [",".join(("user", *kinds)), *(",".join((user, *map(str, values))) for user, values in rows.items())]
    (folder / "users.csv").write_text("\n".join(lines) + "\n")
    users = {"path": str(folder / "users.csv"), "format": "csv", "user": "user", "features": kinds}
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "output_dir": str(folder / "out"),
            "input": {"simulate": {}, "users": users},
            "student": {"user_features": read},
        }
    )


def values_of(
    spark: SparkSession,
    folder: Path,
    rows: dict[str, tuple],
    kinds: dict[str, str] = KINDS,
    *,
    read: tuple[str, ...] = (),
    earlier: dict[str, Any] | None = None,
    strangers: tuple[str, ...] = ("stranger",),
) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """User → codes, for all users and one whom the list lacks; and the details. Strangers have no history."""
    people = spark.createDataFrame([(user,) for user in (*rows, "unlisted") if user not in strangers], "user_id string")
    config = config_of(folder, rows, kinds, read or tuple(kinds))
    found, details = add_user_values(people, config, users=people.union(people), earlier=earlier or {})
    assert dict(found.dtypes)["user_values"] == "array<tinyint>"
    return {row["user_id"]: row["user_values"] for row in found.collect()}, details


def test_each_value_has_a_code(spark: SparkSession, tmp_path: Path) -> None:
    """The most frequent value of the users with a history comes first. Missing values, and values of one user, have code 0."""
    found, details = values_of(spark, tmp_path, USERS)
    assert details["user_values"][1] == {"feature": "country", "kind": "category", "codes": ["fr", "de"]}
    ends = details["user_values"][0]["codes"]
    quantiles = np.quantile([20, 30, 40, 50, 30], np.arange(1, RANGES) / RANGES)
    assert ends == pytest.approx(sorted(set(quantiles.tolist())))
    assert [one["feature"] for one in details["user_values"]] == ["age", "country"]
    ages = {user: 1 + int((np.array(ends) <= float(age)).sum()) for user, (_, age) in USERS.items() if age}
    assert ages["anna"] == 1 < ages["ben"] < ages["dora"] < ages["emil"] == len(ends) + 1
    countries = {"fr": 1, "de": 2}
    expected = {user: [ages.get(user, 0), countries.get(country, 0)] for user, (country, _) in USERS.items()}
    assert found == {user: codes for user, codes in expected.items() if user != "stranger"} | {"unlisted": [0, 0]}
    assert details["user_features"]["age"]["found"] == 5


def test_codes_keep_their_meaning(spark: SparkSession, tmp_path: Path) -> None:
    """A later run appends new values and features. Values that became rare keep their codes, and ranges keep their ends."""
    _, first = values_of(spark, tmp_path, USERS)
    later = {f"u{n}": ("it" if n < 5 else "at" if n < 8 else "fr", 1000 + n, "a") for n in range(9)}
    found, second = values_of(spark, tmp_path, later, KINDS | {"plan": "category"}, earlier=first)
    assert second["user_values"] == [
        first["user_values"][0],
        {"feature": "country", "kind": "category", "codes": ["fr", "de", "it", "at"]},
        {"feature": "plan", "kind": "category", "codes": ["a"]},
    ]
    most = len(first["user_values"][0]["codes"]) + 1
    assert (found["u0"], found["u8"]) == ([most, 3, 1], [most, 1, 1])


def test_a_feature_that_no_model_reads_keeps_its_place(spark: SparkSession, tmp_path: Path) -> None:
    """It has the code 0, and its coding is kept. Without any feature the lists are empty, and nothing is read."""
    _, first = values_of(spark, tmp_path, USERS)
    found, second = values_of(spark, tmp_path, USERS, read=("country",), earlier=first)
    assert second["user_values"] == first["user_values"]
    assert found["ben"] == [0, 1]
    config = config_of(tmp_path, {}, KINDS, ())
    (tmp_path / "users.csv").unlink()
    people = spark.createDataFrame([("ben",)], "user_id string")
    histories, third = add_user_values(people, config, users=people, earlier=second)
    assert histories.collect() == [("ben", [])]
    assert third["user_values"] == first["user_values"]


def test_a_feature_of_another_kind_is_a_new_one(spark: SparkSession, tmp_path: Path) -> None:
    """Its codes are in a new column, so that no earlier model takes them for its own."""
    numbers = {f"u{n}": (30 + n % 2,) for n in range(4)}
    _, first = values_of(spark, tmp_path, numbers, {"age": "category"})
    found, second = values_of(spark, tmp_path, numbers, {"age": "number"}, earlier=first)
    assert [one["kind"] for one in second["user_values"]] == ["category", "number"]
    assert found["u0"][0] == found["unlisted"][0] == 0
    assert 0 < found["u0"][1] < found["u1"][1]


def test_codes_end_where_the_embedding_ends(spark: SparkSession, tmp_path: Path) -> None:
    """Of more values than there are codes, the most frequent ones have a code, and ties are in alphabetical order."""
    names = [f"city{n:03}" for n in range(USER_CODES + 20)]
    rows = {f"u{n:04}": (names[n % len(names)],) for n in range(2 * len(names) + 1)}
    found, details = values_of(spark, tmp_path, rows, {"city": "category"})
    assert details["user_values"][0]["codes"] == names[: USER_CODES - 1]
    assert {codes[0] for codes in found.values()} == set(range(USER_CODES))
    _, later = values_of(spark, tmp_path, dict.fromkeys("ab", ("new",)), {"city": "category"}, earlier=details)
    assert later["user_values"] == details["user_values"]


def test_a_number_that_all_users_share_is_known(spark: SparkSession, tmp_path: Path) -> None:
    """It differs from a missing number. Without any number the ranges are made by the first run that has one."""
    found, details = values_of(spark, tmp_path, dict.fromkeys("ab", ("",)), {"age": "number"})
    assert (set(map(tuple, found.values())), details["user_values"][0]["codes"]) == ({(0,)}, [])
    found, details = values_of(spark, tmp_path, dict.fromkeys("ab", (7,)), {"age": "number"}, earlier=details)
    assert (found["a"], found["unlisted"], details["user_values"][0]["codes"]) == ([2], [0], [7.0])


def test_wrong_values_are_an_error(spark: SparkSession, tmp_path: Path) -> None:
    """The error names the section, the feature and an example."""
    with pytest.raises(
        InputError, match=r"input\.users\.features\.age: 1 of 2 values are no number, for example 'old'"
    ):
        values_of(spark, tmp_path, {"a": ("old",), "b": (3,)}, {"age": "number"})
