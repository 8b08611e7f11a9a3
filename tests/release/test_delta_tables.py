"""Delivered Delta Lake tables hold the promoted runs, and their last commit says which run is in use."""

import time

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from kdlib.errors import DeliveryError
from kdlib.privacy import forgetting
from kdlib.release import delivery, promotions
from kdlib.release.delta_tables import PROPERTY, _within_time, _write
from kdlib.store import objects, partitions
from tests.release.deliveries import USERS, files_naming, newest_of_delta, put, put_both, refuse
from tests.s3 import assert_a_signal_ends


def test_delta_tables_hold_the_nights(home, url):
    """Each run is a partition, a rerun replaces it, a rollback deletes later ones, and DuckDB reads the table."""
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver_delta(home, url, keep=2)
    put(home, "2026-11-03", 33, users=USERS + 1)
    delivery.deliver_delta(home, url, keep=2)
    assert newest_of_delta(url) == ("2026-11-03", USERS + 1, {33})
    table = DeltaTable(f"{url}/recommendations")
    assert {part["ds"] for part in table.partitions()} == {"2026-11-02", "2026-11-03"}
    promotions.rollback(home, "2026-11-02")
    delivery.deliver_delta(home, url, keep=2)
    assert newest_of_delta(url) == ("2026-11-02", USERS, {2})
    rows = DeltaTable(f"{url}/recommendations").to_pyarrow_dataset()
    assert duckdb.from_arrow(rows).aggregate("count(*), min(ds)").fetchall() == [(USERS, "2026-11-02")]


def test_a_delta_table_loses_what_was_withdrawn_while_it_could_not_be_reached(home, url):
    """After an undelivered rollback and a new run, the runs that the rollback withdrew are deleted."""
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver_delta(home, url, keep=5)
    promotions.rollback(home, "2026-11-01")
    put(home, "2026-11-04", 4)
    delivery.deliver_delta(home, url, keep=5)
    assert newest_of_delta(url) == ("2026-11-04", USERS, {4})
    table = DeltaTable(f"{url}/recommendations")
    assert {part["ds"] for part in table.partitions()} == {"2026-11-01", "2026-11-04"}


def test_a_new_column_reaches_a_delta_table(home, url):
    """A column that an upgrade adds is added to the Delta table, and is null in earlier runs."""
    put(home, "2026-11-01", 1)
    delivery.deliver_delta(home, url, keep=5)
    staging = partitions.new_staging(home, "recommendations", "2026-11-02")
    pq.write_table(pa.table({"user_id": ["u"], "mark": [2], "item_ids": [["a"]], "why": ["so"]}), staging / "0.parquet")
    version = partitions.publish(staging, home, "recommendations", "2026-11-02", fingerprint="f").version
    promotions.promote(home, "2026-11-02", {"recommendations": version})
    delivery.deliver_delta(home, url, keep=5)
    found = DeltaTable(f"{url}/recommendations").to_pyarrow_table()
    assert found["why"].to_pylist().count("so") == 1
    assert len(found) == USERS + 1


def test_a_delta_table_is_written_once_a_night(home, url):
    """A run that the table holds already causes no commit; a rerun of the same date with other rows does."""
    put(home, "2026-11-01", 1)
    for _ in range(3):
        delivery.deliver_delta(home, url, keep=5)
    assert DeltaTable(f"{url}/recommendations").version() == 0
    put(home, "2026-11-01", 2)
    delivery.deliver_delta(home, url, keep=0)
    delivery.deliver_delta(home, url, keep=5)
    assert newest_of_delta(url) == ("2026-11-01", USERS, {2})
    last = DeltaTable(f"{url}/recommendations").version()
    delivery.deliver_delta(home, url, keep=5)
    assert DeltaTable(f"{url}/recommendations").version() == last


def test_a_delta_table_goes_back_in_one_commit(home, url):
    """A rollback deletes later runs and writes the earlier run in one commit."""
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver_delta(home, url, keep=5)
    before = DeltaTable(f"{url}/recommendations").version()
    promotions.rollback(home, "2026-11-02")
    delivery.deliver_delta(home, url, keep=5)
    table = DeltaTable(f"{url}/recommendations")
    assert table.version() == before + 1
    assert {part["ds"] for part in table.partitions()} == {"2026-11-01", "2026-11-02"}


