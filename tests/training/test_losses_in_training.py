"""The losses as training uses them: chunked against whole logits, sampled against full, and what the export leaves out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.runtime.students import student_run
from kdlib.config.models import StudentConfig, TrainConfig
from kdlib.config.run import RunConfig
from kdlib.data.batches import Batch, WindowStore, batch_of
from kdlib.losses import next_item
from kdlib.losses.chunked import Divergence, chunked
from kdlib.losses.dispatch import cross_entropy_and_kl
from kdlib.losses.distillation import kl_divergence, pooled_log_probs, relative_entropy
from kdlib.losses.ranking import cross_entropy, log_expected_counts, sampled_softmax
from kdlib.losses.sampled import draw_negatives, sampled_divergence, sampled_ranking
from kdlib.losses.scored import LossSums, Scored, Teachers, pool
from kdlib.models.sequence import SequenceModel
from kdlib.training.module import CachedTeachers, NextItemTraining, Ranking
from kdlib.training.student_setup import item_counts, ranking_of

POSITIONS, ITEMS, WIDTH, TEMPERATURE = 23, 61, 12, 1.7


def _reverse_kl(student_logits: Tensor, teacher_log_probs: Tensor, *, temperature: float) -> Tensor:
    """A divergence that the library does not have: one function is all that a new one needs."""
    student_log_probs = torch.log_softmax(student_logits / temperature, -1)
    return temperature**2 * relative_entropy(student_log_probs, teacher_log_probs.detach())


DIVERGENCES: dict[str, Divergence] = {"kl": kl_divergence, "reverse_kl": _reverse_kl}
NAMES = list(DIVERGENCES)


def _student(*, bias: bool = True) -> Scored:
    torch.manual_seed(1)
    tensors = [torch.randn(POSITIONS, WIDTH), torch.randn(ITEMS, WIDTH), *([torch.randn(ITEMS)] if bias else [])]
    return Scored(*(tensor.requires_grad_() for tensor in tensors))


def _teachers(number: int = 2) -> Teachers:
    torch.manual_seed(2)
    scored = [Scored(torch.randn(POSITIONS, 5 + n), torch.randn(ITEMS, 5 + n)) for n in range(number)]
    return Teachers(pool(scored, [1.0, 2.5][:number]), 0.7, TEMPERATURE)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors this small are faster with one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TARGETS = torch.cat([_student().logits().argmax(1)[:9], torch.arange(9, POSITIONS)])
"""Some of them are the best item, so that some predictions are correct."""
WEIGHTS = torch.tensor([0.3, 0.0, 0.9, 3.0]).repeat(POSITIONS)[:POSITIONS]
"""Weights of a purchase objective, one of them 0."""


def _gradients(loss: Tensor, student: Scored) -> list[Tensor]:
    return list(torch.autograd.grad(0.3 * loss, [tensor for tensor in student if tensor is not None]))


def _assert_same(ours: LossSums, theirs: LossSums, student: Scored, *, names: tuple[str, ...]) -> None:
    for name in names:
        torch.testing.assert_close(getattr(ours, name).float(), getattr(theirs, name).float(), rtol=1e-5, atol=1e-4)
    for one, other in zip(_gradients(ours.total, student), _gradients(theirs.total, student), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_ce", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_chunked_is_the_loss_of_whole_logits(monkeypatch: pytest.MonkeyPatch, name: str, with_ce: bool) -> None:
    """Any divergence in chunks equals the plain function on whole logits, with the cross-entropy or without."""
    monkeypatch.setattr(next_item, "LEAST_POSITIONS", 1)
    monkeypatch.setitem(next_item.CHUNK_BYTES, "cpu", 4 * 4 * ITEMS)
    student, teachers, divergence = _student(), _teachers(), DIVERGENCES[name]
    ours = chunked(student, TARGETS, teachers, divergence=divergence, cross_entropy=with_ce)
    logits = student.logits()
    teacher = pooled_log_probs([teachers.scored.logits()], [1.0], temperature=TEMPERATURE)
    apart = divergence(logits, teacher, temperature=TEMPERATURE).sum()
    ce = cross_entropy(logits, TARGETS).sum() * with_ce
    correct = (logits.argmax(1) == TARGETS).sum()
    theirs = LossSums(ce + teachers.kl_weight * apart, ce, apart, correct)
    _assert_same(ours, theirs, student, names=("total", "ce", "kl", "correct"))


@pytest.mark.parametrize("name", NAMES)
def test_chunked_in_bfloat16_is_near(name: str) -> None:
    """Matrix products in bfloat16 change the loss by their rounding. The gradient keeps its direction."""
    student, teachers, divergence = _student(), _teachers(), DIVERGENCES[name]
    exact = chunked(student, TARGETS, teachers, divergence=divergence)
    low = chunked(student, TARGETS, teachers, divergence=divergence, dtype=torch.bfloat16)
    assert low.total.item() == pytest.approx(exact.total.item(), rel=2e-2)
    for one, other in zip(_gradients(exact.total, student), _gradients(low.total, student), strict=True):
        assert one.dtype == other.dtype
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


def test_chunked_without_positions_is_zero() -> None:
    """A batch without real positions has loss and gradient 0."""
    student = Scored(torch.zeros(0, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True))
    teachers = Teachers(Scored(torch.zeros(0, 5), torch.randn(ITEMS, 5)), 1.0, 1.0)
    loss = chunked(student, TARGETS[:0], teachers, divergence=kl_divergence)
    assert loss.total.item() == 0
    assert all((gradient == 0).all() for gradient in _gradients(loss.total, student))


@pytest.mark.parametrize("bias", [False, True])
def test_sampled_softmax_over_all_items_is_the_cross_entropy(bias: bool) -> None:
    """With every item once as a negative, value and gradients are those of the full cross-entropy."""
    student = _student(bias=bias)
    ours = sampled_ranking(student, TARGETS, torch.arange(ITEMS))
    _assert_same(ours, cross_entropy_and_kl(student, TARGETS), student, names=("total", "ce", "kl", "correct"))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_divergence_over_every_item_once_is_the_whole_one(name: str, bias: bool) -> None:
    """With every item once among the sampled ones, value and gradients are those over the catalogue."""
    student, teachers, divergence = _student(bias=bias), _teachers(), DIVERGENCES[name]
    order_V = torch.randperm(ITEMS)
    ours = sampled_divergence(student, order_V, teachers, divergence=divergence, weights_T=WEIGHTS)
    whole = chunked(student, TARGETS, teachers, divergence=divergence, cross_entropy=False, weights_T=WEIGHTS)
    torch.testing.assert_close(ours, whole.kl, rtol=1e-4, atol=1e-4)
    theirs = _gradients(whole.total / teachers.kl_weight, student)
    for one, other in zip(_gradients(ours, student), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_sampled_divergence_comes_near_the_whole_one() -> None:
    """Items that are sampled by popularity are divided by their expected counts: many of them give the KL of the catalogue."""
    student, teachers = _student(), _teachers()
    weights_V = torch.linspace(0.1, 1, ITEMS) ** 2
    negatives_N = draw_negatives(200_000, num_items=ITEMS, item_weights_V=weights_V)
    ours = sampled_divergence(student, negatives_N, teachers, divergence=kl_divergence, item_weights_V=weights_V)
    whole = cross_entropy_and_kl(student, TARGETS, teachers).kl
    assert ours.item() == pytest.approx(whole.item(), rel=0.02)
    uncorrected = sampled_divergence(student, negatives_N, teachers, divergence=kl_divergence)
    assert uncorrected.item() != pytest.approx(whole.item(), rel=0.02)


@pytest.mark.parametrize("with_ce", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_weights_scale_any_divergence(name: str, with_ce: bool) -> None:
    """A position's weight scales the divergence, the cross-entropy beside it, and its part of all gradients."""
    student, teachers, divergence = _student(), _teachers(), DIVERGENCES[name]
    ours = chunked(student, TARGETS, teachers, divergence=divergence, cross_entropy=with_ce, weights_T=WEIGHTS)
    logits = student.logits()
    teacher = pooled_log_probs([teachers.scored.logits()], [1.0], temperature=TEMPERATURE)
    apart = (WEIGHTS * divergence(logits, teacher, temperature=TEMPERATURE)).sum()
    ce = (WEIGHTS * cross_entropy(logits, TARGETS)).sum() * with_ce
    correct = (logits.argmax(1) == TARGETS).sum()
    theirs = LossSums(ce + teachers.kl_weight * apart, ce, apart, correct)
    _assert_same(ours, theirs, student, names=("total", "ce", "kl", "correct"))


