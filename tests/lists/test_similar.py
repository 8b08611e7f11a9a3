"""Similar items against all cosines."""

import numpy as np
import pytest
import torch

from kdlib.errors import ModelError
from kdlib.lists import similar
from kdlib.lists.similar import similar_items


@pytest.mark.parametrize("items_at_a_time", [4, 8192])
def test_equals_all_cosines(monkeypatch, items_at_a_time):
    """Each known item has the nearest other known and allowed items by cosine, whatever the vectors' lengths."""
    monkeypatch.setattr(similar, "ITEMS", items_at_a_time)
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(50, 8)) * draw.uniform(0.1, 10, (50, 1))
    known, allowed = np.arange(50) % 7 != 3, np.arange(50) % 4 != 1
    lists = similar_items(torch.tensor(vectors), known_V=torch.tensor(known), allowed_V=torch.tensor(allowed), k=6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    cosines[:, ~(known & allowed)] = -np.inf
    owners = np.flatnonzero(known)
    best = np.argsort(-cosines[owners], axis=1)[:, :6]
    assert lists.owners_N.tolist() == np.repeat(owners, 6).tolist()
    assert lists.items_N.tolist() == best.ravel().tolist()
    np.testing.assert_allclose(lists.scores_N, np.take_along_axis(cosines[owners], best, 1).ravel(), rtol=1e-5)


def test_a_small_catalogue_gives_shorter_lists():
    """With fewer items than k, a list holds all other allowed items; an item that is not allowed has a list too."""
    lists = similar_items(
        torch.eye(3), known_V=torch.ones(3, dtype=torch.bool), allowed_V=torch.tensor([True, True, False]), k=5
    )
    assert list(zip(lists.owners_N.tolist(), lists.items_N.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 0), (2, 1)]


def test_a_broken_vector_is_named():
    """A vector that is not finite is the model's fault."""
    vectors = torch.eye(3)
    vectors[1, 1] = torch.nan
    with pytest.raises(ModelError, match="a score is NaN or infinite"):
        similar_items(vectors, known_V=torch.ones(3, dtype=torch.bool), allowed_V=torch.ones(3, dtype=torch.bool), k=1)
