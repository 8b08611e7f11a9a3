"""Whitening of title vectors."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import DistilrecError
from kdlib.store import tables
from kdlib.teachers.text import read_title_vectors, whiten_files


def _cone() -> np.ndarray:
    """50 vectors in a narrow cone of 6 dimensions: 48 unit vectors, and two zero vectors without a title."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 6)) @ generator.normal(size=(6, 6)) * 0.2 + [3, 0, 0, 1, 0, 0]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[[7, 20]] = 0
    return vectors


def _whitened(folder: Path, vectors: np.ndarray, *, width: int | None = None) -> np.ndarray:
    """Write the vectors to a file and whiten it; the vectors at variance 1."""
    table = pa.table([range(len(vectors)), vectors.tolist()], names=["item_index", "vector"])
    pq.write_table(table.cast(tables.TITLE_VECTORS.schema), folder / "vectors.parquet")
    facts = whiten_files(folder, width=width)
    return read_title_vectors(folder) * np.float32(np.sqrt(facts["width"] or 1))


@pytest.mark.parametrize("width", [None, 4])
def test_whitened_vectors_are_uncorrelated(width: int | None, tmp_path: Path) -> None:
    """Over the items with a title, the mean is 0 and the covariance is the identity. The others stay zero."""
    vectors = _cone()
    white = _whitened(tmp_path, vectors, width=width)
    titled = vectors.any(1)
    assert white.dtype == np.float32
    assert white.shape == (50, width or 6)
    assert not white[~titled].any()
    np.testing.assert_allclose(white[titled].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(white[titled].T, bias=True), np.eye(width or 6), atol=1e-4)


def test_whitening_keeps_the_widest_directions_and_their_signs(tmp_path: Path) -> None:
    """Fewer directions are the first of all directions, and items in another order get the same vectors."""
    vectors = _cone()
    white = _whitened(tmp_path, vectors)
    np.testing.assert_allclose(_whitened(tmp_path, vectors, width=3), white[:, :3], rtol=1e-6)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(_whitened(tmp_path, vectors[order]), white[order], atol=1e-3)
    centred = vectors[vectors.any(1)] - vectors[vectors.any(1)].mean(0)
    explained = [np.abs(np.corrcoef(centred @ np.linalg.svd(centred)[2][0], white[vectors.any(1), 0])[0, 1])]
    assert explained == pytest.approx([1], abs=1e-4)


def test_empty_directions_are_left_out(tmp_path: Path) -> None:
    """Vectors in a plane are whitened to two coordinates. Asking for three is an error that names both numbers."""
    generator = np.random.default_rng(0)
    flat = (generator.normal(size=(30, 2)) @ generator.normal(size=(2, 6))).astype(np.float32)
    assert _whitened(tmp_path, flat).shape == (30, 2)
    with pytest.raises(
        DistilrecError,
        match=r"30 items have 2 directions.* text.whiten_width asks for 3. Lower text.whiten_width, or leave it out",
    ):
        _whitened(tmp_path, flat, width=3)


def test_few_titles_are_whitened_in_few_directions(tmp_path: Path) -> None:
    """With nearly as many directions as titles, a tenth is kept: in all of them, titles would be equally far apart."""
    vectors = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    white = _whitened(tmp_path, vectors)
    assert white.shape == (40, 4)
    assert np.array_equal(white, _whitened(tmp_path, vectors, width=4))


@pytest.mark.parametrize("titles", [0, 1, 3])
def test_titles_that_do_not_differ_stay_as_they_are(tmp_path: Path, titles: int) -> None:
    """Without two different titles there is nothing to whiten."""
    vectors = np.zeros((5, 6), np.float32)
    vectors[:titles, 2] = 1.0
    assert np.array_equal(_whitened(tmp_path, vectors), vectors)


def test_files_are_whitened_as_a_whole(tmp_path: Path) -> None:
    """Several files are whitened by all their vectors together, to a mean squared length of 1."""
    vectors = _cone()
    for number, (start, stop) in enumerate([(30, 50), (0, 30), (50, 50)]):
        part = [vectors[start:stop].tolist()]
        table = pa.table([pa.array(range(start, stop), pa.int32()), *part], schema=tables.TITLE_VECTORS.schema)
        pq.write_table(table, tmp_path / f"{number}.parquet")
    facts = whiten_files(tmp_path, width=4)
    tables.check_files(tables.TITLE_VECTORS, tmp_path)
    white = read_title_vectors(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    np.testing.assert_allclose(white, _whitened(whole, vectors, width=4) / 2, atol=1e-4)
    assert (white[vectors.any(1)] ** 2).sum(1).mean() == pytest.approx(1, abs=1e-4)
    values = np.linalg.eigvalsh(np.cov(vectors[vectors.any(1)].T, bias=True))[::-1]
    assert facts == {"width": 4, "explained": pytest.approx(values[:4].sum() / values.sum(), rel=1e-3)}


def test_longer_vectors_are_the_same_ones_scaled(tmp_path: Path) -> None:
    """Vectors at scale 4 are four times the vectors at scale 1."""
    one, four = tmp_path / "one", tmp_path / "four"
    for folder in (one, four):
        folder.mkdir()
        table = pa.table([range(50), _cone().tolist()], names=["item_index", "vector"])
        pq.write_table(table.cast(tables.TITLE_VECTORS.schema), folder / "vectors.parquet")
    whiten_files(one, width=4)
    whiten_files(four, width=4, scale=4.0)
    np.testing.assert_allclose(read_title_vectors(four), 4 * read_title_vectors(one), rtol=1e-5)
