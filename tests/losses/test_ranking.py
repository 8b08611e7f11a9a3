"""Laws of the losses on the data: hand values, sampled forms against the full one, hits, extreme logits."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.losses.ranking import binary_cross_entropy, cross_entropy, log_expected_counts, sampled_softmax

ITEMS = 30
SAMPLED: dict[str, Callable[..., Tensor]] = {
    "sampled_softmax": partial(sampled_softmax, log_expected_counts=torch.tensor(0.3)),
    "binary_cross_entropy": binary_cross_entropy,
}


def _logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hand_values() -> None:
    """Two equal items cost ln 2 in the softmaxes. In the binary loss each answer at logit 0 costs ln 2."""
    two, zero, one_zero = torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 1)
    assert cross_entropy(two, torch.tensor([1])).item() == pytest.approx(math.log(2))
    counts = torch.tensor([0.0])
    assert sampled_softmax(zero, one_zero, log_expected_counts=counts).item() == pytest.approx(math.log(2))
    assert sampled_softmax(zero, one_zero, log_expected_counts=-counts - math.log(4)).item() == pytest.approx(
        math.log(5)
    )
    assert binary_cross_entropy(zero, torch.zeros(1, 3)).item() == pytest.approx(4 * math.log(2))


def test_cross_entropy_is_pytorchs() -> None:
    """Value and gradient are those of `torch.nn.functional.cross_entropy`."""
    logits, targets = _logits(5, ITEMS).requires_grad_(), torch.arange(5)
    ours, theirs = cross_entropy(logits, targets), F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits)[0] for value in (ours, theirs)))


def test_sampled_softmax_with_every_item_is_the_cross_entropy() -> None:
    """With every item once as a negative and the positive left out, value and gradient are those of the full loss."""
    logits, targets = _logits(6, ITEMS).requires_grad_(), torch.arange(6)
    hits = torch.arange(ITEMS) == targets[:, None]
    positive = logits.gather(1, targets[:, None])[:, 0]
    sampled = sampled_softmax(positive, logits, log_expected_counts=torch.zeros(ITEMS), hits=hits)
    full = cross_entropy(logits, targets)
    torch.testing.assert_close(sampled, full)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), logits)[0] for value in (sampled, full)))


@pytest.mark.parametrize("popularity", [False, True])
def test_the_correction_makes_the_gradient_right_whatever_the_draw(popularity: bool) -> None:
    """Many negatives, uniform or by popularity, give the full gradient. Without the correction they do not."""
    logits = _logits(1, ITEMS)
    target = logits.argmax(1)
    weights = torch.arange(1.0, ITEMS + 1) ** 2 if popularity else None
    drawn = torch.multinomial(
        torch.ones(ITEMS) if weights is None else weights,
        400_000,
        replacement=True,
        generator=torch.Generator().manual_seed(0),
    )
    counts = log_expected_counts(weights, drawn, num_items=ITEMS)

    def gradient(counts: Tensor, *, correct_positive: bool = False) -> Tensor:
        own = logits.clone().requires_grad_()
        positive = own[:, target[0]] - (counts[drawn == target][0] if correct_positive else 0.0)
        value = sampled_softmax(positive, own[:, drawn], log_expected_counts=counts, hits=(drawn == target)[None])
        return torch.autograd.grad(value.sum(), own)[0]

    own = logits.clone().requires_grad_()
    (full,) = torch.autograd.grad(cross_entropy(own, target).sum(), own)
    # the estimate of Σ exp(s) has a relative error of about sqrt(Σ exp(2 s) / (N q)) / Σ exp(s) < 0.5 %
    assert (gradient(counts) - full).abs().max() < 0.02
    if popularity:
        assert (gradient(torch.full_like(counts, math.log(400_000 / ITEMS))) - full).abs().max() > 0.05
    assert (gradient(counts, correct_positive=True) - full).abs().max() > 0.05


def test_sampled_softmax_has_the_gradient_of_the_weighted_form() -> None:
    """The gradient is that of the loss over negatives alone, with weight 1 − P(positive)."""
    positive, negative = _logits(5).requires_grad_(), _logits(5, 9, seed=1).requires_grad_()
    counts = _logits(9, seed=2)
    plain = sampled_softmax(positive, negative, log_expected_counts=counts)
    corrected = negative - counts
    probability = torch.exp(-plain.detach())
    weighted = (1 - probability) * (corrected.logsumexp(-1) - positive)
    ours, theirs = (torch.autograd.grad(value.sum(), [positive, negative]) for value in (plain, weighted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_expected_counts() -> None:
    """Expected counts of negatives that are sampled with replacement are N · q, uniform or by weight."""
    drawn = torch.tensor([0, 2, 2])
    torch.testing.assert_close(log_expected_counts(None, drawn, num_items=6).exp(), torch.full((3,), 0.5))
    weights = torch.tensor([1.0, 4.0, 5.0])
    torch.testing.assert_close(log_expected_counts(weights, drawn, num_items=3).exp(), torch.tensor([0.3, 1.5, 1.5]))


@pytest.mark.parametrize("name", SAMPLED)
def test_a_hit_is_a_negative_less(name: str) -> None:
    """A negative that is the positive adds no loss and gets no gradient. If all are, the sampled softmax is 0."""
    positive, negative = _logits(3), _logits(3, 5, seed=1).requires_grad_()
    hits = torch.tensor([[False, True, False, False, False]] * 3)
    value = SAMPLED[name](positive, negative, hits=hits)
    (gradient,) = torch.autograd.grad(value.sum(), negative)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, [0, 2, 3, 4]] > 0).all()
    rest = SAMPLED[name](positive, negative[:, [0, 2, 3, 4]])
    torch.testing.assert_close(value, rest)
    if name == "sampled_softmax":
        nothing = SAMPLED[name](positive.requires_grad_(), negative, hits=torch.ones_like(hits))
        assert (nothing == 0).all()
        assert (torch.autograd.grad(nothing.sum(), positive)[0] == 0).all()


@pytest.mark.parametrize("name", SAMPLED)
def test_extreme_logits_stay_finite_and_half_precision_is_float32(name: str) -> None:
    """Logits of ±10⁴ give finite loss and gradient. bfloat16 logits are computed in float32."""
    positive = torch.tensor([1e4, -1e4, -1e4], requires_grad=True)
    negative = torch.tensor([[-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4]], requires_grad=True)
    value = SAMPLED[name](positive, negative)
    assert torch.isfinite(value).all()
    assert all(torch.isfinite(part).all() for part in torch.autograd.grad(value.sum(), [positive, negative]))
    low = SAMPLED[name](_logits(9).bfloat16(), _logits(9, 20, seed=1).bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(
        low, SAMPLED[name](_logits(9).float(), _logits(9, 20, seed=1).float()), rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize("name", SAMPLED)
def test_rows_are_independent(name: str) -> None:
    """Some rows of a batch have the loss that they have alone."""
    positive, negative = _logits(6), _logits(6, 4, seed=1)
    whole = SAMPLED[name](positive, negative)
    torch.testing.assert_close(SAMPLED[name](positive[[5, 0]], negative[[5, 0]]), whole[[5, 0]])
    torch.testing.assert_close(SAMPLED[name](positive.view(2, 3), negative.view(2, 3, 4)), whole.view(2, 3))