def _in_whole_logits(
    student: Scored, negatives_N: Tensor, teachers: Teachers | None, item_weights_V: Tensor | None, weights_T: Tensor
) -> LossSums:
    """What `sampled_ranking` computes, from plain functions."""
    counts_N = log_expected_counts(item_weights_V, negatives_N, num_items=ITEMS)
    z_TV = student.logits()
    positive_T, z_TN = z_TV.gather(1, TARGETS[:, None])[:, 0], z_TV[:, negatives_N]
    hits_TN = negatives_N == TARGETS[:, None]
    ce_T = sampled_softmax(positive_T, z_TN, log_expected_counts=counts_N, hits=hits_TN)
    kl_T, kl_weight = torch.zeros_like(ce_T), 0.0
    if teachers is not None:
        kl_weight = teachers.kl_weight
        y_TN = teachers.scored.logits()[:, negatives_N] / TEMPERATURE - counts_N
        kl_T = kl_divergence(z_TN - counts_N * TEMPERATURE, torch.log_softmax(y_TN, 1), temperature=TEMPERATURE)
    correct = ((positive_T[:, None] >= z_TN) | hits_TN).all(1).sum()
    ce, kl = (weights_T * ce_T).sum(), (weights_T * kl_T).sum()
    return LossSums(ce + kl_weight * kl, ce, kl, correct)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("by_weight", [False, True])
