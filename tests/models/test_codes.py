"""Quantised item vectors: what codes keep, and the item vectors made from them."""

from typing import Any

import pytest
import torch

from kdlib.models import codes as module
from kdlib.models.codes import compose, encode, explained_variance, product_codes, residual_codes

LEARN = {"residual": residual_codes, "product": product_codes}


def _vectors(rows: int = 600, width: int = 8) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(3))


def _rebuilt(vectors: torch.Tensor, **options: Any) -> torch.Tensor:
    codes, codebooks = LEARN[options.pop("kind")](vectors, seed=1, **options)
    return compose(codebooks, codes, width=vectors.shape[1])


@pytest.mark.parametrize(("kind", "size"), [("residual", 10), ("product", 4)])
def test_few_distinct_vectors_come_back_exactly(kind: str, size: int) -> None:
    """With as many codewords as distinct vectors, or distinct parts of vectors, the vectors are exact."""
    places = torch.cartesian_prod(torch.arange(3), torch.arange(3)).repeat(30, 1)
    vectors = torch.cat([torch.eye(4)[places[:, 0]], 3.0 * torch.eye(4)[places[:, 1]]], 1)
    torch.testing.assert_close(_rebuilt(vectors, kind=kind, count=2, size=size), vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LEARN)
def test_more_codes_keep_more(kind: str) -> None:
    """The explained variance rises with the number of codes. It is higher than that of one k-means with as many codewords."""

    def share(count: int, size: int) -> float:
        return explained_variance(vectors, _rebuilt(vectors, kind=kind, count=count, size=size))

    vectors = _vectors()
    kept = [share(count, 16) for count in (1, 2, 4, 8)]
    assert kept == sorted(kept)
    assert 0.3 < kept[0] < 0.7
    assert kept[-1] > 0.95
    assert all(many > share(1, size) for many, size in zip(kept[1:], (32, 64, 128), strict=True))


@pytest.mark.parametrize("kind", LEARN)
def test_no_codeword_is_idle(kind: str) -> None:
    """Every codeword except zero stands for some item, even if most items are close together."""
    vectors = _vectors() * torch.cat([torch.full((550, 1), 1e-3), torch.ones(50, 1)])
    codes, _ = LEARN[kind](vectors, count=4, size=32, seed=1)
    assert all(set(range(1, 32)) <= set(codes[:, level].tolist()) for level in range(4))


@pytest.mark.parametrize("kind", LEARN)
def test_zero_has_codes_of_its_own(kind: str) -> None:
    """The zero vector stays exactly zero, however far the other vectors are from it."""
    vectors = _vectors() + 50.0 * torch.eye(8)[torch.arange(600) % 8]
    _, codebooks = LEARN[kind](vectors, count=4, size=32, seed=1)
    codes = encode(torch.zeros(1, 8), codebooks)
    assert torch.equal(codes, torch.zeros(1, 4, dtype=torch.uint8))
    assert torch.equal(compose(codebooks, codes, width=8), torch.zeros(1, 8))


def test_codes_repeat_by_seed_and_hold_for_new_vectors() -> None:
    """A seed always gives the same codebooks. `encode` gives the codes of the learning, for all sizes of chunks."""
    vectors = _vectors(200)
    codes, codebooks = residual_codes(vectors, count=3, size=16, seed=5)
    again, books_again = residual_codes(vectors, count=3, size=16, seed=5)
    assert torch.equal(codes, again)
    assert torch.equal(codebooks, books_again)
    assert not torch.equal(codebooks, residual_codes(vectors, count=3, size=16, seed=6)[1])
    assert torch.equal(encode(vectors[7:9], codebooks), codes[7:9])
    whole = module.CHUNK_DISTANCES
    try:
        module.CHUNK_DISTANCES = 16 * 7
        assert torch.equal(encode(vectors, codebooks), codes)
    finally:
        module.CHUNK_DISTANCES = whole


def test_each_residual_code_is_the_nearest_codeword() -> None:
    """At each level the code is the codeword that is nearest to the remainder of the levels before."""
    vectors = _vectors(50)
    _, codebooks = residual_codes(vectors, count=3, size=8, seed=1)
    codes, rest = encode(vectors, codebooks), vectors
    for level in range(3):
        assert torch.equal(torch.cdist(rest, codebooks[level]).argmin(1), codes[:, level].long())
        rest = rest - codebooks[level][codes[:, level].long()]


def test_many_vectors_are_learnt_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks are learnt from a random part of many rows, and all rows get codes."""
    vectors = _vectors(600)
    _, from_all = residual_codes(vectors, count=2, size=16, seed=1)
    monkeypatch.setattr(module, "TRAINING_ROWS_PER_CODEWORD", 4)
    codes, codebooks = residual_codes(vectors, count=2, size=16, seed=1)
    assert codes.shape == (600, 2)
    assert not torch.allclose(codebooks, from_all, atol=1e-3)
    assert explained_variance(vectors, compose(codebooks, codes, width=8)) > 0.3


@pytest.mark.parametrize("shape", [(3, 5, 8), (4, 5, 2)], ids=["residual", "product"])
def test_composed_vectors_and_their_gradient(shape: tuple[int, int, int]) -> None:
    """Composed vectors have the value and gradient of single look-ups, with repeated and unused codewords."""
    torch.manual_seed(0)
    tables = torch.randn(shape, requires_grad=True)
    codes = torch.randint(0, 4, (30, shape[0]), dtype=torch.uint8)
    parts = [tables[level][codes[:, level].long()] for level in range(shape[0])]
    expected = torch.stack(parts).sum(0) if shape[2] == 8 else torch.cat(parts, 1)
    slope = torch.randn(30, 8)
    (plain,) = torch.autograd.grad(expected, tables, slope)
    found = compose(tables, codes, width=8)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, tables, slope)[0], plain)


def test_impossible_requests_say_what_is_expected() -> None:
    """Too many codewords, a width that does not divide, a vector that is not finite and codebooks that do not fit are errors."""
    vectors = _vectors(20)
    with pytest.raises(ValueError, match=r"from 2 to 256.*found 257"):
        residual_codes(vectors, count=2, size=257, seed=1)
    with pytest.raises(ValueError, match=r"21 codewords a table.*found 20"):
        product_codes(vectors, count=2, size=21, seed=1)
    with pytest.raises(ValueError, match="multiple of count 3, found 8"):
        product_codes(vectors, count=3, size=4, seed=1)
    with pytest.raises(ValueError, match="width 4 or 12, found 8"):
        encode(vectors, torch.zeros(3, 5, 4))
    vectors[3, 3] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        residual_codes(vectors, count=2, size=4, seed=1)
