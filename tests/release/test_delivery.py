"""The night in use, brought to an object store: a real S3 server, and folders."""

import fcntl
import json
import os
import re
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

from kdlib.config.load import load_config
from kdlib.errors import ConfigError, DeliveryError, InputError
from kdlib.privacy import forgetting
from kdlib.release import delivery, promotions
from kdlib.store import partitions

USERS = 300


def put(root, ds, mark, *, users=USERS, files=3, table="recommendations"):
    """Publish and promote a night whose rows all hold a mark."""
    staging = partitions.new_staging(root, table, ds)
    for number, ids in enumerate(np.array_split(np.arange(users), files)):
        rows = {"user_id": [f"u{one}" for one in ids], "mark": [mark] * len(ids), "item_ids": [["a", "b"]] * len(ids)}
        pq.write_table(pa.table(rows), staging / f"{number}.parquet")
    version = partitions.publish(staging, root, table, ds, fingerprint=str(mark)).version
    return promotions.promote(root, ds, {table: version})


def put_both(root, ds, mark):
    """A night of two tables, promoted in one switch."""
    parts = [put(root, ds, mark, table=table).versions for table in delivery.TABLES]
    return promotions.promote(root, ds, parts[0] | parts[1])


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
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
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


@pytest.mark.parametrize("deliveries", [20, pytest.param(200, marks=pytest.mark.faults)])
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


def test_a_pointer_that_is_replaced_while_it_is_read_is_read_again(home, tmp_path, monkeypatch):
    """An object store is asked for its length, and then for so many bytes: of a longer one that came between, too few."""
    url = f"file://{tmp_path}/there"
    put(home, "2026-11-01", 1)
    done, cut = delivery.deliver(home, url, keep=5), [100]
    whole = delivery._bytes
    monkeypatch.setattr(delivery, "_bytes", lambda system, path: whole(system, path)[: cut.pop() if cut else None])
    assert delivery.delivered(url) == done
    assert not cut


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


def refuse(*_, **__):
    """Stands for a step that the store does not let us do."""
    raise OSError("AWS Error ACCESS_DENIED")


def _naming(url, user):
    """Parquet files at a place that name the user, those that nobody is pointed to among them."""
    system, base = delivery.place(url)
    found = system.get_file_info(fs.FileSelector(base, recursive=True))
    paths = [info.path for info in found if info.path.endswith(".parquet") and "_delta_log" not in info.path]
    return [path for path in paths if user in pq.read_table(path, filesystem=system)["user_id"].to_pylist()]


both = pytest.mark.parametrize("send", [delivery.deliver, delivery.deliver_delta])


formats = pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        (delivery.deliver, delivery.deliver_delta, "_versions/recommendations/ds="),
        (delivery.deliver_delta, delivery.deliver, "/recommendations/_delta_log"),
    ],
)


@formats
def test_what_another_format_left_goes_with_the_second_delivery(home, url, first, then, left):
    """Until then those who have just opened it read on; somebody else's table of that name stays."""
    put(home, "2026-11-01", 1)
    first(home, url, keep=5)
    system, base = delivery.place(url)
    system.create_dir(f"{base}/search_rankings/_delta_log")
    with system.open_output_stream(f"{base}/search_rankings/_delta_log/00000.json") as stream:
        stream.write(b"{}")

    def there():
        return " ".join(info.path for info in system.get_file_info(fs.FileSelector(base, recursive=True)))

    put(home, "2026-11-02", 2)
    then(home, url, keep=5)
    assert left in there()
    put(home, "2026-11-03", 3)
    then(home, url, keep=5)
    assert left not in there()
    assert "search_rankings/_delta_log/00000.json" in there()
    assert (marks(url) if then is delivery.deliver else _delta(url))[-1] == {3}


