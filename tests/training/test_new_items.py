"""New items never occur in training: what a model that reads titles learns about them."""

from dataclasses import replace

import pytest
import torch

from kdlib.data.batches import Batch
from kdlib.losses.scored import Scored
from kdlib.models.sequence import SequenceModel
from kdlib.training.module import CachedTeachers, NextItemTraining, Ranking


def _reading_model() -> SequenceModel:
    """Six items, the last two new. Only the new items have values in the last two columns of the titles."""
    model = _model([True, True, True, True, False, False])
    model.text_vectors_VE = torch.block_diag(torch.randn(4, 3), torch.randn(2, 2))
    return model


def _of_new_titles(model: SequenceModel) -> float:
    """Size of the gradient of the columns that only new items' titles have."""
    assert model.text_projection is not None
    assert model.text_projection.weight.grad is not None
    return float(model.text_projection.weight.grad[:, 3:].abs().sum())


def _batch(targets: list[int]) -> Batch:
    items = torch.tensor([[0, 1, 2]])
    context = torch.zeros(1, 3, 3, dtype=torch.int8)
    return Batch(items, context, torch.arange(3), torch.tensor(targets))


def _model(trained: list[bool], *, text: bool = True) -> SequenceModel:
    torch.manual_seed(0)
    vectors = torch.randn(len(trained), 5) if text else None
    return SequenceModel(
        num_items=len(trained), kind="gru", dim=4, text_vectors_VE=vectors, trained_V=torch.tensor(trained)
    )


def test_the_loss_is_that_of_a_catalogue_without_the_new_items() -> None:
    """New items at the end of the catalogue do not change the loss of a model that reads titles."""
    with_new = _model([True, True, True, True, False, False])
    without = _model([True] * 4)
    weights = dict(with_new.state_dict(), item_embedding=with_new.item_embedding[:4])
    without.load_state_dict(weights)
    without.text_vectors_VE = with_new.get_buffer("text_vectors_VE")[:4]
    batch = _batch([1, 2, 3])
    found, want = (NextItemTraining(model.eval())(batch).total for model in (with_new, without))
    torch.testing.assert_close(found, want)


def test_targets_keep_their_items_after_a_gap() -> None:
    """A new item in the middle of the catalogue does not shift the targets."""
    model = _model([True, False, True, True]).eval()
    batch = _batch([2, 3, 0])
    vectors_VD = model.item_vectors()
    logits_TV = model(batch.items_BL, batch.context_BLC)[0] @ vectors_VD[[0, 2, 3]].T
    want = torch.nn.functional.cross_entropy(logits_TV, torch.tensor([1, 2, 0]), reduction="sum")
    torch.testing.assert_close(NextItemTraining(model)(batch).total, want)


def test_without_text_new_items_are_negatives() -> None:
    """A model without titles knows nothing about a new item, and learns that it never comes."""
    model = _model([True, True, True, False], text=False)
    NextItemTraining(model)(_batch([1, 2, 0])).total.backward()
    assert model.item_embedding.grad is not None
    assert model.item_embedding.grad[3].abs().sum() > 0


@pytest.mark.parametrize("ranking", [None, Ranking(60, None)], ids=["all items", "sampled items"])
def test_a_taught_student_hears_of_new_items(ranking: Ranking | None) -> None:
    """It learns from the teachers' hidden states how likely new items are: their titles get a gradient and the KL falls."""
    model, head = _reading_model(), torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    head[4:] *= 10
    batch = replace(_batch([1, 2, 3]), hidden_TK=torch.randn(3, 4), scales_TN=torch.ones(3, 1))
    module = NextItemTraining(model, cached=CachedTeachers([(head, None)], [1.0]), kl_weight=5.0, ranking=ranking)
    before = module(batch).kl
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        module(batch).total.backward()
        assert _of_new_titles(model) > 0
        optimizer.step()
    assert module(batch).kl < before


@pytest.mark.parametrize("popularity", [False, True])
def test_sampled_losses_draw_no_new_item(popularity: bool) -> None:
    """The columns that only new items' titles have never get a gradient."""
    model = _model([True, True, True, True, False, False])
    model.text_vectors_VE = torch.block_diag(
        torch.randn(4, 3), torch.randn(2, 2)
    )  # the last two columns are the new items'
    weights = torch.full((6,), 1.0) if popularity else None
    module = NextItemTraining(model, ranking=Ranking(3, weights))
    for _ in range(50):
        module(_batch([1, 2, 3])).total.backward()
    assert model.text_projection is not None
    assert model.text_projection.weight.grad is not None
    assert model.text_projection.weight.grad[:, :3].abs().sum() > 0
    assert model.text_projection.weight.grad[:, 3:].abs().sum() == 0


@pytest.mark.parametrize("student_reads", [False, True])
def test_a_teacher_that_learns_along_has_no_new_negatives_either(student_reads: bool) -> None:
    """A teacher in joint training has no new items as negatives. A student that reads no titles has them."""
    teacher = _model([True, True, True, True, False, False])
    teacher.text_vectors_VE = torch.block_diag(torch.randn(4, 3), torch.randn(2, 2))
    student = _model([True, True, True, True, False, False], text=student_reads)
    NextItemTraining(student, teacher=teacher, kl_weight=1.0)(_batch([1, 2, 3])).total.backward()
    assert teacher.text_projection is not None
    assert teacher.text_projection.weight.grad is not None
    assert teacher.text_projection.weight.grad[:, 3:].abs().sum() == 0
    assert student.item_embedding.grad is not None
    assert student_reads or student.item_embedding.grad[4:].abs().sum() > 0


def test_draws_from_all_items_keep_new_items_as_negatives() -> None:
    """An item that can be a sampled target must also be a negative, or its score would only rise."""
    model = _reading_model()
    drawn = torch.tensor([[4, 0], [1, 5], [2, 3]], dtype=torch.int32)
    batch = replace(_batch([1, 2, 3]), hidden_TK=drawn.view(torch.int8), scales_TN=torch.zeros(3, 1))
    module = NextItemTraining(model, draws=True, kl_weight=1.0, ranking=Ranking(5, None))
    seen = {int(item) for _ in range(50) for item in module._negatives(_head_of(model))}
    assert seen == set(range(6))
    module(batch).total.backward()
    assert _of_new_titles(model) > 0


def _head_of(model: SequenceModel) -> Scored:
    return Scored(torch.zeros(1, 4), *model.head())


def test_an_output_matrix_of_its_own_has_new_items_as_negatives() -> None:
    """With an output matrix of its own no title scores an item. A row without a gradient would rank by chance."""
    torch.manual_seed(0)
    model = SequenceModel(
        num_items=4,
        kind="gru",
        dim=4,
        tied=False,
        text_vectors_VE=torch.randn(4, 5),
        trained_V=torch.tensor([True, True, True, False]),
    )
    NextItemTraining(model)(_batch([1, 2, 0])).total.backward()
    assert model.output_embedding is not None
    assert model.output_embedding.grad is not None
    assert model.output_embedding.grad[3].abs().sum() > 0
