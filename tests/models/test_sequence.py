"""What every sequence model keeps, whatever its kind."""

from typing import Any

import pytest
import torch

from kdlib.models.sequence import SequenceModel

KINDS: list[dict[str, Any]] = [
    {"kind": "lstm", "dim": 8, "hidden": 12, "tied": False},
    {"kind": "lstm", "dim": 8, "layers": 2, "session_flag": True},
    {"kind": "gru", "dim": 8, "hidden": 12},
    {"kind": "transformer", "dim": 8, "heads": 2, "layers": 2, "session_flag": True},
    {"kind": "transformer", "dim": 8, "hidden": 16, "heads": 4, "tied": False},
]


def _model(options: dict[str, Any], **more: Any) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(num_items=30, max_length=10, dropout=0.1, **options, **more).eval()


@pytest.mark.parametrize("options", KINDS, ids=[str(list(o.values())) for o in KINDS])
def test_causal_and_padding_is_harmless(options: dict[str, Any]) -> None:
    """A hidden state depends on its own and earlier items alone, so padding on the right changes nothing."""
    model = _model(options)
    items, flags = torch.randint(0, 30, (4, 6)), torch.rand(4, 6) < 0.5
    longer = torch.cat([items, torch.zeros(4, 3, dtype=torch.int64)], 1)
    padded = model(longer, torch.cat([flags, torch.zeros(4, 3, dtype=torch.bool)], 1))[:, :6]
    torch.testing.assert_close(model(items, flags), padded, rtol=1e-4, atol=1e-6)
    changed = items.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 30
    before, after = model(items, flags), model(changed, flags)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@pytest.mark.parametrize("options", KINDS, ids=[str(list(o.values())) for o in KINDS])
def test_hidden_states_fit_the_head(options: dict[str, Any]) -> None:
    """The scoring width of the hidden states is that of the head's matrix, with one row an item."""
    model = _model(options)
    matrix, bias = model.head()
    hidden = model(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.bool))
    assert matrix.shape == (30, hidden.shape[-1])
    assert (bias is None) == options.get("tied", True)


def test_session_flag_matters_only_where_asked() -> None:
    """The flag changes the prediction of a model built with it and of no other."""
    items = torch.randint(0, 30, (2, 4))
    on, off = torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    with_flag, without = _model({"kind": "gru", "dim": 8, "session_flag": True}), _model({"kind": "gru", "dim": 8})
    assert not torch.allclose(with_flag(items, on), with_flag(items, off))
    torch.testing.assert_close(without(items, on), without(items, off))


def test_text_vectors_move_the_items() -> None:
    """Items with equal ids but different title vectors get different vectors, through a learnt projection."""
    model = _model({"kind": "gru", "dim": 8}, text_vectors_VE=torch.randn(30, 5))
    assert model.text_projection is not None
    model.item_vectors().sum().backward()
    assert model.text_projection.weight.grad is not None
    assert not torch.allclose(model.item_vectors(), model.item_embedding)