def test_sampled_ranking_is_the_loss_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch, bias: bool, taught: bool, by_weight: bool
) -> None:
    """In chunks, with repeated negatives and with targets among them, value and gradients are those of plain functions."""
    monkeypatch.setattr(next_item, "LEAST_POSITIONS", 4)
    monkeypatch.setitem(next_item.CHUNK_BYTES, "cpu", 1)
    student, teachers = _student(bias=bias), _teachers() if taught else None
    negatives_N = torch.tensor([40, 3, 12, 41, 3, 3, 60, 13])
    item_weights_V = torch.linspace(0.1, 1, ITEMS) if by_weight else None
    ours = sampled_ranking(student, TARGETS, negatives_N, teachers, item_weights_V=item_weights_V, weights_T=WEIGHTS)
    theirs = _in_whole_logits(student, negatives_N, teachers, item_weights_V, WEIGHTS)
    assert 0 < ours.correct < POSITIONS
    _assert_same(ours, theirs, student, names=("total", "ce", "kl", "correct"))


def test_sampled_ranking_in_bfloat16_is_near() -> None:
    """bfloat16 logits change the loss by their rounding. The gradient keeps its direction and its dtype."""
    student, teachers, negatives_N = _student(), _teachers(), torch.arange(0, ITEMS, 3)
    exact = sampled_ranking(student, TARGETS, negatives_N, teachers)
    low = sampled_ranking(student, TARGETS, negatives_N, teachers, dtype=torch.bfloat16)
    assert low.ce.item() == pytest.approx(exact.ce.item(), rel=2e-2)
    assert low.kl.item() == pytest.approx(exact.kl.item(), rel=2e-2)
    for one, other in zip(_gradients(exact.total, student), _gradients(low.total, student), strict=True):
        assert one.dtype == other.dtype
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampled_ranking_stays_finite(dtype: torch.dtype) -> None:
    """Loss and gradients are finite with scores of thousands. A position whose negatives are all its target costs nothing."""
    student, negatives_N = _student(), torch.tensor([int(TARGETS[0])] * 3)
    student = student._replace(hidden_TW=(student.hidden_TW * 1000).detach().requires_grad_())
    loss = sampled_ranking(student, TARGETS, negatives_N, _teachers(), dtype=dtype)
    assert loss.total.isfinite()
    assert all(gradient.isfinite().all() for gradient in _gradients(loss.total, student))
    first = Scored(student.hidden_TW[:1], *student[1:])
    alone = sampled_ranking(first, TARGETS[:1], negatives_N, dtype=dtype)
    assert alone.total.item() == 0
    assert alone.correct.item() == 1
    assert all((gradient == 0).all() for gradient in _gradients(alone.total, student))


