"""Codes for every item of the vocabulary, and the tables of codes and codewords.

The codes of an item come from one of three vectors:
- An item with training interactions: the teachers' vector of the item.
- A new item with a title: the mean vector of the items with the nearest titles (`kdlib.models.new_items`). A student with
  codes scores the new item like these items.
- A new item without a title: the mean vector of all known items, so the student treats it as an average item.

Shapes: V items, N new items with a title. W scoring width of a teacher, D width of an item vector, E text-vector width.
M codes per item, S codewords per code table, d width of a codeword.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from kdlib.data.windows import list_array
from kdlib.models.codes import compose, encode, explained_variance, product_codes, residual_codes
from kdlib.models.new_items import nearest_items, with_new_items
from kdlib.store import tables
from kdlib.teachers.item_space import item_space

SOURCES = ("teacher", "title", "none")


def learn_item_codes(
    heads: Sequence[tuple[Tensor, Tensor | None]],
    weights: Sequence[float],
    known_V: Tensor,
    titles_VE: np.ndarray | None,
    *,
    kind: Literal["residual", "product"],
    count: int,
    size: int,
    width: int,
    seed: int,
) -> tuple[pa.Table, pa.Table, dict[str, Any]]:
    """Learn codewords from the teachers' item vectors and give every item its codes.

    Args:
      heads: one (matrix float [V, W], bias float [V] or None) per teacher.
      weights: one per teacher.
      known_V: bool, true for items with training interactions.
      titles_VE: title vectors, zeros where an item has no title; None: no item has a title.
      kind: see `kdlib.models.codes`.
      count: M.
      size: S, at most the number of known items.
      width: D, the width of the student.
      seed: of all random choices.

    Returns:
      `tables.ITEM_CODES`, `tables.ITEM_CODEBOOKS` and metadata: the `explained_variance` of the known items' vectors by
      their codes, and the number of `items` by source.

    Raises:
      ModelError: a teacher's item vector is not finite.
      ValueError: no item is known, or `size` or `count` does not fit.
    """
    vectors_VD = item_space(heads, weights, known_V, width=width, seed=seed)
    learn = {"residual": residual_codes, "product": product_codes}[kind]
    known_codes, codebooks_MSd = learn(vectors_VD[known_V], count=count, size=size, seed=seed)
    kept = explained_variance(vectors_VD[known_V], compose(codebooks_MSd, known_codes, width=width))

    vectors_VD[~known_V] = 0.0  # zero is the mean of the known items
    titled_V = torch.zeros_like(known_V)
    if titles_VE is not None:
        nearest = nearest_items(known_V, torch.tensor(titles_VE))
        vectors_VD = with_new_items(vectors_VD, nearest)
        titled_V[nearest.new_N] = True
    sources_V = np.select([known_V.numpy(), titled_V.numpy()], [0, 1], 2)
    facts = {
        "explained_variance": kept,
        "items": {name: int((sources_V == number).sum()) for number, name in enumerate(SOURCES)},
    }
    codes_VM = encode(vectors_VD, codebooks_MSd)
    return _codes_table(codes_VM, sources_V), _codebooks_table(codebooks_MSd), facts


def read_item_codes(codes_folder: Path, codebooks_folder: Path) -> tuple[Tensor, Tensor]:
    """The codes, uint8 [V, M], and code tables, float32 [M, S, d], that a student with codes starts from."""
    codes = pq.read_table(codes_folder, schema=tables.ITEM_CODES.schema).sort_by("item_index")
    books = pq.read_table(codebooks_folder, schema=tables.ITEM_CODEBOOKS.schema)
    books = books.sort_by([("level", "ascending"), ("code", "ascending")])
    codes_VM = _flat(codes["codes"]).reshape(len(codes), -1).astype(np.uint8)
    codewords = _flat(books["codeword"]).reshape(codes_VM.shape[1], -1, len(books["codeword"][0]))
    return torch.from_numpy(codes_VM), torch.from_numpy(codewords.copy())


def _codes_table(codes_VM: Tensor, sources_V: np.ndarray) -> pa.Table:
    items, count = codes_VM.shape
    columns = {
        "item_index": pa.array(np.arange(items, dtype=np.int32)),
        "codes": list_array(codes_VM.numpy().astype(np.int16).ravel(), np.full(items, count), pa.int16()),
        "source": pa.array(SOURCES).take(pa.array(sources_V)),
    }
    return pa.table(columns, schema=tables.ITEM_CODES.schema)


def _codebooks_table(codebooks_MSd: Tensor) -> pa.Table:
    count, size, part = codebooks_MSd.shape
    columns = {
        "level": pa.array(np.repeat(np.arange(count, dtype=np.int16), size)),
        "code": pa.array(np.tile(np.arange(size, dtype=np.int16), count)),
        "codeword": list_array(codebooks_MSd.numpy().ravel(), np.full(count * size, part), pa.float32()),
    }
    return pa.table(columns, schema=tables.ITEM_CODEBOOKS.schema)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return pa.concat_arrays(column.chunks).flatten().to_numpy()
