"""Tiles of positions and items give what whole logits give, and large catalogues go by them."""

import pytest
import torch

from kdlib.losses import blocked, next_item
from kdlib.losses.next_item import LossSums, Scored, Teachers
from tests.losses.large_catalogue_laws import LargeCatalogueLaws


class TestBlocked(LargeCatalogueLaws):
    @pytest.fixture(autouse=True, params=[(16, 32), (5, 7), (1000, 1000)], ids=str)
    def _tiles(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        monkeypatch.setitem(blocked.TILE_POSITIONS, "cpu", request.param[0])
        monkeypatch.setitem(blocked.BLOCK_ITEMS, "cpu", request.param[1])

    def loss(
        self, student: Scored, targets_T: torch.Tensor, teachers: Teachers | None, dtype: torch.dtype = torch.float32
    ) -> LossSums:
        return blocked.cross_entropy_and_kl(student, targets_T, teachers, dtype=dtype)


@pytest.mark.parametrize(("items", "by_tiles"), [(99, False), (100, True)])
def test_large_catalogues_go_by_tiles(monkeypatch: pytest.MonkeyPatch, items: int, by_tiles: bool) -> None:
    """From `LARGE_CATALOGUE` items on, the loss is computed by tiles."""
    calls = []
    inner = blocked.cross_entropy_and_kl
    monkeypatch.setattr(next_item, "LARGE_CATALOGUE", 100)
    monkeypatch.setattr(blocked, "cross_entropy_and_kl", lambda *args, **kw: calls.append(1) or inner(*args, **kw))
    next_item.cross_entropy_and_kl(Scored(torch.randn(3, 4), torch.randn(items, 4)), torch.zeros(3, dtype=torch.int64))
    assert bool(calls) == by_tiles
