"""Lists from look-ups equal those from the item table."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.errors import ModelError
from kdlib.inference import coded_items
from kdlib.inference.coded_items import CodedItems, head_of
from kdlib.inference.topk import exact_topk
from kdlib.models.codes import compose, product_codes, residual_codes
from kdlib.models.sequence import SequenceModel


@st.composite
def cases(draw):
    """Codes, tables and hidden states of small whole numbers, so that sums are exact and many scores tie."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    num_items, count, size = draw(st.integers(1, 300)), draw(st.integers(1, 5)), draw(st.sampled_from([2, 7, 256]))
    part = draw(st.integers(1, 3))
    width = part if draw(st.booleans()) else part * count
    rows, levels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 50]))
    codes = torch.from_numpy(rng.integers(0, size, (num_items, count)).astype(np.uint8))
    tables = torch.from_numpy(rng.integers(-levels, levels + 1, (count, size, part)).astype(np.float32))
    hidden = torch.from_numpy(rng.integers(-2, 3, (rows, width)).astype(np.float32))
    bias = torch.from_numpy(rng.integers(-3, 4, num_items).astype(np.float32)) if draw(st.booleans()) else None
    allowed = torch.from_numpy(rng.random(num_items) < draw(st.sampled_from([0.0, 0.3, 1.0])))
    seen = [rng.integers(0, num_items + 2, draw(st.integers(0, 9))) for _ in range(rows)]
    offsets = torch.tensor([0, *itertools.accumulate(map(len, seen))])
    excluded = torch.from_numpy(np.concatenate(seen).astype(np.int64)), offsets
    limits = {"k": draw(st.sampled_from([1, 4, 40, 400])), "excluded": excluded, "allowed_V": allowed}
    return codes, tables, width, hidden, bias, limits


@given(cases(), st.sampled_from([1, 64]), st.sampled_from([0, 4]), st.sampled_from([7, 1 << 16]))
@settings(max_examples=500, deadline=None)
def test_lists_equal_those_of_the_item_table(case, first, whole, chunk):
    """Items and scores are those of the composed table: ties, exclusions, biases, odd numbers of codes, short catalogues.

    Lists are read one by one or many at once, with and without scoring all items in order.
    """
    codes, tables, width, hidden, bias, limits = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded_items, "FIRST_LISTS", first)
        patch.setattr(coded_items, "WHOLE", whole or 1e-9)
        patch.setattr(coded_items, "CHUNK", chunk)
        found = exact_topk(hidden, CodedItems(codes, tables, width=width), bias, **limits)
    wanted = exact_topk(hidden, compose(tables, codes, width=width), bias, **limits)
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[0], wanted[0])
    assert (found[0].dtype, found[1].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("learn", [product_codes, residual_codes])
def test_few_items_are_scored(monkeypatch, learn):
    """On vectors in clusters, the lists are those of the table, and less than a tenth of the items is scored."""
    torch.manual_seed(1)
    centres = torch.randn(400, 16)
    vectors = centres[torch.randint(0, 400, (100_000,))] + 0.3 * torch.randn(100_000, 16)
    codes, tables = learn(vectors, count=4, size=256, seed=1)
    matrix, table = CodedItems(codes, tables, width=16), compose(tables, codes, width=16)
    looked_at = []
    monkeypatch.setattr(coded_items, "FIRST_LISTS", 4)
    score = CodedItems._score
    monkeypatch.setattr(
        CodedItems, "_score", lambda self, items, *a: looked_at.append(len(items)) or score(self, items, *a)
    )
    hidden = vectors[:5] + 0.3 * torch.randn(5, 16)
    scores, items = exact_topk(hidden, matrix, k=10)
    # the two sums round differently, so neighbours may swap; but no better item is missed
    torch.testing.assert_close(scores, exact_topk(hidden, table, k=10)[0])
    torch.testing.assert_close((hidden[:, None] * table[items]).sum(2), scores)
    assert sum(looked_at) < 5 * 10_000


def test_rows_are_composed_on_demand():
    """Rows of any shape of indices are those of the table."""
    codes, tables = torch.randint(0, 9, (50, 3)).byte(), torch.randn(3, 9, 8)
    matrix, items = CodedItems(codes, tables, width=8), torch.tensor([[3, 1], [3, 49]])
    assert torch.equal(matrix[items], compose(tables, codes, width=8)[items])
    assert (len(matrix), matrix.shape) == (50, (50, 8))


def test_broken_weights_are_named():
    """A hidden state that is not finite is an error that names the row."""
    matrix = CodedItems(torch.zeros(5, 2).byte(), torch.randn(2, 3, 4), width=4)
    with pytest.raises(ModelError, match="NaN or infinite in row 1"):
        exact_topk(torch.tensor([[0.0] * 4, [torch.nan] * 4]), matrix, k=2)


def test_only_large_catalogues_with_codes_are_looked_up(monkeypatch):
    """A model without codes, or with few items, has an item table."""
    monkeypatch.setattr(coded_items, "LARGE_CATALOGUE", 20)
    codes = {"kind": "product", "count": 2, "size": 4}
    kinds = [
        isinstance(head_of(SequenceModel(num_items=items, kind="gru", dim=4, codes=found))[0], CodedItems)
        for items, found in ((20, codes), (19, codes), (20, None))
    ]
    assert kinds == [True, False, False]