@formats
def test_a_forgotten_user_leaves_the_files_of_another_format(home, url, first, then, left, monkeypatch):
    """At once, with the delivery that `forget` asks for; where that cannot be, nobody takes the user for erased there."""
    put(home, "2026-11-01", 1)
    first(home, url, keep=5)
    forgetting.remember_to_forget(home, "u7")
    forgetting.erase(home, "u7")
    step = "_remove_others" if then is delivery.deliver_delta else "_remove_delta_tables"
    monkeypatch.setattr(delivery, step, refuse)
    with pytest.raises(DeliveryError, match="They may name a user"):
        then(home, url, keep=0)
    found = delivery.delivered(url)
    assert found is not None
    assert (found.erased, bool(found.files)) == (None, then is delivery.deliver)  # nobody is pointed to what goes
    monkeypatch.undo()
    then(home, url, keep=5)
    assert not _naming(url, "u7")
    assert _naming(url, "u1")


@both
@pytest.mark.parametrize("later", ["deliver", "the next night", "rollback"])
def test_a_forgotten_user_leaves_with_the_next_delivery(home, url, send, later):
    """Where `forget` did not reach the place, whatever is delivered next takes the user out without being told."""
    for day in (1, 2):
        put(home, f"2026-11-0{day}", day)
        send(home, url, keep=5)
    assert _naming(url, "u7")
    forgetting.remember_to_forget(home, "u7")
    forgetting.erase(home, "u7")
    if later == "the next night":
        put(home, "2026-11-03", 3, users=5)
    elif later == "rollback":
        promotions.rollback(home, "2026-11-01")
    send(home, url, keep=5)
    assert not _naming(url, "u7")
    assert _naming(url, "u1")


@both
def test_files_that_have_changed_at_home_leave(home, url, send):
    """Also where no list of forgotten users says so: the night is the same, its files are others."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    forgetting.erase(home, "u7")
    send(home, url, keep=5)
    assert not _naming(url, "u7")


@both
def test_a_user_in_an_earlier_night_alone_is_forgotten_too(home, url, send):
    """The night in use never had the user, so that its files have not changed."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    put(home, "2026-11-02", 2, users=5)
    send(home, url, keep=5)
    assert _naming(url, "u7")
    forgetting.remember_to_forget(home, "u7")
    forgetting.erase(home, "u7")
    send(home, url, keep=5)
    assert not _naming(url, "u7")


@both
def test_nothing_leaves_while_nobody_is_forgotten_anew(home, url, send):
    """Users who were forgotten before the last delivery cost no earlier night."""
    put(home, "2026-11-01", 1)
    forgetting.remember_to_forget(home, "u7")
    forgetting.erase(home, "u7")
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        send(home, url, keep=5)
    system, base = delivery.place(url)
    found = system.get_file_info(fs.FileSelector(base, recursive=True))
    assert len({info.path.split("ds=")[1][:10] for info in found if "/ds=" in info.path}) == 3


