"""The night in use, brought to an object store: a real S3 server, and folders."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import boto3
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from deltalake import DeltaTable
from pyarrow import fs

from kdlib import delivery, forgetting, promotions, publish
from kdlib.errors import ConfigError, DeliveryError, InputError

USERS = 300


def put(root, ds, mark, *, users=USERS, files=3, table="recommendations"):
    """Publish and promote a night whose rows all hold a mark."""
    staging = publish.new_staging(root, table, ds)
    for number, ids in enumerate(np.array_split(np.arange(users), files)):
        rows = {"user_id": [f"u{one}" for one in ids], "mark": [mark] * len(ids), "item_ids": [["a", "b"]] * len(ids)}
        pq.write_table(pa.table(rows), staging / f"{number}.parquet")
    version = publish.publish(staging, root, table, ds, fingerprint=str(mark)).version
    return promotions.promote(root, ds, {table: version})


def marks(url):
    """(rows, the different marks) that a reader finds."""
    table = delivery.read(url, "recommendations").to_table()
    return len(table), set(table["mark"].to_pylist())


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server, a process of its own, in the environment as for any of its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3", config=Config(retries={"max_attempts": 60, "mode": "standard"})).create_bucket(Bucket="shop")
    yield "s3://shop"
    server.terminate()
    server.wait()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def home(tmp_path):
    """The folder of all outputs."""
    return tmp_path / "output"


@pytest.fixture(params=["s3", "folder"])
def url(request, tmp_path):
    """A place of its own for each test."""
    if request.param == "folder":
        return f"file://{tmp_path}/there"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def test_what_is_in_use_is_what_others_read(home, url):
    """The night's rows and no others, its version in the pointer, and nothing is sent a second time."""
    night = put(home, "2026-11-22", 1)
    done = delivery.deliver(home, url, keep=5)
    assert marks(url) == (USERS, {1})
    assert done == delivery.delivered(url)
    assert (done.ds, done.versions) == ("2026-11-22", night.versions)
    system, base = delivery.place(url)
    times = [
        info.mtime
        for info in system.get_file_info([f"{base}/{file['path']}" for file in done.files["recommendations"]])
    ]
    time.sleep(1.1)
    assert delivery.deliver(home, url, keep=5) == done
    again = [
        info.mtime
        for info in system.get_file_info([f"{base}/{file['path']}" for file in done.files["recommendations"]])
    ]
    assert again == times


@pytest.mark.parametrize("deliveries", [50, pytest.param(200, marks=pytest.mark.faults)])
def test_a_reader_finds_whole_nights_only(home, url, deliveries):
    """Over all deliveries a reader always finds one night, whole; never a mix, never a gap."""
    put(home, "2026-01-01", -1)
    delivery.deliver(home, url, keep=5)
    ended, seen = threading.Event(), []

    def look():
        while not ended.is_set():
            try:
                seen.append(marks(url))
            except Exception as error:
                seen.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(deliveries):
        put(home, str(np.datetime64("2026-01-02") + number), number, users=USERS + number)
        delivery.deliver(home, url, keep=5)
    ended.set()
    reader.join()
    assert len(seen) > deliveries / 10
    odd = [one for one in seen if isinstance(one, Exception) or len(one[1]) != 1 or one[0] != USERS + max(0, *one[1])]
    assert not odd, odd[0]
    assert len({mark for _, (mark,) in seen}) > deliveries / 20


def test_old_nights_leave_the_place(home, url):
    """What is kept: the newest nights, what is in use, and what was in use before it."""
    for day in range(1, 7):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver(home, url, keep=2)
    assert [name[:13] for name in _folders(url)] == ["ds=2026-11-05", "ds=2026-11-06"]
    promotions.rollback(home, "2026-11-03")
    delivery.deliver(home, url, keep=2)
    assert marks(url) == (USERS, {3})
    assert "ds=2026-11-06" in [name[:13] for name in _folders(url)]  # somebody may still read it


def _folders(url):
    system, base = delivery.place(url)
    found = system.get_file_info(fs.FileSelector(f"{base}/_versions/recommendations"))
    return sorted(info.base_name for info in found)


def _deliver_two_nights_and_forget(home, url, send):
    """Two nights at the place, then the user u7 erased at home, and the place told to forget."""
    for day in (1, 2):
        put(home, f"2026-11-0{day}", day)
        send(home, url, keep=5)
    forgetting.erase(home, "u7")
    send(home, url, keep=0)


def test_a_forgotten_user_leaves_every_delivered_file(home, url):
    """No file there names the user afterwards, though its nights' versions have the same names at home."""
    _deliver_two_nights_and_forget(home, url, delivery.deliver)
    users = delivery.read(url, "recommendations").to_table()["user_id"].to_pylist()
    assert sorted(users) == sorted({f"u{one}" for one in range(USERS)} - {"u7"})
    assert len(_folders(url)) == 1


