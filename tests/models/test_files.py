"""Models as files: a loaded model equals the saved one, and damage is an error."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from kdlib.errors import ModelError
from kdlib.inference.topk import exact_topk
from kdlib.models.files import is_whole, load_model, quantise_rows, save_model
from kdlib.models.sequence import SequenceModel


def _saved(folder: Path) -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(num_items=20, kind="transformer", dim=8, heads=2, text_vectors_VE=torch.randn(20, 6)).eval()
    save_model(folder, model, model.state_dict(), {"vocabulary_hash": "abc"})
    return model


def test_round_trip_folds_the_text_tower(tmp_path: Path) -> None:
    """A loaded teacher with text predicts the same without its text vectors, and keeps its metadata."""
    model = _saved(tmp_path)
    loaded, facts = load_model(tmp_path)
    items, context = torch.randint(0, 20, (3, 5)), torch.ones(3, 5, 3, dtype=torch.int8)
    torch.testing.assert_close(loaded(items, context), model(items, context))
    torch.testing.assert_close(loaded.head()[0], model.head()[0])
    assert loaded.text_projection is None
    assert facts["vocabulary_hash"] == "abc"
    assert facts["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert facts["parameters_without_item_tables"] == facts["parameters"] - 20 * 8
    assert not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("export", ["float32", "int8"])
@pytest.mark.parametrize(
    "options", [{"kind": "lstm"}, {"kind": "transformer"}, {"kind": "transformer", "block": "bsarec"}]
)
def test_inputs_and_blocks_round_trip(
    tmp_path: Path, options: dict[str, Any], export: Literal["float32", "int8"]
) -> None:
    """A model of any kind that reads a context is the same after loading. With int8 it is the same within the rounding."""
    torch.manual_seed(0)
    options |= {"session_flag": True, "inputs": ["event_type", "time_gap"], "user_columns": {"age": 1}}
    model = SequenceModel(num_items=20, dim=8, **options).eval()
    save_model(tmp_path, model, model.state_dict(), {}, export=export)
    loaded, facts = load_model(tmp_path)
    assert facts["options"] == loaded.options == model.options
    items, context = torch.randint(0, 20, (3, 5)), torch.tensor([1, 3, 27, 0, 9], dtype=torch.int8).expand(3, 5, 5)
    tolerance = 1e-6 if export == "float32" else 0.05
    torch.testing.assert_close(loaded(items, context), model(items, context), rtol=0, atol=tolerance)


def test_the_version_follows_the_weights_alone(tmp_path: Path) -> None:
    """The version depends on the weights, not on other metadata."""
    model = _saved(tmp_path)
    version = load_model(tmp_path)[1]["version"]
    assert save_model(tmp_path, model, model.state_dict(), {"vocabulary_hash": "def"})["version"] == version
    model.get_parameter("output_norm.bias").data[3] += 1.0
    assert save_model(tmp_path, model, model.state_dict(), {"vocabulary_hash": "abc"})["version"] != version


def test_loaded_weights_are_aligned(tmp_path: Path) -> None:
    """Weights are aligned to 64 bytes, so that equal inputs give equal scores to the last bit in every process."""
    _saved(tmp_path)
    loaded = [load_model(tmp_path)[0] for _ in range(5)]
    assert all(parameter.data_ptr() % 64 == 0 for model in loaded for parameter in model.parameters())


def test_damage_is_found(tmp_path: Path) -> None:
    """A changed byte, a missing file and a description of another model are errors that name the folder."""
    _saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(ModelError, match=r"damaged.*should have the hash"):
        load_model(tmp_path)
    raw[-1] ^= 1
    weights.write_bytes(raw)
    facts = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(facts | {"options": facts["options"] | {"dim": 16}}))
    with pytest.raises(ModelError, match=r"do not fit model\.json"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="cannot read a model at"):
        load_model(tmp_path)


def _coded(num_items: int = 300) -> SequenceModel:
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (num_items, 4), dtype=torch.uint8)
    options = {"kind": "residual", "count": 4, "size": 16}
    return SequenceModel(num_items=num_items, kind="gru", dim=32, codes=options, codes_VM=codes).eval()


@pytest.mark.parametrize("export", ["float32", "int8"])
def test_codes_are_stored_as_bytes(tmp_path: Path, export: str) -> None:
    """A loaded student has its codes as bytes. Its metadata counts them as the item table."""
    model = _coded()
    gathered = {name: value.float() for name, value in model.state_dict().items() if name != "codes_VM"}
    facts = save_model(
        tmp_path,
        model,
        {**gathered, "codes_VM": model.get_buffer("codes_VM")},
        {},
        export=export,  # type: ignore[arg-type]
    )
    loaded, _ = load_model(tmp_path)
    assert loaded.get_buffer("codes_VM").dtype == torch.uint8
    assert torch.equal(loaded.get_buffer("codes_VM"), model.get_buffer("codes_VM"))
    tables = 4 * 16 * 32 * (4 if export == "float32" else 1) + (0 if export == "float32" else 4 * 16 * 4)
    assert facts["item_table_bytes"] == tables + 300 * 4
    assert facts["export"] == export
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["parameters_without_item_tables"] == facts["parameters"] - 4 * 16 * 32


@pytest.mark.parametrize("with_codes", [False, True])
def test_int8_export_scores_nearly_as_before(tmp_path: Path, with_codes: bool) -> None:
    """int8 takes little more than a quarter of the bytes. Scores change by less than 2% of their spread; most of the top 10 stays."""
    torch.manual_seed(0)
    model = _coded() if with_codes else SequenceModel(num_items=300, kind="transformer", dim=32, heads=2).eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    sizes, models = {}, {}
    for export in ("float32", "int8"):
        (tmp_path / export).mkdir()
        sizes[export] = save_model(tmp_path / export, model, model.state_dict(), {}, export=export)["bytes"]
        models[export] = load_model(tmp_path / export)[0]
    assert sizes["int8"] < 0.36 * sizes["float32"]
    items, context = torch.randint(0, 300, (200, 5)), torch.zeros(200, 5, 3, dtype=torch.int8)
    hidden = {name: loaded(items, context)[:, -1] for name, loaded in models.items()}
    matrix = {name: loaded.head()[0] for name, loaded in models.items()}
    if not with_codes:  # what rounding the scoring matrix alone can do to a score
        bound = hidden["float32"].abs().sum(1, keepdim=True) * quantise_rows(matrix["float32"])[1] / 2
        assert ((hidden["float32"] @ (matrix["int8"] - matrix["float32"]).T).abs() <= bound * 1.001).all()
    scores = {name: hidden[name] @ matrix[name].T for name in models}
    assert (scores["int8"] - scores["float32"]).square().mean().sqrt() < 0.02 * scores["float32"].std()
    best = {name: exact_topk(hidden[name], matrix[name], None, k=10, item_block=300)[1] for name in models}
    kept = (best["int8"][:, :, None] == best["float32"][:, None, :]).any(2).float().mean()
    assert kept > 0.97
    assert not any(parameter.requires_grad for parameter in models["int8"].parameters())
    assert all(parameter.dtype == torch.float32 for parameter in models["int8"].parameters())


def test_rows_are_quantised_to_half_a_scale() -> None:
    """No entry changes by more than half the scale of its row. Each row has its own scale, and zeros stay zeros."""
    rows = torch.randn(3, 5, 40) * torch.logspace(-6, 3, 15).view(3, 5, 1)
    rows[1, 2] = 0.0
    quantised, scale = quantise_rows(rows)
    assert quantised.dtype == torch.int8
    assert ((quantised.float() * scale[..., None] - rows).abs() <= scale[..., None] * 0.5001).all()
    torch.testing.assert_close(scale * 127, rows.abs().amax(-1))


def test_a_model_cut_off_is_not_whole(tmp_path: Path) -> None:
    """Files of an interrupted write are no complete model."""
    assert not is_whole(tmp_path)
    _saved(tmp_path)
    assert is_whole(tmp_path)
    facts = (tmp_path / "model.json").read_text()
    for left in ("", facts[: len(facts) // 2]):
        (tmp_path / "model.json").write_text(left)
        assert not is_whole(tmp_path)
    _saved(tmp_path)
    with (tmp_path / "model.safetensors").open("rb+") as stream:
        stream.truncate(100)
    assert not is_whole(tmp_path)