def test_weights_scale_the_sampled_softmax() -> None:
    """With every item once as a negative, the weighted loss is the weighted cross-entropy."""
    student = _student()
    ours = sampled_ranking(student, TARGETS, torch.arange(ITEMS), weights_T=WEIGHTS)
    theirs = cross_entropy_and_kl(student, TARGETS, weights_T=WEIGHTS)
    _assert_same(ours, theirs, student, names=("total", "ce", "kl", "correct"))


def test_only_the_sampled_rows_get_a_gradient() -> None:
    """Rows of the matrix that are neither a target nor a negative get no gradient."""
    student, negatives = _student(), torch.tensor([40, 41, 3, 41])
    result = sampled_ranking(student, TARGETS, negatives)
    _, weight_gradient, bias_gradient = _gradients(result.total, student)
    touched = torch.zeros(ITEMS, dtype=torch.bool)
    touched[torch.cat([TARGETS, negatives])] = True
    assert (weight_gradient[~touched] == 0).all()
    assert (weight_gradient[touched].abs().sum(1) > 0).all()
    assert (bias_gradient[touched] != 0).all()


def test_negatives_follow_their_weights() -> None:
    """Items are sampled evenly or in proportion to their weights, within five standard errors."""
    torch.manual_seed(0)
    for weights in (None, torch.tensor([1.0, 2.0, 0.0, 5.0])):
        drawn = draw_negatives(20_000, num_items=4, item_weights_V=weights)
        expected = torch.full((4,), 0.25) if weights is None else weights / weights.sum()
        frequency = torch.bincount(drawn, minlength=4) / 20_000
        assert ((frequency - expected).abs() <= 5 * (expected * (1 - expected) / 20_000).sqrt()).all()


def test_negatives_come_from_the_tail_too() -> None:
    """Items of one interaction are sampled in proportion, even after more interactions than float32 can count."""
    weights_V = torch.ones(30_000)
    weights_V[:10_000] = 1e4  # 10⁸ interactions: past 2²⁴, one more is lost
    torch.manual_seed(0)
    tail = (draw_negatives(5_000_000, num_items=30_000, item_weights_V=weights_V) >= 10_000).sum()
    assert 850 < tail < 1_150


def test_the_run_config_reaches_the_training(tmp_path: Path) -> None:
    """The config's settings of the loss reach the worker. The control without teachers matches no hidden states."""
    config = RunConfig.model_validate(
        {
            "name": "tests",
            "ds": "2024-05-01",
            "output_dir": str(tmp_path),
            "input": {"simulate": {}},
            "distillation": {"hidden_weight": 0.5},
            "student": {"train": {"loss": "sampled_softmax", "negatives": 33}},
        }
    )
    taught, control = (
        student_run(config, "x", tmp_path, seed=1, statistics=tmp_path, taught=taught) for taught in (True, False)
    )
    assert (taught.hidden_weight, control.hidden_weight) == (0.5, 0.0)
    for run in (taught, control):
        assert ranking_of(run.train, np.ones(3), torch.device("cpu")) == Ranking(33, None)
    plain = student_run(
        config.model_copy(update={"student": StudentConfig()}), "x", tmp_path, seed=1, statistics=tmp_path, taught=True
    )
    assert ranking_of(plain.train, np.ones(3), torch.device("cpu")) is None


def test_popularity_weights_are_training_counts_by_item_index(tmp_path: Path) -> None:
    """Negatives are sampled by training interactions. An item without any is still sampled, but rarely."""
    table = pa.table({"item_index": [2, 0, 1], "num_train": [5, 0, 3], "num_in_windows": [4, 0, 3]})
    pq.write_table(table, tmp_path / "part.parquet")
    train = TrainConfig(loss="sampled_softmax", negative_sampling="popularity")
    ranking = ranking_of(train, item_counts(str(tmp_path))[0], torch.device("cpu"))
    assert ranking is not None
    assert ranking.item_weights_V is not None
    assert ranking.item_weights_V.tolist() == [0.5, 3.0, 5.0]