@pytest.mark.parametrize("keep", [0, 5])
def test_a_delta_table_that_the_night_does_not_have_is_emptied(home, tmp_path, keep):
    """A table that the run does not have is emptied, forgets erased users too, and is filled again by a later run."""
    url = f"file://{tmp_path}/there"
    put_both(home, "2026-11-01", 1)
    delivery.deliver_delta(home, url, keep=5)
    put(home, "2026-11-02", 2, table="search_rankings")
    if not keep:
        forgetting.erase(home, ["u7"])
    assert list(delivery.deliver_delta(home, url, keep=keep).versions) == ["search_rankings"]
    assert DeltaTable(f"{url}/recommendations").to_pyarrow_table().num_rows == 0
    assert bool(files_naming(url, "u7")) == bool(keep)
    put_both(home, "2026-11-03", 3)
    delivery.deliver_delta(home, url, keep=keep)
    assert newest_of_delta(url) == ("2026-11-03", USERS, {3})


def test_a_delta_table_itself_says_what_it_holds(home, url, monkeypatch):
    """If a delivery died before it wrote `promoted.json`, the next one trusts the table's commit instead."""
    put(home, "2026-11-01", 1)
    put(home, "2026-11-02", 2)
    delivery.deliver_delta(home, url, keep=5)
    promotions.rollback(home, "2026-11-01")
    monkeypatch.setattr(delivery, "write_pointer", refuse)
    with pytest.raises(DeliveryError, match="ACCESS_DENIED"):
        delivery.deliver_delta(home, url, keep=5)
    monkeypatch.undo()
    assert newest_of_delta(url) == ("2026-11-01", USERS, {1})
    promotions.rollback(home, "2026-11-02")
    delivery.deliver_delta(home, url, keep=5)
    assert newest_of_delta(url) == ("2026-11-02", USERS, {2})


@pytest.mark.parametrize("files", ["a Delta table", "Parquet files"])
def test_a_table_of_somebody_else_stays_as_it_is(home, url, files):
    """A table without our commits in its log, and files without a log, are an error before anything is written."""
    theirs = pa.table({"user_id": ["u1"], "mark": [9], "item_ids": [["a"]], "ds": ["2026-10-01"]})
    place, target = delivery.place(url), f"{url}/recommendations"
    if files == "a Delta table":
        write_deltalake(target, theirs, partition_by=["ds"])
    else:
        pq.write_table(theirs, home.parent / "their.parquet")
        place.upload(home.parent / "their.parquet", "recommendations/their.parquet")
    before = place.files()
    put_both(home, "2026-11-01", 1)
    for keep in (5, 0):
        with pytest.raises(
            DeliveryError, match=r"/recommendations has files that distilrec has not .*another delivery.url"
        ):
            delivery.deliver_delta(home, url, keep=keep)
    assert place.files() == before
    put(home, "2026-11-02", 2, table="search_rankings")
    delivery.deliver_delta(home, url, keep=0)
    assert {path: size for path, size in place.files().items() if path.startswith("recommendations/")} == before


def test_a_first_commit_that_was_killed_is_made_again(home, url):
    """Data files without a log are what a killed first commit leaves, and block nobody."""
    put(home, "2026-11-01", 1)
    pq.write_table(pa.table({"user_id": ["u"]}), home / "part.parquet")
    delivery.place(url).upload(home / "part.parquet", "recommendations/ds=2026-11-01/part-00000-x-c000.snappy.parquet")
    delivery.deliver_delta(home, url, keep=5)
    assert newest_of_delta(url) == ("2026-11-01", USERS, {1})


def test_an_emptied_table_stays_ours(home, url):
    """Every commit has our property, so that a log without its first commits still says whose the table is."""
    put_both(home, "2026-11-01", 1)
    delivery.deliver_delta(home, url, keep=5)
    put(home, "2026-11-02", 2, table="search_rankings")
    delivery.deliver_delta(home, url, keep=5)
    history = DeltaTable(f"{url}/recommendations").history()
    assert len(history) > 1
    assert all(PROPERTY in commit for commit in history)


@pytest.fixture
def silent_write(home, silent_s3):
    """Writes a Delta table of a run, in a store that takes connections and never answers."""
    night = put(home, "2026-11-01", 1)
    files = promotions.folder_of(home, night, "recommendations")
    target = "s3://shop/there/recommendations"
    return lambda: _within_time(lambda: _write(files, night.ds, target, None, "name"), target)


def test_a_delta_table_that_never_answers_is_an_error_after_the_deadline(silent_write, monkeypatch):
    """The package's own requests have the deadline of all others."""
    monkeypatch.setattr(objects, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(objects, "RETRY_SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(OSError, match=r"Error performing GET .*_last_checkpoint .*operation timed out"):
        silent_write()
    assert time.monotonic() - started < 15


def test_a_signal_ends_a_commit_at_once(silent_write):
    """The package itself would wait on."""
    assert_a_signal_ends(silent_write, after=0.5)
