"""Distillation without the scores of all items: sampled targets of the teachers against the negatives of the step."""

import pytest
import torch
from torch import Tensor

from kdlib.losses import sampled
from kdlib.losses.sampled import sampled_softmax_and_sampled_kl
from kdlib.losses.scored import Scored
from kdlib.losses.sparse import Draws, cross_entropy_and_sampled_kl

POSITIONS, ITEMS, WIDTH, SAMPLES = 23, 61, 12, 8
TARGETS = torch.arange(POSITIONS)


def _student(*, bias: bool = True, scale: float = 1.0) -> Scored:
    torch.manual_seed(1)
    tensors = [
        scale * torch.randn(POSITIONS, WIDTH),
        torch.randn(ITEMS, WIDTH),
        *([torch.randn(ITEMS)] if bias else []),
    ]
    return Scored(*(tensor.requires_grad_() for tensor in tensors))


def _draws(temperature: float = 1.0) -> Draws:
    torch.manual_seed(2)
    items = torch.randint(0, 9, (POSITIONS, SAMPLES), dtype=torch.int32).sort(1).values
    return Draws(items, -torch.rand(POSITIONS), 0.7, temperature)


def _gradients(loss: Tensor, student: Scored) -> list[Tensor]:
    return list(torch.autograd.grad(0.3 * loss, [tensor for tensor in student if tensor is not None]))


@pytest.mark.parametrize("gathered", [1, 5 * SAMPLES * WIDTH, 1 << 24])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_every_item_once_as_a_negative_gives_the_whole_loss(
    monkeypatch: pytest.MonkeyPatch, temperature: float, bias: bool, gathered: int
) -> None:
    """Loss parts and all gradients are those over all items. Targets may be sampled more than once, and parts may have any size."""
    monkeypatch.setattr(sampled, "GATHERED", gathered)
    student, draws = _student(bias=bias), _draws(temperature)
    ours = sampled_softmax_and_sampled_kl(student, TARGETS, torch.randperm(ITEMS), draws)
    whole = cross_entropy_and_sampled_kl(student, TARGETS, draws)
    for name in ("total", "ce", "kl", "correct"):
        torch.testing.assert_close(getattr(ours, name).float(), getattr(whole, name).float(), rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(_gradients(ours.total, student), _gradients(whole.total, student), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_weights_of_the_positions() -> None:
    """A position's weight scales both terms: with every item once as a negative, the loss is the weighted one of all items."""
    student, draws = _student(), _draws(2.5)
    weights = torch.tensor([0.3, 0.0, 0.9, 3.0]).repeat(POSITIONS)[:POSITIONS]
    ours = sampled_softmax_and_sampled_kl(student, TARGETS, torch.randperm(ITEMS), draws, weights_T=weights)
    whole = cross_entropy_and_sampled_kl(student, TARGETS, draws, weights_T=weights)
    for name in ("total", "ce", "kl", "correct"):
        torch.testing.assert_close(getattr(ours, name).float(), getattr(whole, name).float(), rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(_gradients(ours.total, student), _gradients(whole.total, student), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_draw_stands_against_the_other_negatives(weighted: bool) -> None:
    """The loss of a sampled target is log p + log(e^s + Σ of e^n / expected count over the other negatives) − s."""
    student, draws = _student(), _draws(2.0)
    negatives = torch.tensor([40, 41, 3, 41, 3, 3, 60])
    weights = torch.arange(1.0, ITEMS + 1) if weighted else None
    chances = torch.full((ITEMS,), 1 / ITEMS) if weights is None else weights / weights.sum()
    logits_TV = student.logits().detach() / 2
    want = 0.0
    for row, items in zip(logits_TV, draws.items_TS.tolist(), strict=True):
        for item in items:
            others = sum(row[n].exp() / (len(negatives) * chances[n]) for n in negatives.tolist() if n != item)
            want += 4 * ((row[item].exp() + others).log() - row[item]).item() / SAMPLES
    want += 4 * draws.mean_log_probs_T.sum().item()
    found = sampled_softmax_and_sampled_kl(student, TARGETS, negatives, draws, item_weights_V=weights)
    assert found.kl.item() == pytest.approx(want, rel=1e-4)
    assert found.total.item() == pytest.approx((found.ce + 0.7 * found.kl).item(), rel=1e-6)


def test_only_the_rows_that_are_scored_get_a_gradient() -> None:
    """Only the rows of targets, negatives and sampled targets get a gradient."""
    student, negatives, draws = _student(), torch.tensor([40, 41, 3, 41]), _draws()
    _, weight_gradient, bias_gradient = _gradients(
        sampled_softmax_and_sampled_kl(student, TARGETS, negatives, draws).total, student
    )
    touched = torch.zeros(ITEMS, dtype=torch.bool)
    touched[torch.cat([TARGETS, negatives, draws.items_TS.long().flatten()])] = True
    assert (weight_gradient[~touched] == 0).all()
    assert (bias_gradient[~touched] == 0).all()
    assert (weight_gradient[touched].abs().sum(1) > 0).all()


@pytest.mark.parametrize("negatives", [[5], [5, 5, 5], [60]])
def test_large_scores_stay_finite(negatives: list[int]) -> None:
    """Values and gradients are finite if sampled targets outscore every negative, or if all negatives are the target."""
    student = _student(scale=60.0)
    draws = _draws()._replace(items_TS=torch.full((POSITIONS, SAMPLES), 5))
    loss = sampled_softmax_and_sampled_kl(student, TARGETS, torch.tensor(negatives), draws)
    assert loss.total.isfinite()
    assert all(gradient.isfinite().all() for gradient in _gradients(loss.total, student))


def test_a_draw_that_is_never_a_negative_stands_against_them_all() -> None:
    """A target of weight 0 is never a negative. Its loss is finite and that of a target with a tiny weight."""
    losses = []
    for least in (0.0, 1e-30):
        student, weights = _student(), torch.ones(ITEMS)
        weights[:9] = least
        loss = sampled_softmax_and_sampled_kl(
            student, TARGETS + 9, torch.tensor([40, 41, 13, 41]), _draws(2.0), item_weights_V=weights
        )
        losses += [torch.stack([loss.kl, *(part.abs().sum() for part in _gradients(loss.total, student))])]
    assert losses[0].isfinite().all()
    torch.testing.assert_close(*losses)


def test_no_positions_cost_nothing() -> None:
    """A batch without real positions has loss and gradient 0."""
    student = Scored(torch.zeros(0, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True))
    none = Draws(torch.zeros(0, SAMPLES, dtype=torch.int32), torch.zeros(0), 1.0, 1.0)
    loss = sampled_softmax_and_sampled_kl(student, TARGETS[:0], torch.tensor([1, 2]), none)
    assert loss.total.item() == 0
    assert all((gradient == 0).all() for gradient in _gradients(loss.total, student))
