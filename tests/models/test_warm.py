"""A model of an earlier run gets rows for new items and keeps its scores."""

import pytest
import torch

from kdlib.models.files import foldable
from kdlib.models.new_items import nearest_items, with_new_items
from kdlib.models.sequence import SequenceModel
from kdlib.models.warm import start_from

KNOWN, GROWN = 12, 15
SHAPES = [
    {"kind": "gru", "dim": 8},
    {"kind": "lstm", "dim": 8, "hidden": 6, "tied": False},
    {"kind": "transformer", "dim": 8, "heads": 2, "session_flag": True, "inputs": ["event_type"]},
    {"kind": "gru", "dim": 8, "user_columns": {"age": 0}},
]


def model_of(num_items, seed, **options):
    torch.manual_seed(seed)
    return SequenceModel(num_items=num_items, **options).eval()


def scores(model, items):
    context = torch.zeros(1, len(items), 3, dtype=torch.int8)
    with torch.no_grad():
        matrix, bias = model.head()
        hidden = model(torch.tensor([items]), context)
        return torch.nn.functional.linear(hidden, matrix, bias)[0]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["kind"])
def test_known_items_score_as_they_did_and_new_ones_have_rows(shape):
    """The new model gives the earlier scores for the items that both know, and finite scores for the others."""
    earlier, grown = model_of(KNOWN, 1, **shape), model_of(GROWN, 2, **shape)
    fresh = model_of(GROWN, 2, **shape)
    start_from(grown, earlier)
    history = [3, 0, 11, 7]
    torch.testing.assert_close(scores(grown, history)[:, :KNOWN], scores(earlier, history))
    assert torch.equal(grown.item_embedding[KNOWN:], fresh.item_embedding[KNOWN:])
    assert torch.isfinite(scores(grown, [14, 13])).all()


@pytest.mark.parametrize("still_untrained", [False, True])
def test_titles_are_taken_apart_again(still_untrained: bool):
    """After a model with folded titles, all known items keep their scores. A new item gets the vector of its neighbours."""
    generator = torch.Generator().manual_seed(3)
    vectors_VE = torch.randn(GROWN, 5, generator=generator)
    trained_V = torch.arange(GROWN) < 9
    shape = {"kind": "gru", "dim": 8}
    teacher = model_of(KNOWN, 1, **shape, text_vectors_VE=vectors_VE[:KNOWN], trained_V=trained_V[:KNOWN])
    assert teacher.text_projection is not None
    with torch.no_grad():
        teacher.text_projection.weight.normal_(generator=generator)
        if still_untrained:  # own rows that go with the titles, as learnt ones do
            teacher.item_embedding.add_(vectors_VE[:KNOWN] @ torch.randn(5, 8, generator=generator))
    folded = SequenceModel(**teacher.options).eval()
    folded.load_state_dict(foldable(teacher, teacher.state_dict()))
    trained_now_V = trained_V if still_untrained else torch.arange(GROWN) < KNOWN
    grown = model_of(GROWN, 2, **shape, text_vectors_VE=vectors_VE, trained_V=trained_now_V)
    with torch.no_grad():
        grown.item_embedding.zero_()
    start_from(grown, folded)
    torch.testing.assert_close(scores(grown, [1, 8, 11])[:, :KNOWN], scores(folded, [1, 8, 11]), atol=1e-4, rtol=1e-4)
    new_VD = with_new_items(grown.item_vectors().detach(), nearest_items(trained_now_V, vectors_VE))[KNOWN:]
    torch.testing.assert_close(grown.item_vectors()[KNOWN:].detach(), new_VD)
    known_V = trained_now_V[:KNOWN]
    best_ED = torch.linalg.lstsq(vectors_VE[:KNOWN][known_V], folded.item_vectors()[known_V]).solution
    assert grown.text_projection is not None
    torch.testing.assert_close(grown.text_projection.weight.T.detach(), best_ED.detach(), atol=1e-2, rtol=1e-2)


def test_models_that_differ_are_refused():
    """Another width, a smaller vocabulary and codes are errors."""
    earlier = model_of(KNOWN, 1, **SHAPES[0])
    for other in (model_of(GROWN, 2, kind="gru", dim=16), model_of(KNOWN - 1, 2, **SHAPES[0])):
        with pytest.raises(ValueError, match="differ only in a larger vocabulary"):
            start_from(other, earlier)
    coded = {"kind": "residual", "count": 2, "size": 4}
    with pytest.raises(ValueError, match="differ only in a larger vocabulary"):
        start_from(model_of(GROWN, 2, **SHAPES[0], codes=coded), model_of(KNOWN, 1, **SHAPES[0], codes=coded))
