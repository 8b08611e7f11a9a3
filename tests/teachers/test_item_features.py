"""Features of items, as a model reads them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdlib.store import tables
from kdlib.teachers.item_features import KNOTS, read_item_features


def write(folder: Path, rows: list[dict]) -> Path:
    empty = dict.fromkeys(("values", "number", "vector"))
    pq.write_table(
        pa.Table.from_pylist([empty | row for row in rows], tables.ITEM_FEATURES.schema), folder / "0.parquet"
    )
    return folder


def category(item: int, feature: str, *values: str) -> dict:
    return {"item_index": item, "feature": feature, "values": list(values)}


def test_a_value_counts_from_the_second_item_on(tmp_path: Path) -> None:
    """Values of one item alone, missing values and items outside the vocabulary have no entry; others share a weight of 1."""
    rows = [
        category(2, "brand", "bolt"),
        category(0, "brand", "acme"),
        category(1, "brand", "bolt"),
        category(3, "brand", "alone"),
        category(9, "brand", "acme"),
        category(0, "tags", "red", "round"),
        category(3, "tags", "red", "round", "rare"),
        category(2, "colour", "not asked for"),
        category(3, "colour", "not asked for"),
    ]
    values = read_item_features(write(tmp_path, rows), ["brand", "tags"], num_items=4).values
    assert values is not None
    expected_VF = torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [1, 0, 0], [0, 0.5, 0.5]])
    torch.testing.assert_close(values.matrix().to_dense(), expected_VF)
    assert values.items_F.tolist() == [2, 2, 2]


def test_a_number_lies_between_two_knots(tmp_path: Path) -> None:
    """A table over the knots is the piecewise linear function of the number. Knots lie at its quantiles."""
    numbers = np.random.default_rng(1).lognormal(3, 1, 200)
    rows = [{"item_index": item, "feature": "price", "number": float(one)} for item, one in enumerate(numbers)]
    values = read_item_features(write(tmp_path, rows), ["price"], num_items=201).values
    assert values is not None
    knots = np.quantile(numbers, np.linspace(0, 1, KNOTS))
    heights = np.random.default_rng(2).normal(size=KNOTS)
    found_V = values.sums(torch.tensor(heights)[:, None].float())[:, 0]
    np.testing.assert_allclose(found_V[:200].numpy(), np.interp(numbers, knots, heights), rtol=1e-4, atol=1e-5)
    assert found_V[200] == 0


def test_one_number_for_all_is_one_value(tmp_path: Path) -> None:
    """Without two different numbers there is one knot."""
    rows = [{"item_index": item, "feature": "price", "number": 5.0} for item in range(3)]
    values = read_item_features(write(tmp_path, rows), ["price"], num_items=3).values
    assert values is not None
    assert values.matrix().to_dense().tolist() == [[1.0]] * 3


def test_vectors_have_length_one_and_stand_side_by_side(tmp_path: Path) -> None:
    """An item without a vector has zeros. Without categories and numbers there are no values."""
    rows = [
        {"item_index": 2, "feature": "image", "vector": [3.0, 4.0]},
        {"item_index": 0, "feature": "image", "vector": [0.0, 2.0]},
        {"item_index": 1, "feature": "sound", "vector": [5.0]},
    ]
    read = read_item_features(write(tmp_path, rows), ["image", "sound"], num_items=3)
    assert read.values is None
    assert read.vectors_VE is not None
    torch.testing.assert_close(read.vectors_VE, torch.tensor([[0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]]))


def test_features_without_values_are_no_content(tmp_path: Path) -> None:
    """A feature that is empty in every row adds nothing."""
    assert read_item_features(write(tmp_path, []), ["brand"], num_items=3) == (None, None)
