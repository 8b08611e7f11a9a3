"""The loss by chunks equals the reference in value and gradient, for all teachers, temperatures, biases and chunks."""

import pytest
import torch

from kdlib.losses import next_item
from kdlib.losses.next_item import cross_entropy_and_kl, reference
from kdlib.losses.scored import LossSums, Scored, Teachers
from kdlib.losses.sparse import Draws, cross_entropy_and_sampled_kl
from tests.losses.large_catalogue_laws import ITEMS, LargeCatalogueLaws


class TestChunks(LargeCatalogueLaws):
    @pytest.fixture(autouse=True, params=[1, 10 * ITEMS, 1 << 20], ids=str)
    def _chunk(self, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        monkeypatch.setattr(next_item, "LEAST_POSITIONS", 1)
        monkeypatch.setitem(next_item.CHUNK_BYTES, "cpu", 4 * request.param)

    def loss(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        teachers: Teachers | None,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        return cross_entropy_and_kl(student, targets_T, teachers, weights_T=weights_T, dtype=dtype)

    def sampled(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        draws: Draws,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        return cross_entropy_and_sampled_kl(student, targets_T, draws, weights_T=weights_T, dtype=dtype)


def test_a_weight_counts_a_position_several_times() -> None:
    """The reference with whole weights is the reference of positions that occur as often as their weight."""
    torch.manual_seed(1)
    student, targets = Scored(torch.randn(7, 12), torch.randn(ITEMS, 12)), torch.randint(0, ITEMS, (7,))
    teacher = Scored(torch.randn(7, 5), torch.randn(ITEMS, 5))
    times = torch.tensor([0, 1, 2, 0, 3, 1, 1])
    rows = torch.arange(7).repeat_interleave(times)
    repeated = reference(
        student._replace(hidden_TW=student.hidden_TW[rows]),
        targets[rows],
        Teachers(teacher._replace(hidden_TW=teacher.hidden_TW[rows]), 0.7, 2.0),
    )
    weighted = reference(student, targets, Teachers(teacher, 0.7, 2.0), weights_T=times.float())
    for name in ("total", "ce", "kl"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))


def test_sum_over_positions() -> None:
    """The loss of all positions is the sum of the losses of two parts."""
    torch.manual_seed(1)
    student, targets = Scored(torch.randn(37, 12), torch.randn(ITEMS, 12)), torch.randint(0, ITEMS, (37,))
    whole = cross_entropy_and_kl(student, targets).total
    parts = [
        cross_entropy_and_kl(Scored(student.hidden_TW[part], student.weight_VW), targets[part]).total
        for part in (slice(0, 11), slice(11, None))
    ]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=1e-4)


def test_kl_of_alike_models_is_near_zero_in_bfloat16() -> None:
    """The logarithm of a probability near e⁻¹⁰ is computed in float32. In bfloat16 it would be wrong by a sixteenth."""
    torch.manual_seed(0)
    alike, targets = Scored(torch.randn(8, 16), torch.randn(20_000, 16) * 0.1), torch.zeros(8, dtype=torch.int64)
    loss = cross_entropy_and_kl(alike, targets, Teachers(alike, 1.0, 2.0), dtype=torch.bfloat16)
    assert abs(loss.kl.item()) / 8 < 6e-3
