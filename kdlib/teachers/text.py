"""Title vectors, which a text teacher adds to its item embeddings: as files, and whitened.

Shapes: V items, E text-vector width, W width after whitening.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from kdlib.encoders.vectors import vectors_table
from kdlib.errors import DistilrecError
from kdlib.store import tables

TITLES_A_DIRECTION = 10
"""With few titles, whitening keeps one direction for so many titles."""
SMALLEST_VARIANCE = 1e-9
"""A direction with less than this share of the largest variance counts as empty."""


def read_title_vectors(folder: Path) -> np.ndarray:
    """The published title vectors in the order of the item indices: float32 [items, width]."""
    return read_vectors(folder, "item_index")


def read_vectors(folder: Path, index: str) -> np.ndarray:
    """The column `vector` of a folder of Parquet files, in the order of the column `index`: float32 [rows, width].

    The column `index` holds each number from 0 once. The function reads batch by batch, because the lists of one Arrow
    array hold at most 2³¹ numbers.
    """
    source = pads.dataset([str(file) for file in sorted(folder.glob("*.parquet"))], format="parquet")
    vectors_VE = np.empty((0, 0), np.float32)
    for batch in source.to_batches(columns=[index, "vector"]):
        if len(batch):
            part = _vectors_of(pa.Table.from_batches([batch]))
            if not len(vectors_VE):
                vectors_VE = np.empty((source.count_rows(), part.shape[1]), np.float32)
            vectors_VE[batch[index].to_numpy()] = part
    return vectors_VE


def whiten_files(folder: Path, *, width: int | None = None, scale: float = 1.0) -> dict[str, Any]:
    """PCA-whiten a folder of `tables.TITLE_VECTORS` in place, with one file in memory at a time.

    Over the items with a title, the new coordinates have mean 0, equal variance and no correlation. The variance is
    scale²/W, so the mean squared length is scale². Vectors of items without a title stay zero. The same vectors always
    give the same result, signs included.

    A pretrained encoder's vectors lie in a narrow cone, where a few common directions hide the others. Whitened title
    vectors serve sequential recommenders better (Su et al. 2021, arXiv 2103.15316; WhitenRec, Zhang et al. 2024).

    Args:
      folder: of Parquet files.
      width: W, number of directions to keep, largest variance first. None: all directions that are not empty, or, if they
        are more than half as many as the titles, a tenth of the number of titles.
      scale: root mean square length of the whitened vectors.

    Returns:
      `width`, and `explained`: the kept directions' share of the variance. `width` is None if fewer than two titles
      differ: then the vectors stay as they are.

    Raises:
      DistilrecError: the vectors have fewer directions than `width`.
    """
    files = sorted(folder.glob("*.parquet"))
    batches = pads.dataset([str(file) for file in files], format="parquet").to_batches(columns=["vector"])
    found = _whitening((_vectors_of(pa.Table.from_batches([b])) for b in batches if len(b)), width)
    if found is None:
        return {"width": None, "explained": 0.0}
    mean_E, matrix_EW, explained = found
    for file in files:
        table = pq.read_table(file, schema=tables.TITLE_VECTORS.schema)
        if len(table):
            vectors_VW = _whitened(_vectors_of(table), mean_E, matrix_EW * (scale / np.sqrt(matrix_EW.shape[1])))
            pq.write_table(vectors_table(table["item_index"].combine_chunks(), vectors_VW), file)
    return {"width": matrix_EW.shape[1], "explained": explained}


def _whitening(parts: Iterable[np.ndarray], width: int | None) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Mean float64 [E], matrix float64 [E, W] and the kept share of the variance, from one pass over the vectors.

    None if fewer than two titles differ.
    """
    count, total, products = 0, np.zeros(()), np.zeros(())
    for part in parts:
        rows = part[part.any(1)].astype(np.float64)
        count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
    values = directions = np.zeros(0)
    covariance_EE = np.zeros((1, 1))
    if count > 1:
        covariance_EE = products / count - np.outer(total / count, total / count)
        values, directions = np.linalg.eigh(covariance_EE)
        values, directions = values[::-1], directions[:, ::-1]
    rank = int((values > SMALLEST_VARIANCE * values[0]).sum()) if len(values) and values[0] > 0 else 0
    if width is not None and rank < width:
        raise DistilrecError(
            f"the title vectors of {count} items have {rank} directions, but text.whiten_width asks for {width}."
            " Lower text.whiten_width, or leave it out"
        )
    if rank == 0:
        return None
    mean_E = total / count
    if width is None:
        # whitened in n − 1 directions, n points have equal distances
        width = rank if 2 * rank <= count else max(count // TITLES_A_DIRECTION, 1)
    values, directions = values[:width], directions[:, :width]
    # an eigenvector may have either sign: make its largest entry positive
    largest = directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])]
    return mean_E, directions * np.sign(largest) / np.sqrt(values), float(values.sum() / np.trace(covariance_EE))


def _whitened(vectors_VE: np.ndarray, mean_E: np.ndarray, matrix_EW: np.ndarray) -> np.ndarray:
    titled_V1 = vectors_VE.any(1, keepdims=True)
    return np.where(titled_V1, (vectors_VE - mean_E) @ matrix_EW, 0.0).astype(np.float32)


def _vectors_of(table: pa.Table) -> np.ndarray:
    flat = pa.chunked_array(table["vector"].chunks).combine_chunks().flatten().to_numpy()
    return flat.reshape(len(table), -1)
