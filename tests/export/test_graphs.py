"""The ONNX graphs compute what the student computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdlib.errors import ConfigError, ModelError
from kdlib.models.sequence import SequenceModel

pytest.importorskip("onnxruntime")
import onnx
import onnxruntime

from kdlib.export import graphs
from kdlib.inference.topk import exact_topk

V = 400
CODES = {"kind": "residual", "count": 3, "size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "gru": {
        "kind": "gru",
        "hidden": 12,
        "layers": 2,
        "inputs": ["event_type", "time_gap"],
        "user_columns": {"land": 1},
    },
    "untied lstm": {"kind": "lstm", "tied": False, "session_flag": True},
    "prenorm": {"kind": "transformer", "layers": 2, "heads": 2, "inputs": ["time_gap"]},
    "bsarec with codes": {"kind": "transformer", "block": "bsarec", "heads": 2, "session_flag": True, "codes": CODES},
}


def student(**shape: Any) -> SequenceModel:
    torch.manual_seed(1)
    if "codes" in shape:
        shape["codes_VM"] = torch.randint(0, 16, (V, 3), dtype=torch.uint8)
    return SequenceModel(num_items=V, dim=16, max_length=12, **shape).requires_grad_(False).eval()


@pytest.fixture(scope="module", params=KINDS, ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SequenceModel]:
    """A student of each kind, and the folder of its graphs."""
    folder, model = tmp_path_factory.mktemp("graphs"), student(**KINDS[request.param])
    graphs.write_graphs(folder, model, version="v1", int8=True)
    return folder, model


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(one) for one in onnxruntime.InferenceSession(path).run(None, inputs)]


def histories(model: SequenceModel, rows: int, length: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(rows)
    return {
        "items": draw.integers(0, V, (rows, length)),
        "lengths": draw.integers(1, length + 1, rows),
        "context": draw.integers(0, 2, (rows, length, graphs.context_width(model))),
    }


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (5, 12), (3, 2)])
def test_the_encoder_gives_the_students_vector(exported: tuple[Path, SequenceModel], rows: int, length: int) -> None:
    """Batches and lengths of any size have the vectors that PyTorch computes; int8 is near them."""
    folder, model = exported
    fed = histories(model, rows, length)
    items, lengths, context = map(torch.from_numpy, fed.values())
    expected_BW = model(items, context, lengths_B=lengths)[torch.arange(rows), lengths - 1].numpy()
    np.testing.assert_allclose(run(folder / "encoder.onnx", **fed)[0], expected_BW, atol=2e-6)
    small_BW = run(folder / "encoder.int8.onnx", **fed)[0]
    assert 0 < np.abs(small_BW - expected_BW).max() < 0.05


def test_topk_is_the_exact_topk(exported: tuple[Path, SequenceModel]) -> None:
    """Excluded items and items with a bias of −inf are left out, equal scores stand by index, a boost moves an item up."""
    folder, model = exported
    head_VW, bias_V = model.head()
    vector_BW = torch.randn(3, head_VW.shape[1])
    vector_BW[2] = 0  # all scores are equal
    bias = torch.zeros(V)
    bias[::9], bias[5], bias[-1] = -torch.inf, 9.0, 8.0
    excluded_BX = np.array([[5, 8, -1], [-1, -1, -1], [1, 2, 3]])
    kept = excluded_BX >= 0
    offsets = torch.from_numpy(np.append(0, np.cumsum(kept.sum(1))))
    expected = exact_topk(
        vector_BW,
        head_VW,
        bias if bias_V is None else bias + bias_V,
        k=20,
        excluded=(torch.from_numpy(excluded_BX[kept]), offsets),
    )
    fed = {"vector": vector_BW.numpy(), "item_bias": bias[None].numpy(), "k": np.array([20])}
    scores_BK, items_BK = run(folder / "topk.onnx", excluded=excluded_BX, **fed)
    np.testing.assert_array_equal(items_BK, expected[1].numpy())
    np.testing.assert_allclose(scores_BK, expected[0].numpy(), atol=1e-5)
    assert items_BK[:, :2].tolist() == [[V - 1, items_BK[0, 1]], [5, V - 1], [5, V - 1]]
    none = np.zeros((3, 0), np.int64)
    assert (run(folder / "topk.onnx", excluded=none, **fed)[1][:, 0] == 5).all()
    small_BK = run(folder / "topk.int8.onnx", excluded=excluded_BX, **fed)[1]
    assert np.mean([len({*a} & {*b}) for a, b in zip(small_BK[:2], items_BK[:2], strict=True)]) > 17
    assert small_BK[2].tolist() == items_BK[2].tolist()


@pytest.mark.parametrize("exported", ["bsarec with codes"], indirect=True)
def test_the_same_student_has_the_same_bytes(exported: tuple[Path, SequenceModel], tmp_path: Path) -> None:
    """Two exports are equal, and name no path of this machine; the int8 table takes about a quarter of the bytes."""
    folder, model = exported
    graphs.write_graphs(tmp_path, model, version="v1", int8=True)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) == {"encoder.onnx", "topk.onnx", "encoder.int8.onnx", "topk.int8.onnx"}
    for name, data in found.items():
        assert not [word for word in (b"site-packages", b"/kdlib", b".py") if word in data], name
        assert [(one.key, one.value) for one in onnx.load_from_string(data).metadata_props] == [("student", "v1")]
    saved = len(found["topk.onnx"]) - len(found["topk.int8.onnx"])
    assert saved == pytest.approx(V * (16 * 3 - 4), abs=300)


def test_a_table_that_no_onnx_file_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the size, the limit and the setting."""
    monkeypatch.setattr(graphs, "MOST_BYTES", 4 * V * 16 - 1)
    with pytest.raises(ConfigError, match=r"item table takes 0\.0 GB .* Lower student\.model\.dim"):
        graphs.check_size(student(kind="gru"))


def test_a_graph_of_another_form_is_refused() -> None:
    """A PyTorch that looks items up in another way gives an error that says what to install."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["one_hot", graphs.TABLE], ["x"])],
        "encoder",
        [onnx.helper.make_tensor_value_info(graphs.TABLE, onnx.TensorProto.FLOAT, [V, 16])],
        [],
    )
    with pytest.raises(ModelError, match=r"reads the item table with \['MatMul'\].*expected one Gather"):
        graphs._with_table(onnx.helper.make_model(graph), torch.zeros(V, 16), int8=False)