def test_an_upload_that_ended_early_is_done_again(home, url, monkeypatch):
    """Files of a wrong size there are replaced; until then nobody is pointed to them."""
    put(home, "2026-11-01", 1)
    delivery.deliver(home, url, keep=5)
    put(home, "2026-11-02", 2)
    system, _ = delivery.place(url)
    first = delivery.fs.copy_files

    def breaks(*arguments, **settings):
        first(*arguments, **settings)
        path = f"{arguments[1]}/{sorted(os.listdir(arguments[0]))[0]}"
        with system.open_output_stream(path) as stream:
            stream.write(b"half")

    monkeypatch.setattr(delivery.fs, "copy_files", breaks)
    with pytest.raises(DeliveryError, match="should hold files of"):
        delivery.deliver(home, url, keep=5)
    assert marks(url) == (USERS, {1})
    monkeypatch.setattr(delivery.fs, "copy_files", first)
    delivery.deliver(home, url, keep=5)
    assert marks(url) == (USERS, {2})


def test_a_place_that_does_not_answer_is_said(home, s3, monkeypatch):
    """No such bucket, nobody there: one line, and `deliver` does it later."""
    put(home, "2026-11-01", 1)
    with pytest.raises(DeliveryError, match=r"cannot deliver to s3://no-such-shop.*`distilrec deliver`"):
        delivery.deliver(home, "s3://no-such-shop/x", keep=5)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        with pytest.raises(DeliveryError, match="cannot deliver"):  # refused
            delivery.deliver(home, s3, keep=5)


@pytest.mark.faults
def test_a_place_that_never_answers_is_said(home, monkeypatch):
    """It accepts and is silent: given up within minutes."""
    put(home, "2026-11-01", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        with pytest.raises(DeliveryError, match="cannot deliver"):
            delivery.deliver(home, "s3://shop/x", keep=5)


def test_the_rest_is_said(home, tmp_path):
    """No URL, nothing in use, nothing delivered, a pointer of somebody else's."""
    with pytest.raises(ConfigError, match="expected s3://"):
        delivery.place("nowhere://x")
    with pytest.raises(InputError, match="no night is in use"):
        delivery.deliver(home, f"file://{tmp_path}/there", keep=1)
    with pytest.raises(InputError, match="no recommendations was delivered"):
        delivery.read(f"file://{tmp_path}/there", "recommendations")
    put(home, "2026-11-01", 1)
    with pytest.raises(ConfigError, match="lies below output_dir"):
        delivery.deliver(home, f"file://{home}/there", keep=1)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "promoted.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(DeliveryError, match=r"promoted\.json is not what distilrec wrote"):
        delivery.deliver(home, f"file://{tmp_path}/there", keep=1)


def _delta(url):
    """The newest night of a Delta table, as its readers take it."""
    table = DeltaTable(f"{url}/recommendations").to_pyarrow_table()
    newest = max(table["ds"].to_pylist())
    rows = table.filter(pc.call_function("equal", [table["ds"], pa.scalar(newest)]))
    return newest, len(rows), set(rows["mark"].to_pylist())


def test_delta_tables_hold_the_nights(home, url):
    """Each night a partition, replaced when it runs again; a rollback takes later ones out; DuckDB reads it."""
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver_delta(home, url, keep=2)
    put(home, "2026-11-03", 33, users=USERS + 1)
    delivery.deliver_delta(home, url, keep=2)
    assert _delta(url) == ("2026-11-03", USERS + 1, {33})
    table = DeltaTable(f"{url}/recommendations")
    assert {part["ds"] for part in table.partitions()} == {"2026-11-02", "2026-11-03"}
    promotions.rollback(home, "2026-11-02")
    delivery.deliver_delta(home, url, keep=2)
    assert _delta(url) == ("2026-11-02", USERS, {2})
    rows = DeltaTable(f"{url}/recommendations").to_pyarrow_dataset()
    assert duckdb.from_arrow(rows).aggregate("count(*), min(ds)").fetchall() == [(USERS, "2026-11-02")]


def test_a_new_column_reaches_a_delta_table(home, url):
    """An upgrade that adds a column to the table: earlier nights have no value there."""
    put(home, "2026-11-01", 1)
    delivery.deliver_delta(home, url, keep=5)
    staging = publish.new_staging(home, "recommendations", "2026-11-02")
    pq.write_table(pa.table({"user_id": ["u"], "mark": [2], "item_ids": [["a"]], "why": ["so"]}), staging / "0.parquet")
    version = publish.publish(staging, home, "recommendations", "2026-11-02", fingerprint="f").version
    promotions.promote(home, "2026-11-02", {"recommendations": version})
    delivery.deliver_delta(home, url, keep=5)
    found = DeltaTable(f"{url}/recommendations").to_pyarrow_table()
    assert found["why"].to_pylist().count("so") == 1
    assert len(found) == USERS + 1


def test_delta_tables_forget(home, url):
    """The user is in no file any more: the night in use has lost it, the others are gone."""
    _deliver_two_nights_and_forget(home, url, delivery.deliver_delta)
    system, base = delivery.place(url)
    files = system.get_file_info(fs.FileSelector(f"{base}/recommendations", recursive=True))
    parquet = [info.path for info in files if info.path.endswith(".parquet") and "_delta_log" not in info.path]
    users = [user for path in parquet for user in pq.read_table(path, filesystem=system)["user_id"].to_pylist()]
    assert "u7" not in users
    assert sorted(users) == sorted([f"u{one}" for one in range(USERS) if one != 7])
