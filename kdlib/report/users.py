"""Reads the history and the recommendations of single users, with titles, for the page and for `distilrec show`."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdlib.config.data import EVENT_TYPES
from kdlib.errors import InputError
from kdlib.report.content import Recommended, User
from kdlib.store import partitions

NUM_HISTORY = 10
"""How many interactions of a history are read: the last ones, oldest first."""
NUM_SAMPLES = 3
"""How many sample users are chosen."""


def read_user(root: Path, ds: str, user_id: str) -> User:
    """A user's last interactions and recommendations.

    Raises:
      InputError: histories or recommendations of the day are not published, or do not have the user.
    """
    history = _row(root, ds, "histories", user_id, ["item_indices", "event_types", "event_times"])
    lists = _row(root, ds, "recommendations", user_id, None)
    because = lists.get("because_item_ids") or [[]] * len(lists["item_ids"])
    sources = lists.get("item_sources") or [lists["source"]] * len(lists["item_ids"])
    num_items = len(history["item_indices"])
    shown = slice(max(0, num_items - NUM_HISTORY), num_items)
    by_index, by_id = _titles(root, ds, history["item_indices"][shown], sum(because, lists["item_ids"]))

    def title(item_id: str) -> str:
        return by_id.get(item_id, item_id)

    steps = zip(*(history[name][shown] for name in ("event_times", "event_types", "item_indices")), strict=True)
    return User(
        user_id,
        num_items,
        tuple((time, EVENT_TYPES[kind], by_index[index]) for time, kind, index in steps),
        lists["source"],
        lists["model_version"],
        lists["generated_at"],
        tuple(
            Recommended(title(item), score, tuple(map(title, reasons)), source == "pinned")
            for item, score, reasons, source in zip(lists["item_ids"], lists["scores"], because, sources, strict=True)
        ),
        lists.get("variant"),
    )


def sample_users(root: Path, ds: str, n: int = NUM_SAMPLES) -> list[str]:
    """Up to n sample users, from short to long histories. The same tables give the same users.

    Prefers users with at least three interactions and a list from the model. If no user has both, chooses from all users.

    Raises:
      InputError: histories or recommendations of the day are not published.
    """
    table = _first_rows(partitions.current(root, "recommendations", ds), ["user_id", "source"])
    source = dict(zip(table["user_id"].to_pylist(), table["source"].to_pylist(), strict=True))
    histories = _first_rows(partitions.current(root, "histories", ds), ["user_id", "item_indices"])
    lengths = histories["item_indices"].combine_chunks().value_lengths().to_pylist()
    users = [
        (length, user) for user, length in zip(histories["user_id"].to_pylist(), lengths, strict=True) if user in source
    ]
    good = [(length, user) for length, user in users if length >= 3 and source[user] == "model"]
    ordered = sorted(good or users)
    if len(ordered) <= n:
        return [user for _, user in ordered]
    return [ordered[(2 * place + 1) * len(ordered) // (2 * n)][1] for place in range(n)]


def _first_rows(folder: Path, columns: list[str]) -> pa.Table:
    """The first row group of the first file that has rows. With few users, Spark writes some files without rows."""
    for file in sorted(folder.glob("*.parquet")):
        if (opened := pq.ParquetFile(file)).metadata.num_rows:
            return opened.read_row_group(0, columns=columns)
    return pq.read_table(folder, columns=columns)


def _row(root: Path, ds: str, table: str, user_id: str, columns: list[str] | None) -> dict[str, Any]:
    folder = partitions.current(root, table, ds)
    rows = pq.read_table(folder, columns=columns, filters=[("user_id", "=", user_id)]).to_pylist()
    if not rows:
        if partitions.manifest_of(root, "histories", ds).details.get("pseudonyms"):  # people ask by the shop's own id
            known = "this is the pseudonym of the id that was asked for"
        else:
            known = f"try {', '.join(sample_users(root, ds))}, or `distilrec show` without --user"
        raise InputError(f"no user {user_id!r} in {table} of {ds} under {root}; {known}")
    return rows[0]


def _titles(root: Path, ds: str, indices: list[int], item_ids: list[str]) -> tuple[dict[int, str], dict[str, str]]:
    """Names of items, by index and by id. The name is the title, or the id if the item has no title."""
    folder = partitions.current(root, "item_vocabulary", ds)
    # Arrow cannot compare an empty list without a type
    wanted = pc.field("item_index").isin(pa.array(indices, pa.int32()))
    wanted |= pc.field("item_id").isin(pa.array(item_ids, pa.string()))
    rows = pq.read_table(folder, columns=["item_index", "item_id", "title"], filters=wanted).to_pylist()
    by_index = {row["item_index"]: row["title"] or row["item_id"] for row in rows}
    return by_index, {row["item_id"]: by_index[row["item_index"]] for row in rows}