def _cycle() -> Batch:
    """Windows over a catalogue of 40 items, in which each item is followed by the next number."""
    items = (np.arange(6)[None, :] + np.arange(40)[:, None]) % 40
    store = WindowStore(
        inputs=items[:, :-1].ravel().astype(np.int32),
        targets=items[:, 1:].ravel().astype(np.int32),
        context=np.zeros((200, 3), np.int8),
        offsets=np.arange(0, 201, 5),
    )
    return batch_of(store, np.arange(40))


def _model(dim: int = 16) -> SequenceModel:
    return SequenceModel(num_items=40, kind="gru", max_length=8, dim=dim)


def _cached(batch: Batch) -> tuple[CachedTeachers, Batch]:
    """A cached teacher of width 10 that knows the cycle, and the batch with its states."""
    torch.manual_seed(7)
    head = F.normalize(torch.randn(40, 10))
    states = head[batch.targets_T]
    scales = states.abs().amax(1) / 127
    cached = CachedTeachers([(8 * head, None)], [1.0])
    hidden = (states / scales[:, None]).round().to(torch.int8)
    return cached, Batch(batch.items_BL, batch.context_BLC, batch.positions_T, batch.targets_T, hidden, scales[:, None])


def _accuracy(module: NextItemTraining, batch: Batch) -> float:
    module.eval()
    matrix, _ = module.student.head()
    hidden = module.student(batch.items_BL, batch.context_BLC).flatten(0, 1)[batch.positions_T]
    return ((hidden @ matrix.T).argmax(1) == batch.targets_T).float().mean().item()


def _train(module: NextItemTraining, batch: Batch, *, steps: int = 60) -> list[float]:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.03, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = module(batch)
        optimizer.zero_grad()
        (loss.total / len(batch.targets_T)).backward()
        optimizer.step()
        losses.append(loss.total.item())
    return losses


@pytest.mark.parametrize("popularity", [False, True])
def test_a_student_learns_with_sampled_negatives(popularity: bool) -> None:
    """The sampled softmax teaches a cycle of 40 items from 10 negatives a step. Chance is 1/40."""
    torch.manual_seed(3)
    batch = _cycle()
    weights = torch.arange(10.0, 50.0) if popularity else None
    module = NextItemTraining(_model(), ranking=Ranking(10, weights))
    _train(module, batch, steps=100)
    assert _accuracy(module, batch) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_a_student_learns_from_the_teacher_alone(name: str) -> None:
    """With wrong targets and a large weight, any divergence teaches what the cached teacher knows."""
    torch.manual_seed(3)
    batch = _cycle()
    cached, batch = _cached(batch)
    wrong = Batch(**{**vars(batch), "targets_T": torch.zeros_like(batch.targets_T)})
    module = NextItemTraining(_model(), cached=cached, kl_weight=50.0, divergence=DIVERGENCES[name])
    _train(module, wrong)
    assert _accuracy(module, batch) > 0.9


@pytest.mark.parametrize("popularity", [False, True])
def test_a_student_learns_from_draws_against_negatives(popularity: bool) -> None:
    """With wrong targets, the sampled targets of the teachers teach the cycle. No step scores more than 14 items."""
    torch.manual_seed(3)
    batch = _cycle()
    drawn = batch.targets_T.int()[:, None].repeat(1, 4)
    wrong = Batch(
        **vars(batch)
        | {
            "targets_T": torch.zeros_like(batch.targets_T),
            "hidden_TK": drawn.view(torch.int8),
            "scales_TN": torch.zeros(len(drawn), 1),
        }
    )
    weights = torch.arange(10.0, 50.0) if popularity else None
    ranking = Ranking(10, weights)
    module = NextItemTraining(_model(), draws=True, kl_weight=50.0, temperature=1.0, ranking=ranking)
    losses = _train(module, wrong, steps=150)
    assert losses[-1] < losses[0] / 3
    assert _accuracy(module, batch) > 0.9


