"""What encoders share: where texts are cut, the check of vectors from outside, vectors as a table.

Shapes: U texts, E text-vector width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdlib.errors import ModelError
from kdlib.store import tables

CHARACTERS_A_TOKEN = 4
"""An encoder whose tokens cannot be counted gets this many characters of a text for each of `max_tokens`."""


def cut(texts: Sequence[str], *, max_tokens: int) -> list[str]:
    """The beginnings of the texts, without null characters, which end a text in C."""
    return [text[: CHARACTERS_A_TOKEN * max_tokens].replace("\0", " ") for text in texts]


def unit_vectors(found: Any, *, texts: int, width: int | None, who: str) -> np.ndarray:
    """What an encoder has returned as unit vectors, float32 [texts, E]. A vector of zeros stays zero.

    Args:
      found: an array, a tensor on the CPU, or lists.
      texts: number of texts that the encoder got.
      width: E of the vectors before; None: these are the first.
      who: the encoder, for an error's text.

    Raises:
      ModelError: it is not one finite vector of this width for each text.
    """
    try:
        vectors_UE = np.asarray(found)
    except ValueError:  # lists of different lengths
        raise ModelError(
            f"{who} must return vectors of one width for {texts} texts, found vectors of different widths"
        ) from None
    shape = [texts, width or "any width"]
    if vectors_UE.dtype.kind not in "fiu" or vectors_UE.ndim != 2 or len(vectors_UE) != texts or not vectors_UE.size:
        raise ModelError(
            f"{who} must return real numbers of the shape {shape} (texts, width), found {vectors_UE.dtype} of the shape"
            f" {list(vectors_UE.shape)}"
        )
    if width is not None and vectors_UE.shape[1] != width:
        raise ModelError(
            f"{who} must return vectors of the width {width}, as before, found the width {vectors_UE.shape[1]}"
        )
    vectors_UE = vectors_UE.astype(np.float32)
    wrong_U = ~np.isfinite(vectors_UE).all(1)
    if wrong_U.any():
        raise ModelError(
            f"{who} must return finite numbers, found NaN or infinity in the vectors of {int(wrong_U.sum())} of {texts} texts"
        )
    length_U1 = np.linalg.norm(vectors_UE, axis=1, keepdims=True)
    return vectors_UE / np.where(length_U1 > 0, length_U1, 1)


def vectors_table(item_index: pa.Array, vectors_VE: np.ndarray) -> pa.Table:
    """Rows of `tables.TITLE_VECTORS`."""
    offsets = np.arange(0, vectors_VE.size + 1, vectors_VE.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors_VE.ravel()))
    return pa.table([item_index, lists], schema=tables.TITLE_VECTORS.schema)
