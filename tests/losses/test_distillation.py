"""Laws of every distillation loss. A new loss gets all of them from one entry in `DIVERGENCES` or `LOSSES`."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kdlib.losses.distillation import hidden_cosine, kl_divergence, pooled_log_probs, sampled_kl_divergence
from kdlib.losses.rank_distillation import rce_kd, sample_closure

Loss = Callable[..., Tensor]


def _samples(teacher: Tensor, number: int, *, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Items sampled from the teacher, int64 [..., number], and their log-probabilities."""
    flat = teacher.float().exp().reshape(-1, teacher.shape[-1])
    items = torch.multinomial(flat, number, replacement=True, generator=torch.Generator().manual_seed(seed))
    items = items.view(*teacher.shape[:-1], number)
    return items, teacher.gather(-1, items)


def _sampled(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    return sampled_kl_divergence(student, *_samples(teacher, 20), temperature=temperature)


def _rce_kd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    sizes = {"top_items": 2, "pool_items": 3, "num_samples": 1}
    closure = sample_closure(student, teacher, generator=torch.Generator().manual_seed(3), **sizes)
    return rce_kd(student, teacher, closure, top_items=2, temperature=temperature)


DIVERGENCES: dict[str, Loss] = {"kl": kl_divergence, "rce_kd": _rce_kd}
"""Losses that are ≥ 0, and 0 where student and teacher are equal."""
LOSSES: dict[str, Loss] = DIVERGENCES | {"sampled_kl": _sampled}


def test_teachers_of_half_precision_are_pooled_in_float32() -> None:
    """Over thousands of items bfloat16 would lose a hundredth of the probability. At equality the divergence must be 0."""
    logits = (3 * torch.randn(4, 5000)).bfloat16()
    teacher = pooled_log_probs([logits], [1.0], temperature=2.0)
    assert teacher.dtype == torch.float32
    assert kl_divergence(logits, teacher, temperature=2.0).abs().max() < 1e-5


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"rce_kd"}))
def test_a_catalogue_of_one_item_costs_nothing(name: str) -> None:
    """The loss is 0 for all scores of the only item."""
    assert LOSSES[name](torch.randn(3, 1), torch.zeros(3, 1)).abs().max() < 1e-6


def _pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Student logits and teacher log-probabilities, far apart."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype), torch.log_softmax(teacher, -1).to(dtype)


QUARTERS = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
UNIFORM = torch.zeros(1, 2, dtype=torch.float64)


def test_hand_value() -> None:
    """A teacher of (3/4, 1/4) and a uniform student have the KL worked out by hand."""
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_divergence(UNIFORM, QUARTERS).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", [*DIVERGENCES, "sampled_kl"])
def test_zero_at_equality(name: str, temperature: float) -> None:
    """The divergence of a distribution from itself is 0 at every temperature."""
    logits, _ = _pair(5, 30)
    teacher = pooled_log_probs([logits], [1.0], temperature=temperature)
    assert LOSSES[name](logits, teacher, temperature=temperature).abs().max() < 1e-12


@pytest.mark.parametrize("name", DIVERGENCES)
def test_positive_elsewhere(name: str) -> None:
    """Different distributions have a divergence above 0."""
    assert DIVERGENCES[name](*_pair(50, 6)).min() > 1e-4


