"""Distillation from sampled targets equals the plain functions, and in expectation the KL over all items."""

import pytest
import torch
from torch import Tensor

from kdlib.losses import next_item
from kdlib.losses.next_item import cross_entropy_and_kl
from kdlib.losses.scored import Scored, Teachers
from kdlib.losses.sparse import Draws, cross_entropy_and_sampled_kl, reference

POSITIONS, ITEMS, WIDTH, SAMPLES = 23, 61, 12, 8


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors this small are faster with one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _student(*, bias: bool = True) -> Scored:
    torch.manual_seed(1)
    tensors = [torch.randn(POSITIONS, WIDTH), torch.randn(ITEMS, WIDTH), *([torch.randn(ITEMS)] if bias else [])]
    return Scored(*(tensor.requires_grad_() for tensor in tensors))


TARGETS = torch.cat([_student().logits().argmax(1)[:9], torch.arange(9, POSITIONS)])
"""Some of them are the best item, so that some predictions are correct."""
WEIGHTS = torch.tensor([0.3, 0.0, 0.9, 3.0]).repeat(POSITIONS)[:POSITIONS]


def _gradients(loss: Tensor, student: Scored) -> list[Tensor]:
    return list(torch.autograd.grad(0.3 * loss, [tensor for tensor in student if tensor is not None]))


@pytest.mark.parametrize("chunk_logits", [5 * ITEMS, 1 << 20])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_fused_equals_reference(
    monkeypatch: pytest.MonkeyPatch, temperature: float, bias: bool, chunk_logits: int
) -> None:
    """Loss parts and all gradients agree with whole logits and plain functions. Items may be sampled more than once."""
    monkeypatch.setattr(next_item, "LEAST_POSITIONS", 1)
    monkeypatch.setitem(next_item.CHUNK_BYTES, "cpu", 4 * chunk_logits)
    student = _student(bias=bias)
    items = torch.randint(0, 9, (POSITIONS, SAMPLES), dtype=torch.int32).sort(1).values
    draws = Draws(items, -torch.rand(POSITIONS), 0.7, temperature)
    fused, plain = cross_entropy_and_sampled_kl(student, TARGETS, draws), reference(student, TARGETS, draws)
    for name in ("total", "ce", "kl", "correct"):
        torch.testing.assert_close(getattr(fused, name).float(), getattr(plain, name).float(), rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(_gradients(fused.total, student), _gradients(plain.total, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_weights_of_the_positions() -> None:
    """A position's weight scales both terms and its part of all gradients. Weights of 1 change no bit."""
    student = _student()
    items = torch.randint(0, 9, (POSITIONS, SAMPLES), dtype=torch.int32).sort(1).values
    draws, weights = Draws(items, -torch.rand(POSITIONS), 0.7, 2.5), WEIGHTS
    fused = cross_entropy_and_sampled_kl(student, TARGETS, draws, weights_T=weights)
    plain = reference(student, TARGETS, draws, weights_T=weights)
    for name in ("total", "ce", "kl", "correct"):
        torch.testing.assert_close(getattr(fused, name).float(), getattr(plain, name).float(), rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(_gradients(fused.total, student), _gradients(plain.total, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ones = cross_entropy_and_sampled_kl(student, TARGETS, draws, weights_T=torch.ones(POSITIONS))
    without = cross_entropy_and_sampled_kl(student, TARGETS, draws)
    for ours, theirs in zip(_gradients(ones.total, student), _gradients(without.total, student), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_in_proportion_give_the_whole_kl(temperature: float) -> None:
    """If each item is sampled exactly as often as the teacher expects, value and gradient are those of the full KL."""
    student = _student()
    counts = torch.ones(ITEMS, dtype=torch.int64)
    counts[:3] = torch.tensor([20, 7, 3])
    probs = counts / counts.sum()
    drawn = torch.arange(ITEMS).repeat_interleave(counts).expand(POSITIONS, -1)
    log_probs = probs.log()[drawn].mean(1)
    # a teacher of these probabilities at the temperature
    teacher = Scored(torch.ones(POSITIONS, 1), temperature * probs.log()[:, None])
    full = cross_entropy_and_kl(student, TARGETS, Teachers(teacher, 0.7, temperature))
    sparse = cross_entropy_and_sampled_kl(student, TARGETS, Draws(drawn, log_probs, 0.7, temperature))
    torch.testing.assert_close(sparse.kl, full.kl, rtol=1e-4, atol=1e-3)
    for ours, theirs in zip(_gradients(sparse.total, student), _gradients(full.total, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_half_precision_is_near() -> None:
    """With bfloat16 logits, loss and gradients are those of float32 within the rounding."""
    student = _student()
    items = torch.randint(0, ITEMS, (POSITIONS, SAMPLES)).sort(1).values
    draws = Draws(items, -torch.rand(POSITIONS), 0.7, 2.0)
    exact = cross_entropy_and_sampled_kl(student, TARGETS, draws)
    rounded = cross_entropy_and_sampled_kl(student, TARGETS, draws, dtype=torch.bfloat16)
    torch.testing.assert_close(rounded.total, exact.total, rtol=0.02, atol=0.5)
    for ours, theirs in zip(_gradients(rounded.total, student), _gradients(exact.total, student), strict=True):
        assert (ours - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_draws_of_one_item_all_count(dtype: torch.dtype) -> None:
    """All samples of an item are added at once. bfloat16 would round a single one away beside a large probability."""
    samples, likely = 1024, 3
    bias_V = torch.zeros(ITEMS).requires_grad_()
    student = Scored(torch.zeros(POSITIONS, WIDTH), torch.zeros(ITEMS, WIDTH), bias_V)
    items = torch.full((POSITIONS, samples), likely)
    items[:, -24:] = torch.arange(ITEMS - 24, ITEMS)
    draws = Draws(items, torch.zeros(POSITIONS), 1.0, 1.0)
    (gradient_V,) = torch.autograd.grad(
        cross_entropy_and_sampled_kl(student, TARGETS, draws, dtype=dtype).total, bias_V
    )
    (exact_V,) = torch.autograd.grad(reference(student, TARGETS, draws).total, bias_V)
    assert abs(gradient_V[likely] - exact_V[likely]) < 0.01 * abs(exact_V[likely])
    assert abs(gradient_V.sum()) < 0.01 * POSITIONS