def test_kl_with_sampled_softmax_adds_the_parts() -> None:
    """With the sampled softmax and the KL, the total is their weighted sum, and both are over the same few items."""
    torch.manual_seed(3)
    cached, batch = _cached(_cycle())
    plain = NextItemTraining(_model(), cached=cached, kl_weight=0.6, temperature=2.0)
    both = NextItemTraining(plain.student, cached=cached, kl_weight=0.6, temperature=2.0, ranking=Ranking(4_000, None))
    full, sampled = plain(batch), both(batch)
    torch.testing.assert_close(sampled.total, sampled.student_ce + 0.6 * sampled.kl)
    assert sampled.student_ce.item() == pytest.approx(full.student_ce.item(), rel=0.05)
    assert sampled.kl.item() == pytest.approx(full.kl.item(), rel=0.05)
    both.ranking = Ranking(1, None)  # a distribution over one item says nothing
    assert both(batch).kl.item() == pytest.approx(0, abs=1e-4)


def test_heads_of_teachers_are_cast_once() -> None:
    """They lie in the dtype of the logits, and the loss is that of heads that are cast in each step."""
    torch.manual_seed(3)
    cached, batch = _cached(_cycle())
    module = NextItemTraining(_model(), cached=cached, kl_weight=0.6, temperature=2.0, dtype=torch.bfloat16)
    teachers = cached.scored(batch)
    assert (teachers.weight_VW.dtype, teachers.hidden_TW.dtype) == (torch.bfloat16, torch.float32)
    loss = module(batch)
    whole, _ = _cached(_cycle())
    module.cached = whole
    assert whole.scored(batch).weight_VW.dtype == torch.float32
    torch.testing.assert_close(module(batch), loss)


def test_the_kl_takes_the_faster_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-entropy and KL never take the general, slower form. Another divergence does."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the general form was taken")

    monkeypatch.setattr("kdlib.training.module.chunked", fail)
    cached, batch = _cached(_cycle())
    NextItemTraining(_model(), cached=cached, kl_weight=1.0, temperature=2.0)(batch).total.backward()
    with pytest.raises(AssertionError, match="general form"):
        NextItemTraining(_model(), cached=cached, kl_weight=1.0, divergence=_reverse_kl)(batch)


def test_hidden_match_turns_the_student_towards_the_teacher() -> None:
    """The projected state turns to the direction of the teacher's, and the loss is that of the formula."""
    torch.manual_seed(3)
    cached, batch = _cached(_cycle())
    module = NextItemTraining(_model(), cached=cached, kl_weight=0.5, temperature=2.0, hidden_weight=2.0)

    def apart() -> Tensor:
        own = module.student(batch.items_BL, batch.context_BLC).flatten(0, 1)[batch.positions_T]
        assert module.projector is not None
        assert batch.hidden_TK is not None
        return (1 - F.cosine_similarity(module.projector(own), batch.hidden_TK.float(), dim=1)).sum()

    loss = module(batch)
    torch.testing.assert_close(loss.total, loss.student_ce + 0.5 * loss.kl + 2.0 * apart(), rtol=1e-5, atol=1e-3)
    before = apart().item()
    _train(module, batch)
    assert apart().item() < 0.2 * before


