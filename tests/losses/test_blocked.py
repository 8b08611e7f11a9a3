"""The loss by tiles of positions and items agrees with whole logits."""

import pytest
import torch

from kdlib.losses import blocked
from kdlib.losses.scored import LossSums, Scored, Teachers
from kdlib.losses.sparse import Draws, by_tiles
from tests.losses.large_catalogue_laws import LargeCatalogueLaws


class TestBlocked(LargeCatalogueLaws):
    @pytest.fixture(autouse=True, params=[(16, 32), (5, 7), (1000, 1000)], ids=str)
    def _tiles(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        monkeypatch.setitem(blocked.TILE_POSITIONS, "cpu", request.param[0])
        monkeypatch.setitem(blocked.BLOCK_ITEMS, "cpu", request.param[1])

    def loss(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        teachers: Teachers | None,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        return blocked.cross_entropy_and_kl(student, targets_T, teachers, weights_T=weights_T, dtype=dtype)

    def sampled(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        draws: Draws,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        return by_tiles(student, targets_T, draws, blocked.compute, weights_T=weights_T, dtype=dtype)
