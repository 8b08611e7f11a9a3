"""Laws that every distillation loss keeps."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kdlib.losses.distillation import (
    SMALLEST_LOG_PROBABILITY,
    hidden_cosine,
    jensen_shannon,
    kl_divergence,
    mixture_log_probs,
    reverse_kl_divergence,
    sample_teacher,
    sampled_kl_divergence,
    tail_bucket_kl,
)
from kdlib.losses.rank_distillation import rce_kd, rrd_listwise, sample_closure

Loss = Callable[..., Tensor]


def _sampled(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    return sampled_kl_divergence(
        student,
        *sample_teacher(teacher, num_samples=20, generator=torch.Generator().manual_seed(3)),
        temperature=temperature,
    )


def _rce_kd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    sizes = {"top_items": 2, "pool_items": 3, "num_samples": 1}
    closure = sample_closure(student, teacher, generator=torch.Generator().manual_seed(3), **sizes)
    return rce_kd(student, teacher, closure, top_items=2, temperature=temperature)


DIVERGENCES: dict[str, Loss] = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jensen_shannon": jensen_shannon,
    "jensen_shannon_09": partial(jensen_shannon, beta=0.9),
    "tail_bucket_kl": partial(tail_bucket_kl, top_items=2),
    "rce_kd": _rce_kd,
}
"""≥ 0 and 0 at equality."""
LOSSES: dict[str, Loss] = DIVERGENCES | {
    "sampled_kl": _sampled,
    "rrd_listwise": lambda student, teacher, temperature=1.0: rrd_listwise(student, teacher, top_items=2),
}


def test_a_mixture_of_half_precision_logits_is_in_float32() -> None:
    """Over thousands of items bfloat16 would lose a hundredth of the mass; a student that equals it has no divergence."""
    logits = (3 * torch.randn(4, 5000)).bfloat16()
    mixture = mixture_log_probs([logits], [1.0], temperature=2.0)
    assert mixture.dtype == torch.float32
    assert kl_divergence(logits, mixture, temperature=2.0).abs().max() < 1e-5


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"rce_kd"}))
def test_a_catalogue_of_one_item_costs_nothing(name: str) -> None:
    """Whatever student and teacher give the only item."""
    assert LOSSES[name](torch.randn(3, 1), torch.zeros(3, 1)).abs().max() < 1e-6


def _pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Student logits and teacher log-probabilities, far apart."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype), torch.log_softmax(teacher, -1).to(dtype)


QUARTERS = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
UNIFORM = torch.zeros(1, 2, dtype=torch.float64)
FORWARD, BACKWARD = (
    0.75 * math.log(1.5) + 0.25 * math.log(0.5),
    0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25),
)
MIDDLE = (0.625, 0.375)
JENSEN = 0.5 * sum(p * math.log(p / m) for p, m in zip((0.75, 0.25), MIDDLE, strict=True)) + 0.5 * sum(
    0.5 * math.log(0.5 / m) for m in MIDDLE
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("kl", FORWARD), ("reverse_kl", BACKWARD), ("jensen_shannon", JENSEN), ("rrd_listwise", math.log(2))],
)
def test_hand_value(name: str, expected: float) -> None:
    """A teacher of (3/4, 1/4) and a uniform student give the value worked out by hand."""
    assert LOSSES[name](UNIFORM, QUARTERS).item() == pytest.approx(expected, rel=1e-12)


def test_hand_value_of_the_tail_bucket() -> None:
    """With one item kept of (1/2, 1/4, 1/4) and a student of (1/4, 1/2, 1/4), it is the KL of (1/2, 1/2) from (1/4, 3/4)."""
    teacher = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    student = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log() + 3.0
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert tail_bucket_kl(student, teacher, top_items=1).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", [*DIVERGENCES, "sampled_kl"])
def test_zero_at_equality(name: str, temperature: float) -> None:
    """The divergence of a distribution from itself is 0 at every temperature."""
    logits, _ = _pair(5, 30)
    teacher = mixture_log_probs([logits], [1.0], temperature=temperature)
    assert LOSSES[name](logits, teacher, temperature=temperature).abs().max() < 1e-12


@pytest.mark.parametrize("name", DIVERGENCES)
def test_positive_elsewhere(name: str) -> None:
    """Different distributions have a divergence above 0."""
    assert DIVERGENCES[name](*_pair(50, 6)).min() > 1e-4


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon", "tail_bucket_kl"])
def test_temperature_squared_keeps_the_gradient(name: str) -> None:
    """At high temperature the gradient no longer depends on T; the full KLs' tends to the centred logits' difference over V."""
    loss = LOSSES[name] if name != "tail_bucket_kl" else partial(tail_bucket_kl, top_items=12)
    student, teacher = _pair(40)

    def gradient(temperature: float) -> Tensor:
        own = student.clone().requires_grad_()
        value = loss(own, torch.log_softmax(teacher / temperature, -1), temperature=temperature)
        return torch.autograd.grad(value, own)[0]

    torch.testing.assert_close(gradient(1e3), gradient(1e4), rtol=1e-2, atol=1e-4)
    if name in ("kl", "reverse_kl"):
        expected = ((student - student.mean()) - (teacher - teacher.mean())) / 40
        torch.testing.assert_close(gradient(1e4), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_the_student_only(name: str) -> None:
    """Logits of the teacher get no gradient, those of the student do."""
    teacher = torch.randn(3, 7, requires_grad=True)
    student = torch.randn(3, 7, requires_grad=True)
    LOSSES[name](student, torch.log_softmax(teacher, -1)).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_value(name: str) -> None:
    """Autograd agrees with finite differences; what is sorted or drawn from the logits is constant."""
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
    """Each row is a problem of its own: some rows of a batch cost what they cost alone, whatever the leading axes."""
    student, teacher = _pair(6, 8)
    if name in ("sampled_kl", "rce_kd"):  # one draw for both
        items, logs = sample_teacher(teacher, num_samples=4)
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
    """bfloat16 logits are computed in float32: the loss differs by the rounding of the input alone."""
    student, teacher = (values.bfloat16() for values in _pair(20, 50))
    value = LOSSES[name](student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, LOSSES[name](student.float(), teacher.float()), rtol=1e-5, atol=1e-5)


def test_tail_bucket_is_a_lower_bound_that_rises_to_the_full_kl() -> None:
    """Splitting items out of the bucket never lowers the divergence, and with all of them out it is the full KL."""
    student, teacher = _pair(40, 25)
    sizes = [1, 2, 5, 10, 20, 24, 1000]
    values = torch.stack([tail_bucket_kl(student, teacher, top_items=k, temperature=2.0) for k in sizes])
    full = kl_divergence(student, teacher, temperature=2.0)
    assert (values.diff(dim=0) > -1e-12).all()
    assert (values[0] < full - 1e-3).all()
    torch.testing.assert_close(values[-2], full)
    torch.testing.assert_close(values[-1], full)


def test_jensen_shannon_is_bounded_and_symmetric() -> None:
    """Disjoint distributions are ln 2 apart, and student and teacher may change places at β = 1/2."""
    apart = jensen_shannon(torch.tensor([0.0, -1e4]), torch.tensor([-torch.inf, 0.0]))
    assert apart.item() == pytest.approx(math.log(2), rel=1e-6)
    student, teacher = _pair(9, 12)
    swapped = jensen_shannon(teacher, torch.log_softmax(student, -1))
    torch.testing.assert_close(jensen_shannon(student, teacher), swapped)
    with pytest.raises(ValueError, match=r"0 < beta < 1.*found 1"):
        jensen_shannon(student, teacher, beta=1)


def test_jensen_shannon_tends_to_both_kls() -> None:
    """Divided by β it tends to the forward KL for β → 0, divided by 1 − β to the reverse KL for β → 1."""
    student, teacher = _pair(9, 12)
    near_zero, near_one = (jensen_shannon(student, teacher, beta=b) for b in (1e-6, 1 - 1e-6))
    torch.testing.assert_close(near_zero / 1e-6, kl_divergence(student, teacher), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(near_one / 1e-6, reverse_kl_divergence(student, teacher), rtol=1e-2, atol=1e-3)


def test_reverse_kl_cuts_what_the_teacher_rules_out() -> None:
    """Student mass on an item that the teacher rules out costs the smallest log-probability, not infinity."""
    value = reverse_kl_divergence(torch.zeros(2), torch.tensor([0.0, -torch.inf]))
    assert value.item() == pytest.approx(math.log(0.5) - 0.5 * SMALLEST_LOG_PROBABILITY, rel=1e-6)


def test_sampled_targets_have_the_full_gradient_on_average() -> None:
    """Over 20,000 draws the mean gradient is the full KL's, within five standard errors of an item's frequency."""
    student, teacher = _pair(12)
    draws, samples = 20_000, 8
    own = student.repeat(draws, 1).requires_grad_()
    items, logs = sample_teacher(
        teacher.repeat(draws, 1), num_samples=samples, generator=torch.Generator().manual_seed(0)
    )
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


def test_rrd_is_the_plackett_luce_likelihood() -> None:
    """With all items interesting it is −log P(order) per item, whose probabilities over all orders sum to 1."""
    import itertools

    student = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
    orders = list(itertools.permutations(range(4)))
    teachers = torch.stack([-torch.tensor(order).argsort().double() for order in orders])
    likelihood = torch.exp(-3 * rrd_listwise(student.expand(len(orders), 4), teachers, top_items=3))
    assert likelihood.sum().item() == pytest.approx(1.0, rel=1e-12)
    best = likelihood.argmax()
    assert orders[int(best)] == (2, 3, 0, 1)


def test_rrd_ignores_the_order_of_uninteresting_items() -> None:
    """Only the order of the teacher's K best items counts; the others pull the interesting ones up together."""
    student, teacher = _pair(7)
    order = teacher.argsort(descending=True)
    shuffled = teacher.clone()
    shuffled[order[3:]] = teacher[order[3:]].flip(0)
    assert torch.equal(rrd_listwise(student, teacher, top_items=3), rrd_listwise(student, shuffled, top_items=3))
    assert not torch.equal(rrd_listwise(student, teacher, top_items=4), rrd_listwise(student, shuffled, top_items=4))


