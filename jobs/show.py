"""Print what users did and what was recommended to them: the quickest way to see whether a table makes sense."""

import argparse
import sys
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs._console import command, say
from kdlib import publish
from kdlib.config import EVENT_TYPES, RunConfig
from kdlib.errors import InputError

NUM_HISTORY = 10
"""Interactions shown of a history, the newest last."""
NUM_SAMPLES = 3


def format_user(config: RunConfig, user_id: str) -> str:
    """A user's last interactions and recommendations as text, one line each.

    Raises:
      InputError: histories or recommendations of the date are not published, or do not hold the user.
    """
    history = _user_row(config, "histories", user_id, ["item_indices", "event_types", "event_times"])
    lists = _user_row(config, "recommendations", user_id, None)
    # null where there are none, and a night of an earlier version lacks the column
    reasons: list[list[str]] = lists.get("because_item_ids") or [[]] * len(lists["item_ids"])
    num_items = len(history["item_indices"])
    shown = slice(max(0, num_items - NUM_HISTORY), num_items)
    named = sum(reasons, lists["item_ids"])
    by_index, by_id = _titles(config, history["item_indices"][shown], named)
    lines = [
        f"user {user_id}: {num_items} interactions" + (f", the last {NUM_HISTORY}:" if num_items > NUM_HISTORY else ":")
    ]
    for index, kind, time in zip(
        *(history[name][shown] for name in ("item_indices", "event_types", "event_times")), strict=True
    ):
        lines.append(f"  {time:%Y-%m-%d %H:%M}  {EVENT_TYPES[kind]:<9}  {by_index[index]}")
    lines.append(
        f"recommended on {config.day} (source {lists['source']}, model version {lists['model_version']}, "
        f"data until {lists['generated_at']:%Y-%m-%d %H:%M} UTC):"
    )
    for rank, (item_id, score, because) in enumerate(
        zip(lists["item_ids"], lists["scores"], reasons, strict=True), start=1
    ):
        lines.append(f"  {rank:>3}  {score:>9.4f}  {by_id.get(item_id, item_id)}")
        if because:
            lines.append(f"{'':18}because: {', '.join(by_id.get(reason, reason) for reason in because)}")
    return "\n".join(lines)


def sample_users(config: RunConfig, n: int) -> list[str]:
    """Up to n users worth looking at, the same ones for the same tables: spread over short and long histories.

    Users with a list from the model and three interactions or more, as long as there are any; else whoever there is.

    Raises:
      InputError: histories or recommendations of the date are not published.
    """
    file = min(publish.current(config.root, "recommendations", config.day).glob("*.parquet"))
    table = pq.ParquetFile(file).read_row_group(0, columns=["user_id", "source"])
    source = dict(zip(table["user_id"].to_pylist(), table["source"].to_pylist(), strict=True))
    file = min(publish.current(config.root, "histories", config.day).glob("*.parquet"))
    histories = pq.ParquetFile(file).read_row_group(0, columns=["user_id", "item_indices"])
    lengths = histories["item_indices"].combine_chunks().value_lengths().to_pylist()
    users = [
        (length, user) for user, length in zip(histories["user_id"].to_pylist(), lengths, strict=True) if user in source
    ]
    good = [(length, user) for length, user in users if length >= 3 and source[user] == "model"]
    ordered = sorted(good or users)
    if len(ordered) <= n:
        return [user for _, user in ordered]
    return [ordered[(2 * place + 1) * len(ordered) // (2 * n)][1] for place in range(n)]


def _user_row(config: RunConfig, table: str, user_id: str, columns: list[str] | None) -> dict[str, Any]:
    folder = publish.current(config.root, table, config.day)
    rows = pq.read_table(folder, columns=columns, filters=[("user_id", "=", user_id)]).to_pylist()
    if not rows:
        raise InputError(
            f"no user {user_id!r} in {table} of {config.day} under {config.root}; "
            f"try {', '.join(sample_users(config, NUM_SAMPLES))}, or `distilrec show` without --user"
        )
    return rows[0]


def _titles(config: RunConfig, indices: list[int], item_ids: list[str]) -> tuple[dict[int, str], dict[str, str]]:
    """What to call items, by index and by id: the title, or the id where there is none."""
    folder = publish.current(config.root, "item_vocabulary", config.day)
    wanted = pc.field("item_index").isin(indices) | pc.field("item_id").isin(item_ids)
    rows = pq.read_table(folder, columns=["item_index", "item_id", "title"], filters=wanted).to_pylist()
    by_index = {row["item_index"]: row["title"] or row["item_id"] for row in rows}
    return by_index, {row["item_id"]: by_index[row["item_index"]] for row in rows}


def run(config: RunConfig) -> None:
    """Print a few sample users."""
    say("\n\n".join(format_user(config, user) for user in sample_users(config, NUM_SAMPLES)))


def _run_with_arguments(config: RunConfig, arguments: argparse.Namespace) -> None:
    if arguments.user is None:
        run(config)
    else:
        say(format_user(config, arguments.user))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", metavar="ID", help=f"the user to show (default: {NUM_SAMPLES} sample users)")


def main(argv: list[str] | None = None) -> int:
    return command(
        "show", run, argv,
        description=__doc__ or "", add_arguments=_add_arguments, with_arguments=_run_with_arguments, reads_only=True,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
