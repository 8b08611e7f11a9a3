"""Reads and prints single users."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.runtime.console import safe
from kdlib.errors import InputError
from kdlib.report.user_text import format_user
from kdlib.report.users import read_user, sample_users
from kdlib.store import partitions, tables

DS = "2026-11-22"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def _put(root, name, *rows):
    staging = partitions.new_staging(root, name, DS)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=tables.ALL[name].schema), staging / "part-00000.parquet")
    partitions.publish(staging, root, name, DS, fingerprint="by hand")


def _store(root):
    """Ann has one interaction and an empty list. Bob has no interactions and one item."""
    one = {"item_indices": [0], "event_types": [0], "event_times": [NOW], "session_numbers": [0]}
    none = {name: [] for name in one}
    one, none = (row | {"num_train": 0, "user_values": []} for row in (one, none))
    _put(root, "histories", {"user_id": "ann", **one}, {"user_id": "bob", **none})
    title = "Red\x1b[2J\r\nlamp\u202e\u2066 no. 1"
    _put(
        root,
        "item_vocabulary",
        {"item_index": 0, "item_id": "a", "title": title, "available": True, "in_stock": True, "first_seen": DS},
    )
    empty = {
        "user_id": "ann",
        "item_ids": [],
        "scores": [],
        "source": "model",
        "model_version": "v",
        "generated_at": NOW,
    }
    _put(root, "recommendations", empty, empty | {"user_id": "bob", "item_ids": ["a"], "scores": [1.0]})


def test_a_stranger_is_offered_others_unless_they_are_pseudonyms(tmp_path):
    """The error names other users, unless ids are pseudonyms: `--user` takes the shop's own ids."""
    _store(tmp_path)
    with pytest.raises(InputError, match=r"no user 'x' in histories .*; try bob, ann, or `distilrec show` without"):
        read_user(tmp_path, DS, "x")
    staging = partitions.new_staging(tmp_path, "histories", DS)
    pq.write_table(tables.ALL["histories"].schema.empty_table(), staging / "part-00000.parquet")
    partitions.publish(staging, tmp_path, "histories", DS, fingerprint="k", details={"pseudonyms": {"check": "c"}})
    with pytest.raises(InputError, match=r"no user 'b71' in .*; this is the pseudonym of the id"):
        read_user(tmp_path, DS, "b71")


def test_files_without_rows_are_passed_over(tmp_path):
    """Spark may leave the first file without rows. The samples then come from the next file."""
    _store(tmp_path)
    for name in ("histories", "recommendations"):
        (full,) = partitions.current(tmp_path, name, DS).glob("*.parquet")
        empty = full.with_name(f"a-{full.name}")
        pq.ParquetWriter(empty, tables.ALL[name].schema).close()
        assert empty < full
        assert pq.ParquetFile(empty).num_row_groups == 0
    assert sample_users(tmp_path, DS) == ["bob", "ann"]


def test_a_user_with_an_empty_list_or_history_is_shown(tmp_path):
    """Both users are shown. Line breaks and terminal commands in a title become blanks."""
    _store(tmp_path)
    assert read_user(tmp_path, DS, "ann").recommended == ()
    assert read_user(tmp_path, DS, "bob").history == ()
    for user, line in (("ann", 1), ("bob", 2)):
        text = format_user(tmp_path, DS, user, safe=safe)
        assert text.splitlines()[line].endswith("  Red [2J lamp  no. 1")
        assert not {"\x1b", "\r", "\u202e", "\u2066"} & set(text)
