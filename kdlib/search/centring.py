"""The common part of a teacher's vectors, which hides what tells products apart.

All vectors of an encoder lie in a cone: with multilingual-e5-small, .75 is a low cosine. Without the mean, cosines spread
around 0, as scores and losses expect (Mu & Viswanath 2018, all-but-the-top). Short queries lie in another cone than product
texts, so products lose the mean of all products, and queries the mean of the training queries. Vectors of a Hugging Face
encoder keep their mean (`TextConfig.loses_mean`).

Shapes: N vectors, E text-vector width.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq

NO_CENTRE = np.zeros((), np.float32)
"""For vectors that keep their mean."""


def centre_of(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of the vectors that are not zero, float32 [E]. Zeros if all are zero.

    Args:
      parts: float [N, E] each, at least one.
    """
    total_E, count = np.zeros(()), 0
    for part_NE in parts:
        total_E, count = total_E + part_NE.sum(0, dtype=np.float64), count + int(part_NE.any(1).sum())
    return (total_E / max(count, 1)).astype(np.float32)


def centre_of_files(files: Iterable[str]) -> np.ndarray:
    """The centre of the vectors in the column `vector` of Parquet files, float32 [E]."""
    tables = (pq.read_table(file, columns=["vector"]) for file in files)
    return centre_of(
        table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1) for table in tables if len(table)
    )


def centred(vectors_NE: np.ndarray, centre_E: np.ndarray) -> np.ndarray:
    """The vectors without the centre, scaled to length 1 again: float32 [N, E]. Vectors of zeros stay zero.

    Args:
      vectors_NE: float [N, E].
      centre_E: from `centre_of`.
    """
    moved_NE = np.where(vectors_NE.any(1, keepdims=True), vectors_NE - centre_E, 0)
    return (moved_NE / np.maximum(np.linalg.norm(moved_NE, axis=1, keepdims=True), 1e-12)).astype(np.float32)
