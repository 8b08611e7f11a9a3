"""The three parts of a score, the clusters, and the exact top products."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdlib.search import fusion
from kdlib.search.fusion import Weights, choose_weights, cluster, fuse, intent, top_products


def _two_kinds() -> torch.Tensor:
    """400 unit vectors, in turns around one of two directions."""
    torch.manual_seed(0)
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(200, 1)
    return F.normalize(centres + 0.1 * torch.randn(400, 3), dim=1)


def test_clusters_are_the_kinds_and_the_same_every_time() -> None:
    """Products of one kind share a cluster; the same seed gives the same clusters."""
    vectors = _two_kinds()
    found = cluster(vectors, seed=1)
    assert found.shape == (fusion.CLUSTERINGS, 400)
    clusters = next(one for one in found if one[0] != one[1])
    assert (clusters[::2] == clusters[0]).all()
    assert (clusters[1::2] == clusters[1]).all()
    assert torch.equal(found, cluster(vectors, seed=1))
    assert (cluster(vectors[:3], seed=1) == 0).all()  # a small shop has only one cluster


def test_intent_is_the_squared_share_of_the_kind_around_the_query() -> None:
    """Of the four nearest products three are of kind 0 and one of kind 1, so these kinds get 9/16 and 1/16.

    The second clustering has only one kind, which gets 1. The intent is the mean of both clusterings.
    """
    cosines = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.1, 0.0]])
    kinds = torch.tensor([[0, 0, 1, 0, 1, 2], [0, 0, 0, 0, 0, 0]])
    before, fusion.INTENT_PRODUCTS = fusion.INTENT_PRODUCTS, 4
    try:
        found = intent(cosines, kinds)
    finally:
        fusion.INTENT_PRODUCTS = before
    torch.testing.assert_close(found, (torch.tensor([[9, 9, 1, 9, 1, 0]]) / 16 + 1) / 2)


def test_intent_looks_at_allowed_products_alone() -> None:
    """The two nearest products are not allowed. Of the three allowed ones, two are of kind 1 and one of kind 2."""
    cosines = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.1, 0.0]])
    allowed = torch.tensor([False, False, True, False, True, True])
    found = intent(cosines, torch.tensor([[0, 0, 1, 0, 1, 2]]), allowed)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 4, 0, 4, 1]]) / 9)


def test_fuse_adds_the_weighted_parts() -> None:
    """The score is lexical + 2 · cosine + 3 · intent for these weights."""
    parts = (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.4]]), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(fuse(*parts, Weights(2.0, 3.0)), torch.tensor([[2.0, 3.8]]))


def test_words_count_more_where_their_products_are_of_the_kind_that_is_meant() -> None:
    """Two products have words of the query, with shares 1 and 0.5; the third product's share does not matter.

    The trust is 2 · 0.75, so the words of the first product count 1 + 3 · 1.5. Without a weight for the intent nothing
    changes.
    """
    lexical, nothing = torch.tensor([[1.0, 0.5, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]]), torch.zeros(2, 4)
    shares = torch.tensor([[1.0, 0.5, 0.2, 0.9], [1.0, 0.5, 0.2, 0.9]])
    found = fuse(lexical, nothing, shares, Weights(0.0, 3.0))
    torch.testing.assert_close(found - 3.0 * shares, lexical * 5.5)
    torch.testing.assert_close(fuse(lexical, nothing, shares, Weights(0.0, 0.0)), lexical)


def test_weights_are_the_best_and_of_equal_ones_the_smallest() -> None:
    """The weights with the highest figure win, and of equal figures the smallest weights."""
    assert choose_weights(lambda weights: -abs(weights.vector - 3) - abs(weights.intent - 1)) == Weights(3.0, 1.0)
    assert choose_weights(lambda weights: 0.5) == Weights(0.0, 0.0)


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=60).flatmap(
        lambda scores: st.tuples(st.just(scores), st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    ),
    st.integers(1, 70),
)
def test_top_products_equal_a_sort(case: tuple[list[int], list[bool]], k: int) -> None:
    """The result is exact with any ties: by score, then by the smaller index, among allowed products only."""
    scores, allowed = np.array(case[0], np.float32), np.array(case[1])
    expected = [place for place in sorted(range(len(scores)), key=lambda p: (-scores[p], p)) if allowed[place]][:k]
    assert top_products(scores, k=k, allowed_V=allowed).tolist() == expected
