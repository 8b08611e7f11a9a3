"""The checks of a written table of recommendations."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import ContractError
from kdlib.inference.checks import check_recommendations
from kdlib.store.list_tables import RECOMMENDATIONS


def test_a_user_twice_in_histories_and_lists_is_found(tmp_path):
    """A repeated user is an error even if the histories repeat it too."""
    rows = [{"user_id": "a", "item_ids": ["x"], "scores": [1.0], "source": "model"}] * 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-00000.parquet")
    limits = {"k": 2, "because": 0, "unavailable": frozenset(), "item_ids": pa.array(["x"])}
    with pytest.raises(ContractError, match="In row 1, after user a, it has user a and the histories have user a"):
        check_recommendations(tmp_path, tmp_path, **limits)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item_ids": ["x", "y", "z"], "scores": [3.0, 2.0, 1.0]}, "a list of more than 2 items"),
        ({"item_ids": ["x", "y"], "scores": [3.0]}, "without one score per item"),
        ({"item_ids": ["x", "x"], "scores": [3.0, 2.0]}, "the same item twice"),
        ({"item_ids": ["x", "y"], "scores": [3.0, float("nan")]}, "not a finite number"),
        ({"item_ids": ["x", "gone"], "scores": [3.0, 2.0]}, "recommends gone, which is not available"),
        ({"user_id": "a"}, "each user of the histories exactly once.* In row 1, .* has user a and .* user b"),
        ({"user_id": "c"}, "each user of the histories exactly once.* In row 1, .* has user c and .* user b"),
        ({"because_item_ids": [["x"], []]}, "has reasons, but recommend.because is 0"),
        ({"variant": "b"}, "has the variant b, expected none, because the run config has no section experiment"),
        (None, "In row 1, after user a, it has no user and the histories have user b"),
    ],
)
def test_the_written_table_is_checked(tmp_path, row, message):
    """Each fault of a written table is an error that names it. A good table is counted by source."""
    for name in ("histories", "good", "bad"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table({"user_id": ["a", "b"]}), tmp_path / "histories" / "part-00000.parquet")
    first = {"user_id": "a", "item_ids": ["x", "y"], "scores": [2.0, 1.0], "source": "model"}
    second = {"user_id": "b", "item_ids": ["y", "z"], "scores": [2.0, 1.0], "source": "popular"}
    schema = pa.schema([RECOMMENDATIONS.schema.field(name) for name in [*first, "because_item_ids", "variant"]])
    rows = [first] if row is None else [first, second | row]
    files = {"good/part-00000": [first], "good/part-00001": [second], "bad/part-00000": rows}
    for name, part in files.items():
        pq.write_table(pa.Table.from_pylist(part, schema), tmp_path / f"{name}.parquet")
    limits = {"k": 2, "because": 0, "unavailable": frozenset({"gone", "y2"}), "item_ids": pa.array(["x", "y", "z"])}
    assert check_recommendations(tmp_path / "good", tmp_path / "histories", **limits) == {"model": 1, "popular": 1}
    with pytest.raises(ContractError, match=message):
        check_recommendations(tmp_path / "bad", tmp_path / "histories", **limits)


@pytest.mark.parametrize("wrong", [None, "c"])
def test_each_user_of_an_ab_test_has_one_of_its_variants(tmp_path, wrong):
    """A user without a variant, or with another test's, is an error that names the variants."""
    schema = pa.schema(
        [field for field in RECOMMENDATIONS.schema if field.name not in ("model_version", "generated_at")]
    )
    for name, variant in (("good", "b"), ("bad", wrong)):
        (tmp_path / name).mkdir()
        rows = [
            {"user_id": user, "item_ids": ["x"], "scores": [1.0], "source": "model", "variant": of_user}
            for user, of_user in (("a", "a"), ("b", variant))
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / name / "part-00000.parquet")
    limits = {"k": 2, "because": 0, "unavailable": frozenset(), "item_ids": pa.array(["x"])}
    limits["variants"] = frozenset({"a", "b"})
    assert check_recommendations(tmp_path / "good", tmp_path / "good", **limits) == {"model": 2, "popular": 0}
    with pytest.raises(ContractError, match=f"has the variant {wrong}, expected a, b"):
        check_recommendations(tmp_path / "bad", tmp_path / "good", **limits)


def test_the_users_are_compared_a_batch_at_a_time(tmp_path, monkeypatch):
    """Files and batches may be cut at other places. An extra user is found, and no column is read as a whole."""
    monkeypatch.setattr(pq, "read_table", lambda *_, **__: pytest.fail("a column of ids is read whole"))
    users = [f"u{number:06}" for number in range(70_000)]
    lists = pa.table({"user_id": users}).append_column("source", pa.array(["model"] * len(users)))
    for name in ("item_ids", "scores", "because_item_ids", "variant"):
        field = RECOMMENDATIONS.schema.field(name)
        empty = pa.array([None if field.nullable else []] * len(users), field.type)
        lists = lists.append_column(field, empty)
    for name in ("histories", "good", "bad"):
        (tmp_path / name).mkdir()
    pq.write_table(pa.table({"user_id": users}), tmp_path / "histories" / "part-00000.parquet", row_group_size=30_000)
    for folder, rows in (("good", lists), ("bad", pa.concat_tables([lists, lists.slice(0, 1)]))):
        pq.write_table(rows.slice(0, 10), tmp_path / folder / "part-000000.parquet")
        pq.write_table(rows.slice(10), tmp_path / folder / "part-000001.parquet")
    limits = {"k": 2, "because": 0, "unavailable": frozenset(), "item_ids": pa.array(["x"])}
    found = check_recommendations(tmp_path / "good", tmp_path / "histories", **limits)
    assert found == {"model": len(users), "popular": 0}
    with pytest.raises(ContractError, match=r"In row 70000, after user u069999, it has user u000000 and .* no user"):
        check_recommendations(tmp_path / "bad", tmp_path / "histories", **limits)
