"""Values of items' features: their sums, the items near a new one, the export and the warm start."""

import pytest
import torch

from kdlib.models.files import foldable
from kdlib.models.item_values import ItemValues
from kdlib.models.new_items import SHARPNESS, nearest_items, with_new_items
from kdlib.models.sequence import SequenceModel
from kdlib.models.warm import iterated_means, start_from

ITEMS, VALUES = 30, 7


def values_of(matrix_VF: torch.Tensor) -> ItemValues:
    rows_N, values_N = matrix_VF.nonzero().T
    counts_V = torch.bincount(rows_N, minlength=len(matrix_VF))
    items_F = (matrix_VF > 0).sum(0).float().clamp_min(1)
    return ItemValues(values_N, counts_V.cumsum(0) - counts_V, matrix_VF[rows_N, values_N], items_F)


def some_matrix(items: int = ITEMS) -> torch.Tensor:
    """Weights of values; the items 3 and 4, and the last one, have none."""
    generator = torch.Generator().manual_seed(1)
    kept_VF = torch.rand(items, VALUES, generator=generator) < 0.4
    kept_VF[[3, 4, -1]] = False
    return torch.rand(items, VALUES, generator=generator) * kept_VF


def reading_model(matrix_VF: torch.Tensor, trained_V: torch.Tensor, *, seed: int = 0, **options) -> SequenceModel:
    torch.manual_seed(seed)
    values = values_of(matrix_VF)
    return SequenceModel(
        num_items=len(matrix_VF), kind="gru", dim=4, item_values=values, trained_V=trained_V, **options
    )


def test_the_sums_are_those_of_a_matrix_product() -> None:
    """Items without values get zeros, also the last one."""
    matrix_VF, table_FD = some_matrix(), torch.randn(VALUES, 4)
    values = values_of(matrix_VF)
    torch.testing.assert_close(values.sums(table_FD), matrix_VF @ table_FD)
    torch.testing.assert_close(values.matrix().to_dense(), matrix_VF)


def test_neighbours_share_rare_values() -> None:
    """The cosine is that of titles beside features, in which a value counts by its inverse document frequency."""
    matrix_VF, trained_V = some_matrix(), torch.arange(ITEMS) % 4 > 0
    titles_VE = torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(2))
    titles_VE[8] = 0.0
    values = values_of(matrix_VF)
    factors_F = torch.log(ITEMS / (matrix_VF > 0).sum(0)) + 1e-3
    content_VC = torch.cat([torch.nn.functional.normalize(part) for part in (titles_VE, matrix_VF * factors_F)], 1)
    nearest = nearest_items(trained_V, titles_VE, values)
    assert nearest.new_N.tolist() == list(range(0, ITEMS, 4))
    for row, item in enumerate(nearest.new_N.tolist()):
        cosines = torch.cosine_similarity(content_VC[item], content_VC[nearest.neighbours_NK[row]], dim=1)
        assert (cosines.diff() <= 1e-6).all()
        best = torch.cosine_similarity(content_VC[item], content_VC[trained_V], dim=1).sort(descending=True).values
        torch.testing.assert_close(cosines, best[: len(cosines)])
        torch.testing.assert_close(nearest.shares_NK[row], torch.softmax(SHARPNESS * cosines, 0))


def test_an_item_without_content_has_no_neighbours() -> None:
    """A new item without values keeps its vector. No known item with values: no new item has neighbours."""
    matrix_VF, trained_V = some_matrix(), torch.arange(ITEMS) > 5
    assert nearest_items(trained_V, None, values_of(matrix_VF)).new_N.tolist() == [0, 1, 2, 5]
    assert not len(nearest_items(torch.arange(ITEMS) == 3, None, values_of(matrix_VF)).new_N)