@both
def test_old_files_that_stay_are_said(home, url, send, monkeypatch):
    """The night is in use: a warning. After a user was forgotten: an error, and the next delivery removes them."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=1)
    put(home, "2026-11-02", 2)
    step = "_remove_others" if send is delivery.deliver else "_vacuum"
    works = getattr(delivery, step)
    monkeypatch.setattr(delivery, step, refuse)
    said = []
    assert send(home, url, keep=1, warn=said.append).ds == "2026-11-02"
    assert said == [
        f"2026-11-02 is in use at {url}, but older files may still be there: AWS Error ACCESS_DENIED. The next delivery"
        " tries again"
    ]
    forgetting.erase(home, "u7")
    for keep in (0, 5, 5):
        with pytest.raises(DeliveryError, match=r"2026-11-02 is in use at .*older files.*They may name a user"):
            send(home, url, keep=keep)
    monkeypatch.setattr(delivery, step, works)
    send(home, url, keep=5)
    assert not _naming(url, "u7")


@both
def test_the_night_that_came_into_use_meanwhile_is_delivered(home, url, send, monkeypatch):
    """Files are being sent while another night is promoted: that one is in use there at the end."""
    put(home, "2026-11-01", 1)
    first, steps = delivery.pads.dataset if send is delivery.deliver_delta else delivery.fs.copy_files, []
    where, step = (delivery.pads, "dataset") if send is delivery.deliver_delta else (delivery.fs, "copy_files")

    def slow(*arguments, **settings):
        if not steps:
            steps.append(put(home, "2026-11-02", 2))
        return first(*arguments, **settings)

    monkeypatch.setattr(where, step, slow)
    done = send(home, url, keep=5)
    monkeypatch.undo()
    assert done == delivery.delivered(url)
    assert done.ds == "2026-11-02"
    assert (_delta(url) if send is delivery.deliver_delta else marks(url))[-1] == {2}


@both
def test_deliveries_wait_for_each_other(home, tmp_path, send, monkeypatch):
    """Of whatever date: the second begins when the first has ended; one that never ends is said."""
    put(home, "2026-11-01", 1)
    url = f"file://{tmp_path}/there"
    (home / "_locks").mkdir(exist_ok=True)
    with (home / "_locks" / "deliver.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(delivery, "WAIT_SECONDS", 0.3)
        with pytest.raises(DeliveryError, match=r"another delivery from .* has not ended within 0.3 s"):
            send(home, url, keep=5)
        assert not (tmp_path / "there").exists()
        monkeypatch.setattr(delivery, "WAIT_SECONDS", 30)
        threading.Timer(0.5, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        assert send(home, url, keep=5).ds == "2026-11-01"


@both
def test_an_older_copy_of_the_output_folder_does_not_deliver(home, tmp_path, send):
    """Numbers of switches tell which night is later: a rollback's is, a copy's that was set back is not."""
    url = f"file://{tmp_path}/there"
    for day in (1, 2):
        put(home, f"2026-11-0{day}", day)
    promotions.rollback(home, "2026-11-01")
    assert send(home, url, keep=5).ds == "2026-11-01"
    pointer = tmp_path / "there" / "promoted.json"
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"number": 4, "ds": "2026-11-03"}))
    with pytest.raises(DeliveryError, match=r"has switch 4, to 2026-11-03, and the last one in .* is 3, to 2026-11-01"):
        send(home, url, keep=5)


@both
def test_two_output_folders_do_not_share_a_place(home, tmp_path, send):
    """The second is refused, and removes nothing of the first; a folder that was moved is the same one."""
    url, other = f"file://{tmp_path}/there", tmp_path / "other"
    put(home, "2026-11-02", 2)
    done = send(home, url, keep=5)
    put(other, "2026-11-01", 1)
    for root in (other, other):
        with pytest.raises(
            DeliveryError, match=r"promoted\.json was delivered by output\..*is other\.\w{8}: two of them"
        ):
            send(root, url, keep=5)
    assert delivery.delivered(url) == done
    assert _naming(url, "u7")
    moved = home.rename(tmp_path / "moved")
    put(moved, "2026-11-03", 3)
    assert send(moved, url, keep=5).ds == "2026-11-03"


@both
def test_a_place_of_an_earlier_version_is_taken_over(home, tmp_path, send):
    """Its `promoted.json`, or its tables without one, say nothing of owner and forgotten users: who was forgotten leaves."""
    url = f"file://{tmp_path}/there"
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    pointer = tmp_path / "there" / "promoted.json"
    before = json.loads(pointer.read_text())
    pointer.unlink()
    if send is delivery.deliver:
        pointer.write_text(json.dumps({key: before[key] for key in ("ds", "number", "versions", "files")}))
    forgetting.remember_to_forget(home, "u7")
    forgetting.erase(home, "u7")
    put(home, "2026-11-02", 2, users=5)
    assert send(home, url, keep=5).ds == "2026-11-02"
    assert not _naming(url, "u7")


@pytest.mark.parametrize("place", ["real", "real/below", "", "link", "link/below"])
@both
def test_a_place_among_our_own_files_is_refused(tmp_path, send, place):
    """Also by another name, and also one that our folder lies in: the removal of old files would find the tables at home."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root in (tmp_path / "link", tmp_path / "real"):
        put(root, "2026-11-01", 1)
        with pytest.raises(ConfigError, match=r"lies below output_dir .*, or above it"):
            send(root, f"file://{tmp_path}/{place}", keep=1)
        assert (root / "recommendations" / "ds=2026-11-01").exists()