def test_temperature_squared_keeps_the_gradient() -> None:
    """At a high temperature the gradient no longer depends on T. It tends to the difference of the centred logits over V."""
    student, teacher = _pair(40)

    def gradient(temperature: float) -> Tensor:
        own = student.clone().requires_grad_()
        value = kl_divergence(own, torch.log_softmax(teacher / temperature, -1), temperature=temperature)
        return torch.autograd.grad(value, own)[0]

    torch.testing.assert_close(gradient(1e3), gradient(1e4), rtol=1e-2, atol=1e-4)
    expected = ((student - student.mean()) - (teacher - teacher.mean())) / 40
    torch.testing.assert_close(gradient(1e4), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_the_student_only(name: str) -> None:
    """The student's logits get a gradient, the teacher's get none."""
    teacher = torch.randn(3, 7, requires_grad=True)
    student = torch.randn(3, 7, requires_grad=True)
    LOSSES[name](student, torch.log_softmax(teacher, -1)).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_value(name: str) -> None:
    """Autograd agrees with finite differences. What is sorted or sampled from the logits is constant."""
    student, teacher = _pair(2, 6)
    if name == "rce_kd":
        closure = torch.tensor([[0], [3]])
        assert torch.autograd.gradcheck(
            partial(rce_kd, teacher_log_probs=teacher, closure_items=closure, top_items=2), student.requires_grad_()
        )
    else:
        assert torch.autograd.gradcheck(lambda own: LOSSES[name](own, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_is_a_subset(name: str) -> None:
    """Rows are independent: some rows of a batch have the loss that they have alone, for all leading axes."""
    student, teacher = _pair(6, 8)
    if name in ("sampled_kl", "rce_kd"):  # the same samples for both
        items, logs = _samples(teacher, 4)
        loss = {
            "sampled_kl": lambda rows: sampled_kl_divergence(student[rows], items[rows], logs[rows]),
            "rce_kd": lambda rows: rce_kd(student[rows], teacher[rows], items[rows], top_items=3),
        }[name]
    else:
        loss = lambda rows: LOSSES[name](student[rows], teacher[rows])  # noqa: E731
    whole = loss(torch.arange(6))
    torch.testing.assert_close(loss(torch.tensor([4, 1])), whole[[4, 1]])
    torch.testing.assert_close(loss(torch.arange(6).view(2, 3)), whole.view(2, 3))


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    """Logits of ±10⁴ and items that the teacher rules out give finite values and gradients."""
    student = torch.tensor([[1e4, -1e4, 0.0, 5.0], [-1e4, 0.0, 1e4, 1e4]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -torch.inf, -1e4], [1e4, -1e4, -torch.inf, -torch.inf]]).log_softmax(-1)
    loss = LOSSES[name](student, teacher)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_near(name: str) -> None:
    """bfloat16 logits are computed in float32, so only the rounding of the input changes the loss."""
    student, teacher = (values.bfloat16() for values in _pair(20, 50))
    value = LOSSES[name](student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name](student.float(), teacher.float()), rtol=1e-5, atol=1e-5)


def test_sampled_targets_have_the_full_gradient_on_average() -> None:
    """Over 20,000 samples the mean gradient is that of the full KL, within five standard errors."""
    student, teacher = _pair(12)
    draws, samples = 20_000, 8
    own = student.repeat(draws, 1).requires_grad_()
    items, logs = _samples(teacher.repeat(draws, 1), samples, seed=0)
    value = sampled_kl_divergence(own, items, logs)
    (gradient,) = torch.autograd.grad(value.sum(), own)
    exact_own = student.clone().requires_grad_()
    exact = kl_divergence(exact_own, teacher)
    (exact_gradient,) = torch.autograd.grad(exact, exact_own)
    # an entry of the gradient is q − count / samples: its variance is p (1 − p) / samples
    p = teacher.exp()
    error = (p * (1 - p) / (samples * draws)).sqrt()
    assert ((gradient.mean(0) - exact_gradient).abs() < 5 * error).all()
    spread = (p * (teacher - torch.log_softmax(student, -1) - exact).square()).sum().sqrt() / (samples * draws) ** 0.5
    assert abs(value.mean().item() - exact.item()) < 5 * spread.item()
    # five standard errors are far less than what renormalised top-K targets are off
    best = teacher.topk(4).indices
    top = torch.zeros_like(p).scatter(0, best, torch.softmax(teacher[best], 0))
    assert ((torch.softmax(student, -1) - top) - exact_gradient).abs().max() > 20 * error.max()


def test_rce_hand_value() -> None:
    """With one common item among the two best, γ is e^(−1/2). It mixes the KL on the student's best and on the rest."""
    student = torch.tensor([4.0, 3.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    teacher = torch.log_softmax(torch.tensor([4.0, 0.0, 3.0, 1.0, 0.5], dtype=torch.float64), 0)

    def on(items: list[int]) -> float:
        return kl_divergence(student[items], torch.log_softmax(teacher[items], 0)).item()

    gamma = math.exp(-0.5)
    expected = (1 - gamma) * on([0, 1]) + gamma * on([2, 4])
    assert rce_kd(student, teacher, torch.tensor([4]), top_items=2).item() == pytest.approx(expected, rel=1e-12)
    assert rce_kd(student, teacher, torch.tensor([4]), top_items=2, decay=0.0).item() == pytest.approx(on([2, 4]))


def test_closure_is_drawn_from_what_stands_above_the_rest() -> None:
    """Items above the teacher's missed items are sampled with weights that grow with the number of missed items below them."""
    student = -torch.arange(8.0)
    teacher = torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0, 6.0, 0.0, 0.0])  # missed: items 3 and 5, below 3 and 5 others
    drawn = sample_closure(
        student.expand(30_000, 8),
        teacher.expand(30_000, 8),
        top_items=2,
        pool_items=6,
        num_samples=1,
        sharpness=1.0,
        generator=torch.Generator().manual_seed(1),
    )
    weights = torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0, 0.0]).exp()
    expected = weights / weights.sum()
    frequency = torch.bincount(drawn.flatten(), minlength=8) / 30_000
    assert frequency[6:].sum() == 0
    assert ((frequency[:6] - expected).abs() < 5 * (expected * (1 - expected) / 30_000).sqrt()).all()
    with pytest.raises(ValueError, match="num_samples ≤ pool_items ≤ items, found 9, 6 and 8"):
        sample_closure(student, teacher, top_items=2, pool_items=6, num_samples=9)


def test_top_items_must_be_positive() -> None:
    """A list of no items is an error that says so."""
    with pytest.raises(ValueError, match="top_items must be at least 1, found 0"):
        rce_kd(*_pair(3, 4), torch.zeros(3, 1, dtype=torch.int64), top_items=0)


def test_hidden_cosine() -> None:
    """0 for the same direction, 1 for a right angle, 2 for the opposite. A zero state is finite, the teacher gets no gradient."""
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[5.0, 0.0]] * 4, requires_grad=True)
    value = hidden_cosine(student, teacher)
    torch.testing.assert_close(value.detach(), torch.tensor([0.0, 1.0, 2.0, 1.0]))
    value.sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad[1].abs().sum() > 0
    assert hidden_cosine(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


def test_several_teachers_are_their_geometric_mean() -> None:
    """Log-probabilities are averaged with weights that are scaled to sum to 1, and normalised."""
    first, second = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    pooled = pooled_log_probs([first.log() + 5, second.log() - 3], [3.0, 1.0]).exp()
    means = first**0.75 * second**0.25
    torch.testing.assert_close(pooled, means / means.sum())


def test_weights_must_match() -> None:
    """Anything but one positive weight a teacher is an error."""
    with pytest.raises(ValueError, match="one positive weight each, found 1 teachers and weights"):
        pooled_log_probs([torch.zeros(1, 2)], [1.0, 1.0])
    with pytest.raises(ValueError, match="positive"):
        pooled_log_probs([torch.zeros(1, 2)], [0.0])