def test_the_export_holds_the_vectors_that_the_model_scores_with() -> None:
    """Values are folded into the item table, beside titles too, and the exported model has no other weights."""
    matrix_VF, trained_V = some_matrix(), torch.arange(ITEMS) % 5 > 0
    for titles_VE in (None, torch.randn(ITEMS, 6)):
        model = reading_model(matrix_VF, trained_V, text_vectors_VE=titles_VE).eval()
        folded = SequenceModel(**model.options).eval()
        folded.load_state_dict(foldable(model, model.state_dict()))
        torch.testing.assert_close(folded.item_vectors(), model.item_vectors())


def test_a_new_item_is_known_by_its_values_alone() -> None:
    """In training its vector is the sum of its values' embeddings; afterwards it is a mean of its neighbours' vectors."""
    matrix_VF, trained_V = some_matrix(), torch.arange(ITEMS) != 7
    model = reading_model(matrix_VF, trained_V)
    assert model.value_embedding is not None
    sums_VD = matrix_VF @ model.value_embedding
    torch.testing.assert_close(model.item_vectors()[7], sums_VD[7])
    torch.testing.assert_close(model.item_vectors()[8], model.item_embedding[8] + sums_VD[8])
    trained_VD = model.item_vectors()
    torch.testing.assert_close(model.eval().item_vectors(), with_new_items(trained_VD, model.nearest_items()))


def test_dropped_items_keep_their_values() -> None:
    """`item_dropout` leaves out own embeddings only."""
    matrix_VF = some_matrix()
    model = reading_model(matrix_VF, torch.ones(ITEMS, dtype=torch.bool), item_dropout=0.5)
    assert model.value_embedding is not None
    left_VD = model.item_vectors() - matrix_VF @ model.value_embedding
    dropped_V = (left_VD.abs() < 1e-7).all(1)
    assert 0 < dropped_V.sum() < ITEMS
    torch.testing.assert_close(left_VD[~dropped_V], model.item_embedding[~dropped_V])


def test_codes_exclude_values() -> None:
    """Codes stand for the whole item table."""
    with pytest.raises(ValueError, match="exclude tied=False, text vectors and values"):
        reading_model(
            some_matrix(), torch.ones(ITEMS, dtype=torch.bool), codes={"kind": "residual", "count": 2, "size": 4}
        )


@pytest.mark.parametrize("titled", [False, True])
def test_a_warm_start_takes_values_apart_again(titled: bool) -> None:
    """All items that the earlier model knows keep their vectors, and the values explain a part of them."""
    matrix_VF, trained_V = some_matrix(ITEMS + 5), torch.arange(ITEMS + 5) < ITEMS
    titles_VE = torch.randn(ITEMS + 5, 3) if titled else None
    known = {} if titles_VE is None else {"text_vectors_VE": titles_VE[:ITEMS]}
    earlier = reading_model(matrix_VF[:ITEMS], trained_V[:ITEMS], seed=1, **known).eval()
    with torch.no_grad():
        assert earlier.value_embedding is not None
        earlier.value_embedding.normal_()
    folded = SequenceModel(**earlier.options).eval()
    folded.load_state_dict(foldable(earlier, earlier.state_dict()))
    grown = reading_model(matrix_VF, trained_V, seed=2, **({} if titles_VE is None else {"text_vectors_VE": titles_VE}))
    start_from(grown, folded)
    torch.testing.assert_close(grown.item_vectors()[:ITEMS], folded.item_vectors(), atol=1e-5, rtol=1e-5)
    assert grown.item_embedding[:ITEMS].norm() < 0.5 * folded.item_vectors().norm()


def test_iterated_means_approach_the_least_squares() -> None:
    """They find a table that a sparse matrix has made. A value without items stays zero."""
    matrix_VF = torch.cat([some_matrix(), torch.zeros(ITEMS, 1)], 1)
    table_FD = torch.randn(VALUES, 4, generator=torch.Generator().manual_seed(3))
    wanted_VD = matrix_VF[:, :VALUES] @ table_FD
    found_FD = iterated_means(matrix_VF.to_sparse(), wanted_VD)
    assert (matrix_VF @ found_FD - wanted_VD).norm() < 0.3 * wanted_VD.norm()
    assert not found_FD[VALUES].any()
