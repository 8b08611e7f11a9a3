"""Exact top-k against a stable full sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import ModelError
from kdlib.inference import topk
from kdlib.inference.topk import exact_topk

CPU_AND_GPU = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def by_full_sort(scores_BV, *, k, excluded, allowed_V):
    """The reference: mask, sort all scores stably, cut at k."""
    scores_BV = scores_BV.astype(np.float32).copy()
    scores_BV[:, ~allowed_V] = -np.inf
    for row, items in enumerate(excluded):
        scores_BV[row, [item for item in items if item < scores_BV.shape[1]]] = -np.inf
    order = np.argsort(-scores_BV, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores_BV, order, axis=1)
    missing = ((0, 0), (0, k - order.shape[1]))
    best = np.pad(best, missing, constant_values=-np.inf)
    return best, np.where(best == -np.inf, -1, np.pad(order, missing))


def ragged(lists, device="cpu"):
    offsets = np.cumsum([0, *map(len, lists)])
    values = [item for items in lists for item in items]
    return torch.tensor(values, dtype=torch.int64, device=device), torch.tensor(offsets, device=device)


def skip_without(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@CPU_AND_GPU
@settings(max_examples=150, deadline=None)
@given(
    num_rows=st.integers(0, 5),
    num_items=st.integers(0, 200),
    k=st.integers(1, 40),
    item_block=st.integers(1, 250),
    cells=st.sampled_from([1, 100, 1 << 21]),
    levels=st.sampled_from([1, 2, 10, 10_000]),
    seen_share=st.sampled_from([0.0, 0.3, 1.0]),
    allowed_share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_a_stable_full_sort(
    device, num_rows, num_items, k, item_block, cells, levels, seen_share, allowed_share, seed
):
    """Scores and items are those of a stable full sort, with ties, any blocks, and all items seen or unavailable."""
    skip_without(device)
    random = np.random.default_rng(seed)
    weight = random.integers(-levels, levels + 1, (num_items, 2))
    hidden = random.integers(-1, 2, (num_rows, 2))
    bias = random.integers(-1, 2, num_items)
    allowed = random.random(num_items) < allowed_share
    seen = [np.flatnonzero(random.random(num_items + 2) < seen_share).tolist() for _ in range(num_rows)]

    def tensor(array):
        return torch.tensor(array, dtype=torch.float32, device=device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "CPU_CELLS", cells)
        scores, items = exact_topk(
            tensor(hidden),
            tensor(weight),
            tensor(bias),
            k=k,
            item_block=item_block,
            excluded=ragged(seen, device),
            allowed_V=torch.tensor(allowed, device=device),
        )
    want_scores, want_items = by_full_sort(hidden @ weight.T + bias, k=k, excluded=seen, allowed_V=allowed)
    assert items.tolist() == want_items.tolist()
    assert scores.tolist() == want_scores.tolist()
    assert (scores.dtype, items.dtype) == (torch.float32, torch.int64)


@CPU_AND_GPU
def test_equals_a_stable_full_sort_on_real_numbers_in_a_larger_catalogue(device):
    """5,000 real-valued scores, negative, tiny and large, come out in the order of a full sort."""
    skip_without(device)
    hidden = torch.randn(70, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = torch.randn(5_000, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hidden = hidden * torch.logspace(-20, 20, 70, dtype=torch.float64)[:, None]
    scores, items = exact_topk(hidden.to(device), weight.to(device), k=25, item_block=999)
    want_scores, want_items = by_full_sort(
        (hidden @ weight.T).numpy(), k=25, excluded=[[]] * 70, allowed_V=np.ones(5_000, dtype=bool)
    )
    assert (items.cpu().numpy() == want_items).mean() > 0.999  # the two float64 products may differ in the last bit
    np.testing.assert_allclose(scores.cpu().numpy(), want_scores, rtol=1e-6)


def test_ties_at_the_cut_go_to_the_smaller_item_index():
    """Of 1,000 items with the same score, the first k unseen items are taken in order, for any block size."""
    hidden, weight = torch.ones(1, 1), torch.zeros(1_000, 1)
    for item_block in (1, 32, 100, 1_000):
        items = exact_topk(hidden, weight, k=5, item_block=item_block, excluded=ragged([[0, 2]]))[1]
        assert items.tolist() == [[1, 3, 4, 5, 6]]


def test_minus_zero_ties_with_zero():
    """A score of −0 (here by underflow) equals 0, so the smaller index comes first."""
    weight, bias = torch.tensor([[-1e-30], [0.0], [-1e-30]]), torch.tensor([-0.0, 0.0, -0.0])
    assert exact_topk(torch.full((1, 1), 1e-30), weight, bias, k=3)[1].tolist() == [[0, 1, 2]]


def test_bfloat16_scores_are_compared_as_they_are():
    """In bfloat16, 256 and 257 are the same number, so their items tie."""
    weight = torch.tensor([[256.0], [257.0], [300.0]], dtype=torch.bfloat16)
    scores, items = exact_topk(torch.ones(1, 1, dtype=torch.bfloat16), weight, k=3)
    assert items.tolist() == [[2, 0, 1]]
    assert scores.tolist() == [[300.0, 256.0, 256.0]]


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("cells", [1, 1 << 21])
def test_a_score_that_is_not_a_number_is_an_error(value, cells, monkeypatch):
    """NaN of either sign, inf or an overflow in any item's score raises an error that names the row."""
    monkeypatch.setattr(topk, "CPU_CELLS", cells)
    hidden = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    weight = torch.ones(96, 2)
    weight[77, 0] = 1e30
    hidden[2, 0] = value
    with pytest.raises(ModelError, match="NaN or infinite in row 2 of the batch"):
        exact_topk(hidden, weight, k=3, item_block=32)


def test_a_broken_score_of_an_unavailable_item_is_an_error_too():
    """A model with a NaN weight is broken even if the item is not for sale."""
    weight = torch.ones(10, 2)
    weight[3] = torch.nan
    with pytest.raises(ModelError, match="row 0"):
        exact_topk(torch.ones(1, 2), weight, k=3, allowed_V=torch.arange(10) != 3)


def test_inputs_are_left_alone():
    """Neither the bias nor the weights are changed by the mask."""
    weight, bias, allowed = torch.ones(10, 2), torch.ones(10), torch.zeros(10, dtype=torch.bool)
    exact_topk(torch.ones(1, 2), weight, bias, k=3, allowed_V=allowed, excluded=ragged([[1]]))
    assert bias.tolist() == [1] * 10
    assert weight.eq(1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k and item_block must be positive, found k=0"),
        ({"item_block": 0}, "found k=2, item_block=0"),
        ({"weight_VW": torch.ones(4, 3)}, r"found \[2, 2\] and \[4, 3\]"),
        ({"bias_V": torch.ones(3)}, r"expected bias \[4\], found \[3\]"),
        ({"allowed_V": torch.ones(5, dtype=torch.bool)}, r"expected allowed \[4\], found \[5\]"),
        ({"excluded": ragged([[1]])}, r"expected excluded offsets \[3\], found \[2\]"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(arguments, message):
    """The error for a wrong size says what was expected and what was found."""
    good = {"hidden_BW": torch.ones(2, 2), "weight_VW": torch.ones(4, 2), "k": 2}
    with pytest.raises(ValueError, match=message):
        exact_topk(**{**good, **arguments})
