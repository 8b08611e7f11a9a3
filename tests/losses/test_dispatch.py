"""Which form of the loss is used for which catalogue and device."""

import pytest
import torch

from kdlib.losses import blocked, dispatch, next_item
from kdlib.losses.scored import Scored


@pytest.mark.parametrize(("items", "form"), [(99, "chunks"), (100, "tiles")])
def test_large_catalogues_use_tiles(monkeypatch: pytest.MonkeyPatch, items: int, form: str) -> None:
    """From `LARGE_CATALOGUE` items on, the loss is computed by tiles, below by chunks."""
    calls = []
    monkeypatch.setattr(dispatch, "LARGE_CATALOGUE", 100)
    for name, module in (("chunks", next_item), ("tiles", blocked)):
        inner = module.cross_entropy_and_kl
        monkeypatch.setattr(
            module,
            "cross_entropy_and_kl",
            lambda *args, name=name, inner=inner, **options: calls.append(name) or inner(*args, **options),
        )
    dispatch.cross_entropy_and_kl(Scored(torch.randn(3, 4), torch.randn(items, 4)), torch.zeros(3, dtype=torch.int64))
    assert calls == [form]


def test_a_cpu_never_uses_the_kernels() -> None:
    """The Triton kernels need a CUDA device, whatever the dtype."""
    student = Scored(torch.randn(3, 4), torch.randn(5, 4))
    assert not any(dispatch._kernels_suit(student, dtype) for dtype in (torch.bfloat16, torch.float32))
