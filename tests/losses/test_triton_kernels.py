"""The Triton kernels agree with whole logits, on a GPU or in Triton's interpreter.

The interpreter must be chosen before the first import of Triton, so `test_triton_without_gpu` runs this file in its own
process.
"""

import os

import pytest
import torch

from kdlib.losses import blocked, dispatch
from kdlib.losses.next_item import reference
from kdlib.losses.scored import LossSums, Scored, Teachers, pool
from kdlib.losses.sparse import Draws, by_tiles
from tests.losses.large_catalogue_laws import LargeCatalogueLaws

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no CUDA device: test_triton_without_gpu runs these in the interpreter", allow_module_level=True)

from kdlib.losses import triton_passes


class TestTritonKernels(LargeCatalogueLaws):
    device = "cuda" if torch.cuda.is_available() else "cpu"

    @pytest.fixture(autouse=True)
    def _small_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each test has several blocks, shares of several blocks, and several blocks of columns."""
        for name in ("LOGSUMEXP_TILE", "HIDDEN_TILE", "WEIGHT_TILE"):
            monkeypatch.setattr(triton_passes, name, triton_passes.Tile(positions=16, items=32, warps=4))
        monkeypatch.setattr(triton_passes, "INNER", 16)
        monkeypatch.setattr(triton_passes, "PROGRAMS", 6)

    def loss(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        teachers: Teachers | None,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        return triton_passes.cross_entropy_and_kl(student, targets_T, teachers, weights_T=weights_T, dtype=dtype)

    def sampled(
        self,
        student: Scored,
        targets_T: torch.Tensor,
        draws: Draws,
        dtype: torch.dtype = torch.float32,
        weights_T: torch.Tensor | None = None,
    ) -> LossSums:
        return by_tiles(student, targets_T, draws, triton_passes.compute, weights_T=weights_T, dtype=dtype)

    def test_too_wide_a_student(self) -> None:
        """A student that is too wide for the kernels is an error that says what to use instead."""
        student = self._student(2, 3, 257, bias=False)
        with pytest.raises(ValueError, match=r"at most 256 wide, found 257.*kdlib\.losses\.blocked"):
            self.loss(student, self._targets(2, 3), None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_large_catalogues_go_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU in bfloat16 the kernels compute the loss over 10⁵ items. With their real tiles it is near the float32 reference."""
    torch.manual_seed(1)
    hidden_TW, weight_VW = torch.randn(300, 96, device="cuda"), torch.randn(100_001, 96, device="cuda") / 5
    student = Scored(hidden_TW.requires_grad_(), weight_VW.requires_grad_())
    widths = (128, 200)
    scored = [Scored(torch.randn(300, w, device="cuda"), torch.randn(100_001, w, device="cuda") / 5) for w in widths]
    teachers, targets = Teachers(pool(scored, [1.0, 2.0]), 0.7, 2.0), torch.randint(0, 100_001, (300,), device="cuda")
    monkeypatch.setattr(blocked, "compute", None)  # it must not be called
    ours = dispatch.cross_entropy_and_kl(student, targets, teachers, dtype=torch.bfloat16)
    plain = reference(student, targets, teachers)
    assert ours.total.item() == pytest.approx(plain.total.item(), rel=1e-2)
    for mine, theirs in zip(
        torch.autograd.grad(ours.total, (hidden_TW, weight_VW)),
        torch.autograd.grad(plain.total, (hidden_TW, weight_VW)),
        strict=True,
    ):
        assert torch.linalg.norm(mine - theirs) < 3e-2 * torch.linalg.norm(theirs)
