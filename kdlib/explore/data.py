"""Rows of the published tables. DuckDB reads them from the Parquet files; nothing is loaded beforehand."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb

from kdlib.config.data import EVENT_TYPES
from kdlib.explore.run import LISTS, Run

MOST_FOUND = 20
"""Most users or items that a search names."""
MOST_STEPS = 50
"""Most interactions of a history that a page shows: the last ones."""

Row = dict[str, Any]


def query(sql: str, folders: dict[str, Path], **values: object) -> list[Row]:
    """The rows of a query.

    Args:
      sql: names the tables as `folders` does, and the values as `$name`.
      folders: table → folder of its Parquet files.
      values: of the query's parameters.

    Raises:
      FileNotFoundError: a folder has no Parquet file any more.
    """
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        for table, folder in folders.items():
            files = [str(file) for file in sorted(folder.glob("*.parquet"))]
            if not files:
                raise FileNotFoundError(f"no Parquet file in {folder}")
            connection.read_parquet(files, hive_partitioning=False).create_view(table)
        found = connection.execute(sql, values)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def find_users(run: Run, start: str) -> list[Row]:
    """Users whose id begins with a text, by id: `user_id`, `interactions`. At most `MOST_FOUND`."""
    return query(
        "select user_id, len(item_indices) as interactions from histories"
        " where user_id >= $start and starts_with(user_id, $start) order by user_id limit $most",
        _folders(run, "histories"),
        start=start,
        most=MOST_FOUND,
    )


def random_user(run: Run) -> str | None:
    """A user with a list from the model, chosen at random. None: no user has one."""
    sql = f"select user_id from {LISTS} where source = 'model' order by random() limit 1"
    rows = query(sql, _folders(run, LISTS))
    return rows[0]["user_id"] if rows else None


def has_pseudonyms(run: Run) -> bool:
    """Whether the ids of the run's users are pseudonyms."""
    return bool(run.manifest("histories").details.get("pseudonyms"))


def count_steps(run: Run, user_id: str) -> int | None:
    """Number of interactions in a user's history. None: the run does not have the user."""
    sql = "select len(item_indices) as interactions from histories where user_id = $user"
    rows = query(sql, _folders(run, "histories"), user=user_id)
    return rows[0]["interactions"] if rows else None


def read_steps(run: Run, user_id: str) -> list[Row]:
    """A user's last interactions, newest first: `time` (UTC), `event`, `item_id`, `title`. At most `MOST_STEPS`."""
    rows = query(
        "with steps as ("
        " select unnest(item_indices) as item_index, unnest(event_types) as event, unnest(event_times) as time,"
        " generate_subscripts(item_indices, 1) as place from histories where user_id = $user)"
        " select time, event, item_id, coalesce(title, item_id) as title"
        " from steps join item_vocabulary using (item_index) order by place desc limit $most",
        _folders(run, "histories", "item_vocabulary"),
        user=user_id,
        most=MOST_STEPS,
    )
    return [row | {"event": EVENT_TYPES[row["event"]]} for row in rows]


def read_list(folder: Path, user_id: str) -> Row | None:
    """A user's row of `list_tables.RECOMMENDATIONS`. None: the table does not have the user."""
    rows = query("select * from lists where user_id = $user", {"lists": folder}, user=user_id)
    return rows[0] if rows else None


def find_items(run: Run, text: str) -> list[Row]:
    """Items whose id begins with a text or whose title contains it, the most used first. At most `MOST_FOUND`.

    Columns: `item_id`, `title`, `interactions`. An item with exactly this id comes first. An empty text finds all items.
    """
    return query(
        "select item_id, coalesce(title, item_id) as title, num_interactions as interactions"
        " from item_vocabulary join item_statistics using (item_index)"
        " where starts_with(item_id, $text) or contains(lower(title), lower($text))"
        " order by item_id = $text desc, num_interactions desc, item_index limit $most",
        _folders(run, "item_vocabulary", "item_statistics"),
        text=text,
        most=MOST_FOUND,
    )


def read_item(run: Run, item_id: str) -> Row | None:
    """An item's row of `tables.ITEM_VOCABULARY` and `tables.ITEM_STATISTICS`. None: the vocabulary lacks the item.

    The row has the item's `category` and `description` too: None where the run has no products.
    """
    sql = "select * from item_vocabulary join item_statistics using (item_index) where item_id = $item"
    rows = query(sql, _folders(run, "item_vocabulary", "item_statistics"), item=item_id)
    if not rows:
        return None
    texts = []
    if "products" in run.versions:
        sql = "select category, description from products where item_id = $item"
        texts = query(sql, _folders(run, "products"), item=item_id)
    return {"category": None, "description": None} | rows[0] | (texts[0] if texts else {})


def read_titles(run: Run, item_ids: Collection[str]) -> dict[str, str]:
    """Item id → title; the id itself where the vocabulary has no title of the item."""
    rows = query(
        "select item_id, title from item_vocabulary where title is not null and list_contains($items, item_id)",
        _folders(run, "item_vocabulary"),
        items=list(item_ids),
    )
    return {item: item for item in item_ids} | {row["item_id"]: row["title"] for row in rows}


def _folders(run: Run, *tables: str) -> dict[str, Path]:
    return {table: run.folder(table) for table in tables}