@pytest.mark.parametrize("joint", [False, True])
def test_the_projection_is_trained_and_not_exported(joint: bool) -> None:
    """The projection is a parameter of the module and gets a gradient. It is no part of the student."""
    torch.manual_seed(3)
    cached, batch = _cached(_cycle())
    module = NextItemTraining(
        _model(),
        teacher=_model(dim=10) if joint else None,
        cached=None if joint else cached,
        kl_weight=1.0,
        temperature=2.0,
        hidden_weight=1.0,
    )
    module(batch).total.backward()
    own = {"projector.weight"}
    assert own <= {name for name, value in module.named_parameters() if value.grad is not None and value.grad.any()}
    assert module.student.state_dict().keys() == _model().state_dict().keys()
    plain = NextItemTraining(_model(), cached=cached)
    assert {name for name, _ in module.named_parameters() if not name.startswith(("student.", "teacher."))} == own
    assert all(name.startswith("student.") for name, _ in plain.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_joint_training_leaves_the_teacher_to_its_own_loss(name: str) -> None:
    """For any divergence, the teacher's gradient is that of its own cross-entropy."""
    torch.manual_seed(3)
    batch, student, teacher = _cycle(), _model(), _model(dim=10)
    how = {"divergence": DIVERGENCES[name], "hidden_weight": 1.0}
    module = NextItemTraining(student, teacher=teacher, kl_weight=3.0, temperature=2.0, **how)
    module(batch).total.backward()
    joint = [parameter.grad.clone() for parameter in teacher.parameters() if parameter.grad is not None]
    teacher.zero_grad()
    NextItemTraining(teacher)(batch).total.backward()
    alone = [parameter.grad for parameter in teacher.parameters() if parameter.grad is not None]
    assert len(joint) == len(alone) > 0
    for one, other in zip(joint, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_draws_against_negatives_train_under_autocast() -> None:
    """With bf16 on a GPU, autocast covers the forward pass only. Loss and gradients change by the rounding."""
    batch, found = _cycle(), []
    drawn = batch.targets_T.int()[:, None].repeat(1, 4)
    batch = replace(batch, hidden_TK=drawn.view(torch.int8), scales_TN=torch.zeros(len(drawn), 1))
    for enabled in (False, True):
        torch.manual_seed(3)
        ranking = Ranking(10, None)
        module = NextItemTraining(_model(), draws=True, kl_weight=2.0, temperature=1.0, ranking=ranking).eval()
        torch.manual_seed(4)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = module(batch)
        loss.total.backward()
        found.append((loss.total.detach(), module.student.item_embedding.grad))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.02, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=0.05 * float(found[0][1].abs().max()))


def _modules() -> dict[str, tuple[NextItemTraining, Batch]]:
    """A module for each way to train, with a batch that it can learn from. The models have no dropout."""
    batch = _cycle()
    cached, taught = _cached(batch)
    drawn = batch.targets_T.int()[:, None].repeat(1, 4).view(torch.int8)
    sampled = replace(batch, hidden_TK=drawn, scales_TN=torch.zeros(len(drawn), 1))
    ranking = Ranking(10, None)
    return {
        "alone": (NextItemTraining(_model()), batch),
        "ranking": (NextItemTraining(_model(), ranking=ranking), batch),
        "joint": (NextItemTraining(_model(), teacher=_model(12), kl_weight=0.7, temperature=2.0), batch),
        "hidden": (NextItemTraining(_model(), cached=cached, kl_weight=0.7, hidden_weight=0.5), taught),
        "divergence": (NextItemTraining(_model(), cached=cached, kl_weight=0.7, divergence=_reverse_kl), taught),
        "both": (
            NextItemTraining(_model(), cached=cached, kl_weight=0.7, ranking=ranking, divergence=_reverse_kl),
            taught,
        ),
        "draws": (NextItemTraining(_model(), draws=True, kl_weight=0.7), sampled),
        "ranked_draws": (NextItemTraining(_model(), draws=True, kl_weight=0.7, ranking=ranking), sampled),
    }


@pytest.mark.parametrize("how", list(_modules()))
def test_weights_reach_every_way_of_training(how: str) -> None:
    """The gradient is linear in the weights of the positions: those of two parts add up to that of all, and 0 gives none."""
    torch.manual_seed(3)
    module, batch = _modules()[how]
    module.eval()

    def gradient(weights_T: Tensor | None) -> Tensor:
        torch.manual_seed(4)  # the same negatives each time
        module.zero_grad()
        module(replace(batch, weights_T=weights_T)).total.backward()
        return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])

    half = (torch.arange(len(batch.targets_T)) % 2).float()
    whole = gradient(None)
    assert torch.equal(gradient(torch.ones_like(half)), whole)
    torch.testing.assert_close(gradient(half) + gradient(1 - half), whole, rtol=1e-4, atol=1e-4)
    assert (gradient(half) - whole / 2).norm() > 0.01 * whole.norm()
    assert gradient(torch.zeros_like(half)).abs().max() == 0