def test_a_place_is_looked_at_before_it_is_needed(tmp_path, monkeypatch):
    """What can never be delivered to is refused without a word over the network; whether a place answers is no matter yet."""
    from_uri = fs.FileSystem.from_uri

    class Offline:
        @staticmethod
        def from_uri(url):
            assert not url.startswith(("s3://s", "hdfs:")), "its client asks for region and credentials, or connects"
            return refuse() if "down" in url else from_uri(url)

    monkeypatch.setattr(delivery.fs, "FileSystem", Offline)
    for url in (
        "s3://shop",
        "s3://shop/x",
        "gs://shop/x",
        "gs://down",
        "abfss://shop@a.dfs.core.windows.net/x",
        "hdfs://n/x",
    ):
        for delta in (False, True):
            delivery.check_place(tmp_path / "output", url, delta=delta)
    for url in ("s3a://shop/x", "s3:///x", "s3://sh op/x", "file://there/x", f"file://{tmp_path}"):
        with pytest.raises(ConfigError, match=re.escape(f"delivery.url {url!r}")):
            delivery.check_place(tmp_path / "output", url, delta=False)
    monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)
    with pytest.raises(ConfigError, match="needs deltalake, not installed here"):
        delivery.check_place(tmp_path / "output", "s3://shop/x", delta=True)


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


def test_a_bucket_whose_region_is_unknown_is_said(home, monkeypatch):
    """Its region is looked up over the network, which may be down."""
    put(home, "2026-11-01", 1)

    class Unresolved:
        from_uri = staticmethod(refuse)

    monkeypatch.setattr(delivery.fs, "FileSystem", Unresolved)
    for step in (delivery.deliver, delivery.deliver_delta):
        with pytest.raises(DeliveryError, match=r"cannot deliver to s3://shop/x: AWS Error.*`distilrec deliver`"):
            step(home, "s3://shop/x", keep=5)


def test_keys_in_a_url_are_refused_and_not_shown(tmp_path):
    """In the run config and in a reader's own call; a container's name before an @, as Azure has it, is none."""
    config = tmp_path / "run.yaml"
    text = "name: a\noutput_dir: out\ninput: {simulate: {}}\ndelivery: {url: '%s'}\n"
    for url in (
        "s3://KEY:s3cr3t@shop/x",
        "s3://KEY:s3c/r3t@shop/x",
        "s3://s3cr3t@shop",
        "S3://KEY:s3cr3t@shop",
        "s3://shop/x?secret_key=s3cr3t",
        "s3:KEY:s3cr3t@shop",
        "abfss://KEY:s3cr3t@shop",
        "abfss://s3cr3t@a/x?a=b",
    ):
        config.write_text(text % url)
        for refused in (lambda: load_config(config), lambda url=url: delivery.read(url, "recommendations")):
            with pytest.raises(ConfigError, match=r"url may hold no \? and no @: .*come from the environment") as error:
                refused()
            assert not re.search("s3cr3t|r3t@", str(error.value))
    config.write_text(text % "nowhere")
    with pytest.raises(ConfigError, match=r"delivery: url must be like s3://bucket/folder.*, found nowhere"):
        load_config(config)
    for url in ("s3://shop/x", "gs://shop", "file:///there", "abfss://shop@account.dfs.core.windows.net/x"):
        config.write_text(text % url)
        found = load_config(config).delivery
        assert found is not None
        assert found.url == url


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
    with pytest.raises(ConfigError, match=r"lies below output_dir"):
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


