"""Which form of the loss is used for which catalogue and device."""

import pytest
import torch

from kdlib.losses import blocked, dispatch
from kdlib.losses.scored import LossSums, Scored
from kdlib.losses.sparse import Draws


def _loss(items: int, *, sampled: bool) -> LossSums:
    torch.manual_seed(1)
    student, targets = Scored(torch.randn(3, 4), torch.randn(items, 4)), torch.zeros(3, dtype=torch.int64)
    if sampled:
        return dispatch.cross_entropy_and_sampled_kl(
            student, targets, Draws(targets[:, None], -torch.ones(3), 1.0, 2.0)
        )
    return dispatch.cross_entropy_and_kl(student, targets)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("items", "calls"), [(99, 0), (100, 1)])
def test_large_catalogues_use_tiles(monkeypatch: pytest.MonkeyPatch, items: int, calls: int, sampled: bool) -> None:
    """From `LARGE_CATALOGUE` items on, the loss is computed by tiles, below by chunks. The result is the same."""
    usual, inner, called = _loss(items, sampled=sampled), blocked.compute, []
    monkeypatch.setattr(dispatch, "LARGE_CATALOGUE", 100)
    monkeypatch.setattr(blocked, "compute", lambda *args, **options: called.append(args) or inner(*args, **options))
    torch.testing.assert_close(_loss(items, sampled=sampled), usual)
    assert len(called) == calls


def test_a_cpu_never_uses_the_kernels() -> None:
    """The Triton kernels need a CUDA device, whatever the dtype."""
    student = Scored(torch.randn(3, 4), torch.randn(5, 4))
    assert not any(dispatch._kernels_suit(student, dtype) for dtype in (torch.bfloat16, torch.float32))
