"""Made-up input files for the recommender's actor. Its speed does not depend on whether the model is trained."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kdlib.data.shards import history_shards
from kdlib.inference.shard_recommender import ShardRecommender
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store.tables import HISTORIES, ITEM_STATISTICS, ITEM_VOCABULARY

USERS_A_SHARD = 4096


def histories_table(items: np.ndarray, offsets: np.ndarray, user_ids: list[str]) -> pa.Table:
    """Item lists as `tables.HISTORIES`. A user's last item is for validation, the others are for training.

    Args:
      items: items of all histories, one history after the other, int [positions].
      offsets: history i is `items[offsets[i]:offsets[i + 1]]`, int [users + 1].
      user_ids: one per user.
    """
    lengths = np.diff(offsets)
    places = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    lists = {
        "item_indices": items.astype(np.int32),
        "event_types": np.zeros(len(places), np.int8),
        "event_times": places * 86_400_000_000,
        "session_numbers": places.astype(np.int32),
    }
    ends = pa.array(offsets, pa.int32())
    columns: dict[str, Any] = {name: pa.ListArray.from_arrays(ends, pa.array(v)) for name, v in lists.items()}
    columns |= {
        "user_id": user_ids,
        "num_train": lengths - 1,
        "validation_position": lengths - 1,
        "test_position": pa.nulls(len(lengths)),
        "user_values": [[]] * len(lengths),
    }
    return pa.table({name: columns[name] for name in HISTORIES.schema.names}).cast(HISTORIES.schema)


def serving_actor(
    folder: Path, histories: pa.Table, counts: np.ndarray, shape: dict[str, Any], **more: Any
) -> tuple[Any, pa.Table]:
    """The actor of `jobs/recommend.py` for lists of 10 items on one thread, and the shards for it.

    Args:
      folder: empty.
      histories: from `histories_table`.
      counts: how often each item occurs, int [items].
      shape: arguments of `SequenceModel`.
      more: further settings of the actor.
    """
    for part in ("model", "vocabulary", "statistics", "table"):
        (folder / part).mkdir()
    ids = [str(number) for number in range(len(counts))]
    torch.manual_seed(1)
    model = SequenceModel(num_items=len(ids), **shape)
    table = model.item_embedding if model.code_tables is None else model.code_tables
    table.data *= 20  # scores then lie as far apart as those of a trained model
    facts = {"vocabulary_items": len(ids), "vocabulary_hash": vocabulary_hash(ids)}
    save_model(folder / "model", model, model.state_dict(), facts)
    numbers = np.arange(len(ids), dtype=np.int32)
    vocabulary = {"item_index": numbers, "item_id": ids, "title": pa.nulls(len(ids), pa.string())}
    vocabulary |= dict.fromkeys(("available", "in_stock"), np.ones(len(ids), bool))
    vocabulary |= {"first_seen": ["2025-12-01" if number % 50 else "2025-12-30" for number in range(len(ids))]}
    pq.write_table(pa.table(vocabulary, schema=ITEM_VOCABULARY.schema), folder / "vocabulary" / "part-0.parquet")
    statistics = {"item_index": numbers} | dict.fromkeys(ITEM_STATISTICS.schema.names[1:], counts)
    pq.write_table(pa.table(statistics, schema=ITEM_STATISTICS.schema), folder / "statistics" / "part-0.parquet")
    pq.write_table(histories, folder / "histories.parquet", row_group_size=USERS_A_SHARD)
    settings = {
        "model_folder": str(folder / "model"),
        "vocabulary_folder": str(folder / "vocabulary"),
        "statistics_folder": str(folder / "statistics"),
        "k": 10,
        "because": 0,
        "item_block": 65_536,
        "generated_at": datetime(2026, 1, 1, tzinfo=UTC),
        "threads": 1,
    }
    shards = history_shards([str(folder / "histories.parquet")], num_rows=USERS_A_SHARD)
    return ShardRecommender(str(folder / "table"), 1024, settings | more), pa.Table.from_pylist(
        [vars(shard) for shard in shards]
    )