def test_rce_hand_value() -> None:
    """One common best item of two: γ = e^(−1/2), the KL on the student's best, and that on the rest with the sample."""
    student = torch.tensor([4.0, 3.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    teacher = torch.log_softmax(torch.tensor([4.0, 0.0, 3.0, 1.0, 0.5], dtype=torch.float64), 0)

    def on(items: list[int]) -> float:
        return kl_divergence(student[items], torch.log_softmax(teacher[items], 0)).item()

    gamma = math.exp(-0.5)
    expected = (1 - gamma) * on([0, 1]) + gamma * on([2, 4])
    assert rce_kd(student, teacher, torch.tensor([4]), top_items=2).item() == pytest.approx(expected, rel=1e-12)
    assert rce_kd(student, teacher, torch.tensor([4]), top_items=2, decay=0.0).item() == pytest.approx(on([2, 4]))


def test_closure_is_drawn_from_what_stands_above_the_rest() -> None:
    """Items that the student ranks above the teacher's missed items are drawn in proportion to how many stand below."""
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
    """No kept item at all is an error that says so."""
    with pytest.raises(ValueError, match="top_items must be at least 1, found 0"):
        tail_bucket_kl(*_pair(3, 4), top_items=0)


def test_hidden_cosine() -> None:
    """Same direction 0, right angle 1, opposite 2, whatever the lengths; a zero state is finite and the teacher is left alone."""
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