def test_a_delta_table_loses_what_was_withdrawn_while_it_could_not_be_reached(home, url):
    """A rollback that was not delivered, and the night after it: the withdrawn nights between the two are out of use."""
    for day in (1, 2, 3):
        put(home, f"2026-11-0{day}", day)
        delivery.deliver_delta(home, url, keep=5)
    promotions.rollback(home, "2026-11-01")
    put(home, "2026-11-04", 4)
    delivery.deliver_delta(home, url, keep=5)
    assert _delta(url) == ("2026-11-04", USERS, {4})
    table = DeltaTable(f"{url}/recommendations")
    assert {part["ds"] for part in table.partitions()} == {"2026-11-01", "2026-11-04"}


def test_a_new_column_reaches_a_delta_table(home, url):
    """An upgrade that adds a column to the table: earlier nights have no value there."""
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


def test_delta_tables_forget(home, url):
    """The user is in no file any more: the night in use has lost it, the others are gone."""
    _deliver_two_nights_and_forget(home, url, delivery.deliver_delta)
    system, base = delivery.place(url)
    files = system.get_file_info(fs.FileSelector(f"{base}/recommendations", recursive=True))
    parquet = [info.path for info in files if info.path.endswith(".parquet") and "_delta_log" not in info.path]
    users = [user for path in parquet for user in pq.read_table(path, filesystem=system)["user_id"].to_pylist()]
    assert "u7" not in users
    assert sorted(users) == sorted([f"u{one}" for one in range(USERS) if one != 7])


def test_a_delta_table_is_written_once_a_night(home, url):
    """What it holds already costs no commit and no file; one of the same date with other rows does."""
    put(home, "2026-11-01", 1)
    for _ in range(3):
        delivery.deliver_delta(home, url, keep=5)
    assert DeltaTable(f"{url}/recommendations").version() == 0
    put(home, "2026-11-01", 2)
    delivery.deliver_delta(home, url, keep=0)
    delivery.deliver_delta(home, url, keep=5)
    assert _delta(url) == ("2026-11-01", USERS, {2})
    last = DeltaTable(f"{url}/recommendations").version()
    delivery.deliver_delta(home, url, keep=5)
    assert DeltaTable(f"{url}/recommendations").version() == last


def test_a_delta_table_goes_back_in_one_commit(home, url):
    """No reader finds the night that was taken out of use as the newest once the other one is there, or none at all."""
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
    """Nobody takes an older night of it for the one in use, and a forgotten user leaves it too; it may come back."""
    url = f"file://{tmp_path}/there"
    put_both(home, "2026-11-01", 1)
    delivery.deliver_delta(home, url, keep=5)
    put(home, "2026-11-02", 2, table="search_rankings")
    if not keep:
        forgetting.erase(home, "u7")
    assert list(delivery.deliver_delta(home, url, keep=keep).versions) == ["search_rankings"]
    assert DeltaTable(f"{url}/recommendations").to_pyarrow_table().num_rows == 0
    assert bool(_naming(url, "u7")) == bool(keep)
    put_both(home, "2026-11-03", 3)
    delivery.deliver_delta(home, url, keep=keep)
    assert _delta(url) == ("2026-11-03", USERS, {3})


def test_a_delta_table_itself_says_what_it_holds(home, url, monkeypatch):
    """Where a delivery ended before `promoted.json` was written, the next one does not take that for the table's night."""
    put(home, "2026-11-01", 1)
    put(home, "2026-11-02", 2)
    delivery.deliver_delta(home, url, keep=5)
    promotions.rollback(home, "2026-11-01")
    monkeypatch.setattr(delivery, "_switch", refuse)
    delivery.deliver_delta(home, url, keep=5, warn=str)
    monkeypatch.undo()
    assert _delta(url) == ("2026-11-01", USERS, {1})
    promotions.rollback(home, "2026-11-02")
    delivery.deliver_delta(home, url, keep=5)
    assert _delta(url) == ("2026-11-02", USERS, {2})
