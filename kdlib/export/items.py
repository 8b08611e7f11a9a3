"""The items of an export: ids, counts and what the rules for lists add to their scores; and the vectors that score them.

Shapes: V items, W width of a vector.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from kdlib.inference.list_rules import ListRules
from kdlib.models.sequence import SequenceModel

ITEMS = "items/items.parquet"
VECTORS = "item_vectors.safetensors"
BIAS = "bias"


def bias_column(segment: str | None) -> str:
    """The column of the items that holds what the rules of a segment add to the scores. None: all other users."""
    return BIAS if segment is None else f"{BIAS}/{segment}"


def write_items(
    folder: Path, *, vocabulary: Path, statistics: Path, num_items: int, rules: Mapping[str | None, ListRules]
) -> None:
    """Write `items/items.parquet`, one row for each item that the student knows, in index order.

    Columns: item_index, item_id, available, num_train and num_interactions (for popular items), and `bias`: float32, added
    to the item's score; −inf if the rules leave the item out. A segment of users with rules of its own has a column
    `bias/<segment>`.

    Args:
      folder: of the export.
      vocabulary: ITEM_VOCABULARY.
      statistics: ITEM_STATISTICS.
      num_items: V.
      rules: from `rules_of_policy`.
    """
    items = pq.read_table(vocabulary, columns=["item_index", "item_id", "available"]).sort_by("item_index")
    counts = pq.read_table(statistics, columns=["item_index", "num_train", "num_interactions"]).sort_by("item_index")
    items, counts = items.slice(0, num_items), counts.slice(0, num_items)
    columns = {name: items[name] for name in items.column_names}
    columns |= {name: counts[name] for name in ("num_train", "num_interactions")}
    columns |= {bias_column(segment): pa.array(one.bias_V.numpy()) for segment, one in rules.items()}
    (folder / ITEMS).parent.mkdir()
    pq.write_table(pa.table(columns), folder / ITEMS)


def write_vectors(folder: Path, model: SequenceModel) -> None:
    """Write `item_vectors.safetensors`: `item_vectors` float32 [V, W], and `bias` float32 [V] if the student has one.

    Score of an item = vector of the history · its item vector + its bias.
    """
    with torch.no_grad():
        head_VW, bias_V = model.head()
    tensors = {"item_vectors": head_VW.contiguous()} | ({} if bias_V is None else {"bias": bias_V.contiguous()})
    (folder / VECTORS).write_bytes(save(tensors))
