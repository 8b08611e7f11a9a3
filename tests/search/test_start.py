"""Sub-word vectors fitted to a teacher's vectors, and vectors without their common part."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdlib.search.centring import centre_of, centre_of_files, centred
from kdlib.search.start import fitted_embeddings


def test_fitted_vectors_solve_the_ridge_regression() -> None:
    """The result is the solution of the normal equations. A sub-word that no query has gets zeros."""
    generator = np.random.default_rng(0)
    queries = [generator.integers(0, 6, size=generator.integers(1, 5)).tolist() for _ in range(40)]
    vectors = generator.normal(size=(40, 3)).astype(np.float32)
    bags = np.array([[query.count(piece) / len(query) for piece in range(8)] for query in queries])
    expected = np.linalg.solve(bags.T @ bags + 0.1 * np.eye(8), bags.T @ vectors)
    found = fitted_embeddings(queries, vectors, vocabulary=8)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not found[6:].any()


def test_the_centre_is_the_mean_of_the_vectors_that_are_there(tmp_path: Path) -> None:
    """Parts give what the whole gives, and vectors of zeros do not count."""
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    vectors[[2, 8]] = 0
    expected = vectors[vectors.any(1)].mean(0)
    np.testing.assert_allclose(centre_of([vectors]), expected, rtol=1e-5)
    np.testing.assert_allclose(centre_of(part for part in (vectors[:4], vectors[4:])), expected, rtol=1e-5)
    assert centre_of([np.zeros((2, 4), np.float32)]).tolist() == [0] * 4
    for number, part in enumerate((vectors[:4], vectors[4:], vectors[:0])):
        table = pa.table({"vector": pa.array(part.tolist(), pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    np.testing.assert_allclose(centre_of_files(map(str, sorted(tmp_path.glob("*")))), expected, rtol=1e-5)


def test_centred_vectors_of_a_cone_spread() -> None:
    """Cosines above .9 come to lie around 0, at length 1. Vectors of zeros stay zero."""
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32) * 0.1 + [3, 0, 0, 0, 0, 0, 0, 0]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[7] = 0
    found = centred(vectors, centre_of([vectors]))
    there = np.delete(found, 7, axis=0)
    np.testing.assert_allclose(np.linalg.norm(there, axis=1), 1, rtol=1e-5)
    assert abs((there @ there.T).mean()) < 0.05
    assert not found[7].any()
    assert found.dtype == np.float32
