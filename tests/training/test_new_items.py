"""Items that never occur in training: what a model that reads titles learns of them."""

import torch

from kdlib.data.batches import Batch
from kdlib.models.sequence import SequenceModel
from kdlib.training.module import NextItemTraining


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
    """Items outside training at the end of the catalogue leave the loss of a model that reads titles as it is."""
    with_new = _model([True, True, True, True, False, False])
    without = _model([True] * 4)
    weights = dict(with_new.state_dict(), item_embedding=with_new.item_embedding[:4])
    without.load_state_dict(weights)
    without.text_vectors_VE = with_new.get_buffer("text_vectors_VE")[:4]
    batch = _batch([1, 2, 3])
    found, want = (NextItemTraining(model.eval())(batch).total for model in (with_new, without))
    torch.testing.assert_close(found, want)


def test_targets_keep_their_items_after_a_gap() -> None:
    """With a new item in the middle of the catalogue the target of a position is still its own item."""
    model = _model([True, False, True, True]).eval()
    batch = _batch([2, 3, 0])
    vectors_VD = model.item_vectors()
    logits_TV = model(batch.items_BL, batch.context_BLC)[0] @ vectors_VD[[0, 2, 3]].T
    want = torch.nn.functional.cross_entropy(logits_TV, torch.tensor([1, 2, 0]), reduction="sum")
    torch.testing.assert_close(NextItemTraining(model)(batch).total, want)


def test_without_text_new_items_are_negatives() -> None:
    """A model of item ids alone, which can know nothing of a new item, learns that it never comes."""
    model = _model([True, True, True, False], text=False)
    NextItemTraining(model)(_batch([1, 2, 0])).total.backward()
    assert model.item_embedding.grad is not None
    assert model.item_embedding.grad[3].abs().sum() > 0
