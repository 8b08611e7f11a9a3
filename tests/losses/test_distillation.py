"""Laws that every divergence keeps."""

import math

import pytest
import torch

from kdlib.losses.distillation import kl_divergence, mixture_log_probs


def test_hand_value() -> None:
    """KL of (3/4, 1/4) from a uniform student is 3/4·ln(3/2) + 1/4·ln(1/2)."""
    teacher = torch.tensor([[0.75, 0.25]]).log()
    value = kl_divergence(torch.zeros(1, 2), teacher)
    assert value.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_zero_at_equality(temperature: float) -> None:
    """The divergence of a distribution from itself is 0 at every temperature."""
    logits = torch.randn(5, 30, dtype=torch.float64)
    teacher = mixture_log_probs([logits], [1.0], temperature=temperature)
    assert kl_divergence(logits, teacher, temperature=temperature).abs().max() < 1e-12


def test_temperature_squared_keeps_the_gradient() -> None:
    """At high temperature the gradient tends to the difference of centred logits over the number of items, whatever T."""
    teacher, student = torch.randn(40, dtype=torch.float64), torch.randn(40, dtype=torch.float64, requires_grad=True)
    loss = kl_divergence(student, torch.log_softmax(teacher / 1e4, -1), temperature=1e4)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = ((student - student.mean()) - (teacher - teacher.mean())) / 40
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-3, atol=1e-6)


def test_gradient_reaches_the_student_only() -> None:
    """Logits of the teacher get no gradient."""
    teacher = torch.randn(3, 7, requires_grad=True)
    student = torch.randn(3, 7, requires_grad=True)
    kl_divergence(student, torch.log_softmax(teacher, -1)).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_extreme_logits_stay_finite() -> None:
    """Logits of ±10⁴ and items that the teacher rules out give finite values."""
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]]).log_softmax(-1)
    loss = kl_divergence(student, teacher)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_mixture_averages_probabilities() -> None:
    """Two teachers mix as probabilities, weights scaled to one, not as logits."""
    first, second = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.2, 0.8]]).log()
    mixed = mixture_log_probs([first, second], [3.0, 1.0]).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.725, 0.275]]))


def test_weights_must_match() -> None:
    """A weight a teacher, each positive: anything else is said."""
    with pytest.raises(ValueError, match="one positive weight a teacher, found 1 teachers and weights"):
        mixture_log_probs([torch.zeros(1, 2)], [1.0, 1.0])
    with pytest.raises(ValueError, match="positive"):
        mixture_log_probs([torch.zeros(1, 2)], [0.0])
