"""The fused loss equals the reference in value and gradient, whatever the teachers, temperature, bias and chunk."""

import pytest
import torch

from kdlib.losses import next_item
from kdlib.losses.next_item import Scored, Teachers, cross_entropy_and_kl, reference

POSITIONS, ITEMS, WIDTH = 37, 101, 12


def _student(*, bias: bool, dtype: torch.dtype = torch.float32) -> Scored:
    torch.manual_seed(1)
    tensors = [torch.randn(POSITIONS, WIDTH, dtype=dtype), torch.randn(ITEMS, WIDTH, dtype=dtype)]
    tensors += [torch.randn(ITEMS, dtype=dtype)] if bias else []
    return Scored(*(tensor.requires_grad_() for tensor in tensors))


def _teachers(number: int, temperature: float) -> Teachers | None:
    torch.manual_seed(2)
    scored = [
        Scored(torch.randn(POSITIONS, 5 + n), torch.randn(ITEMS, 5 + n), torch.randn(ITEMS) if n else None)
        for n in range(number)
    ]
    return Teachers(scored, [1.0, 2.5, 0.5][:number], 0.7, temperature) if number else None


def _gradients(loss: torch.Tensor, student: Scored) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [tensor for tensor in student if tensor is not None]))


@pytest.mark.parametrize("chunk_logits", [1, 10 * ITEMS, 1 << 20])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_fused_equals_reference(
    monkeypatch: pytest.MonkeyPatch, number: int, temperature: float, bias: bool, chunk_logits: int
) -> None:
    """Loss parts and every gradient agree with whole logits and plain functions."""
    monkeypatch.setitem(next_item.CHUNK_LOGITS, "cpu", chunk_logits)
    student, teachers = _student(bias=bias), _teachers(number, temperature)
    targets = torch.randint(0, ITEMS, (POSITIONS,))
    fused, plain = cross_entropy_and_kl(student, targets, teachers), reference(student, targets, teachers)
    for name in ("total", "ce", "kl", "correct"):
        torch.testing.assert_close(getattr(fused, name).float(), getattr(plain, name).float(), rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(
        _gradients(fused.total * 0.3, student), _gradients(plain.total * 0.3, student), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_kl_is_zero_when_the_student_is_the_teacher() -> None:
    """A student equal to its teacher has no divergence and gets the gradient of the cross-entropy alone."""
    student = _student(bias=True)
    teacher = Scored(*(tensor.detach() for tensor in student if tensor is not None))
    targets = torch.randint(0, ITEMS, (POSITIONS,))
    both = cross_entropy_and_kl(student, targets, Teachers([teacher], [1.0], 5.0, 2.0))
    alone = cross_entropy_and_kl(student, targets)
    assert abs(both.kl.item()) < 1e-3
    for ours, theirs in zip(_gradients(both.total, student), _gradients(alone.total, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_sum_over_positions() -> None:
    """The loss of all positions is the sum of the losses of two parts: a mask is a subset."""
    student, targets = _student(bias=False), torch.randint(0, ITEMS, (POSITIONS,))
    whole = cross_entropy_and_kl(student, targets).total
    parts = [
        cross_entropy_and_kl(Scored(student.hidden_TW[part], student.weight_VW), targets[part]).total
        for part in (slice(0, 11), slice(11, None))
    ]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=1e-4)


def test_no_positions_is_zero() -> None:
    """A batch without real positions costs nothing and is not NaN."""
    student = Scored(torch.zeros(0, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True))
    loss = cross_entropy_and_kl(student, torch.zeros(0, dtype=torch.int64))
    loss.total.backward()
    assert loss.total.item() == 0
    assert student.weight_VW.grad is not None
    assert student.weight_VW.grad.abs().sum() == 0


def test_bfloat16_is_near() -> None:
    """bfloat16 hidden states and matrix give the float32 loss within their precision."""
    student, targets = _student(bias=False), torch.randint(0, ITEMS, (POSITIONS,))
    low = Scored(student.hidden_TW.bfloat16(), student.weight_VW.bfloat16())
    exact = cross_entropy_and_kl(student, targets, _teachers(1, 2.0)).total
    assert cross_entropy_and_kl(low, targets, _teachers(1, 2.0)).total.item() == pytest.approx(exact.item(), rel=2e-2)


@pytest.mark.parametrize("weights", [[1.0], [0.37, 0.63], [0.01, 0.15, 0.52, 0.09, 0.12, 0.11]])
def test_kl_of_alike_models_is_near_zero_in_bfloat16(weights: list[float]) -> None:
    """The logarithm of a mixture near e⁻¹⁰ is taken in float32: in bfloat16 it would be off by a sixteenth everywhere."""
    torch.manual_seed(0)
    alike, targets = Scored(torch.randn(8, 16), torch.randn(20_000, 16) * 0.1), torch.zeros(8, dtype=torch.int64)
    mixture = Teachers([alike] * len(weights), weights, 1.0, 2.0)
    loss = cross_entropy_and_kl(alike, targets, mixture, dtype=torch.bfloat16)
    assert abs(loss.kl.item()) / 8 < 6e-3


def test_extreme_logits_stay_finite() -> None:
    """Hidden states of ±1000 give finite loss and gradient."""
    student = Scored((_student(bias=False).hidden_TW * 1000).detach().requires_grad_(), _student(bias=False).weight_VW)
    loss = cross_entropy_and_kl(student, torch.zeros(POSITIONS, dtype=torch.int64), _teachers(2, 2.0))
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(gradient).all() for gradient in _gradients(loss.total, student))
