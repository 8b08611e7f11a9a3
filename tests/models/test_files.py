"""Models as files: what is saved is what is loaded, and damage is found."""

import json
from pathlib import Path

import pytest
import torch

from kdlib.errors import ModelError
from kdlib.models.files import load_model, save_model
from kdlib.models.sequence import SequenceModel


def _saved(folder: Path) -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(num_items=20, kind="transformer", dim=8, heads=2, text_vectors_VE=torch.randn(20, 6)).eval()
    save_model(folder, model, model.state_dict(), {"vocabulary_hash": "abc"})
    return model


def test_round_trip_folds_the_text_tower(tmp_path: Path) -> None:
    """A loaded text teacher predicts as before without its text vectors, and keeps its facts."""
    model = _saved(tmp_path)
    loaded, facts = load_model(tmp_path)
    items, flags = torch.randint(0, 20, (3, 5)), torch.zeros(3, 5, dtype=torch.bool)
    torch.testing.assert_close(loaded(items, flags), model(items, flags))
    torch.testing.assert_close(loaded.head()[0], model.head()[0])
    assert loaded.text_projection is None
    assert facts["vocabulary_hash"] == "abc"
    assert facts["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert facts["parameters_without_item_tables"] == facts["parameters"] - 20 * 8
    assert not any(p.requires_grad for p in loaded.parameters())


def test_same_weights_same_version(tmp_path: Path) -> None:
    """The version is a hash of the weights alone."""
    versions = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _saved(tmp_path / name)
        versions.append(load_model(tmp_path / name)[1]["version"])
    assert versions[0] == versions[1]


def test_loaded_weights_are_aligned(tmp_path: Path) -> None:
    """Weights lie at multiples of 64 bytes, so that equal inputs give scores equal to the last bit in every process."""
    _saved(tmp_path)
    loaded = [load_model(tmp_path)[0] for _ in range(5)]
    assert all(parameter.data_ptr() % 64 == 0 for model in loaded for parameter in model.parameters())


def test_damage_is_found(tmp_path: Path) -> None:
    """A flipped byte, a missing file and a foreign description each give an error that names the folder."""
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
    with pytest.raises(ModelError, match=r"does not fit its model\.json"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="no usable model at"):
        load_model(tmp_path)
