"""The common part of a teacher's vectors, which hides what tells products apart.

All vectors of some encoders lie in a narrow cone: with multilingual-e5-small, .75 is a low cosine. Without the products' mean,
cosines spread around 0, as scores and losses expect (Mu & Viswanath 2018, all-but-the-top).

Shapes: N vectors, E text-vector width.
"""

from collections.abc import Iterable

import numpy as np


def centre_of(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of the vectors that are not zero, float32 [E]. Zeros if all are zero.

    Args:
      parts: float [N, E] each, at least one.
    """
    total_E, count = np.zeros(()), 0
    for part_NE in parts:
        total_E, count = total_E + part_NE.sum(0, dtype=np.float64), count + int(part_NE.any(1).sum())
    return (total_E / max(count, 1)).astype(np.float32)


def centred(vectors_NE: np.ndarray, centre_E: np.ndarray) -> np.ndarray:
    """The vectors without the centre, scaled to length 1 again: float32 [N, E]. Vectors of zeros stay zero.

    Args:
      vectors_NE: float [N, E].
      centre_E: of the products, for products and queries alike.
    """
    moved_NE = np.where(vectors_NE.any(1, keepdims=True), vectors_NE - centre_E, 0)
    return (moved_NE / np.maximum(np.linalg.norm(moved_NE, axis=1, keepdims=True), 1e-12)).astype(np.float32)
