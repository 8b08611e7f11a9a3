"""A delivery that is killed, cut off or raced leaves a whole run at the place, and the next delivery finishes."""

import json
import os
import signal
import socket
import time
from dataclasses import asdict, replace

import pytest

from kdlib.errors import DeliveryError
from kdlib.release import delivery
from kdlib.store import objects
from tests.faults.delivery_cases import Scene
from tests.faults.proxy import Fault, proxy_before
from tests.release.deliveries import both, marks, newest_of_delta, put


@both
@pytest.mark.parametrize("length", [0, 5, 100])
def test_an_unfinished_pointer_is_replaced(home, url, send, length):
    """An empty pointer, or the first bytes of one, is what an earlier version left when it was killed: a line says so."""
    put(home, "2026-11-01", 1)
    send(home, url, keep=5)
    place = delivery.place(url)
    whole = place.read("promoted.json")
    assert whole is not None
    place.write("promoted.json", whole.data[:length], over=whole)
    assert delivery.delivered(url) is None
    put(home, "2026-11-02", 2)
    said = []
    assert send(home, url, keep=5, warn=said.append) == delivery.delivered(url)
    assert said == [f"{url}/promoted.json has {length} bytes of an unfinished delivery. It is replaced"]
    assert (marks(url) if send is delivery.deliver else newest_of_delta(url))[-1] == {2}


def _meanwhile(monkeypatch, step):
    """Take a step in the middle of each delivery, just before the pointer is written."""
    works = delivery.write_pointer

    def slow(*words, **more):
        step()
        return works(*words, **more)

    monkeypatch.setattr(delivery, "write_pointer", slow)


@both
def test_the_loser_of_a_race_looks_again(home, url, send, monkeypatch):
    """If another delivery of an older run wrote the pointer meanwhile, this one writes it over that."""
    put(home, "2026-11-01", 1)
    before = send(home, url, keep=5)
    put(home, "2026-11-02", 2)
    place, steps = delivery.place(url), []

    def other():
        steps.append(1)
        if len(steps) == 1:
            data = json.dumps(asdict(replace(before, erased="other"))).encode()
            place.write("promoted.json", data, over=place.read("promoted.json"))

    _meanwhile(monkeypatch, other)
    assert send(home, url, keep=5).ds == "2026-11-02"
    found = delivery.delivered(url)
    assert found is not None
    assert (found.ds, found.erased) == ("2026-11-02", "")
    assert len(steps) > 1


def test_the_loser_of_a_race_against_a_later_run_has_nothing_to_do(home, url, monkeypatch):
    """The pointer of the later run stays."""
    put(home, "2026-11-01", 1)
    before = delivery.deliver(home, url, keep=5)
    now = put(home, "2026-11-02", 2)
    later = replace(before, ds="2026-11-03", number=now.number + 1)
    place = delivery.place(url)

    def other():
        if delivery.delivered(url) != later:
            place.write("promoted.json", json.dumps(asdict(later)).encode(), over=place.read("promoted.json"))

    _meanwhile(monkeypatch, other)
    assert delivery.deliver(home, url, keep=5) == later
    assert delivery.delivered(url) == later


@both
def test_a_race_without_end_is_an_error(home, url, send, monkeypatch):
    """A delivery gives up if others replace the pointer each time."""
    put(home, "2026-11-01", 1)
    before, steps = send(home, url, keep=5), []
    put(home, "2026-11-02", 2)
    place = delivery.place(url)

    def other():
        steps.append(1)
        data = json.dumps(asdict(replace(before, erased=str(len(steps))))).encode()
        place.write("promoted.json", data, over=place.read("promoted.json"))

    _meanwhile(monkeypatch, other)
    with pytest.raises(DeliveryError, match=r"promoted.json holds something else than before.*`distilrec deliver`"):
        send(home, url, keep=5)
    assert len(steps) == delivery.ATTEMPTS


def test_a_folder_is_on_the_disk_before_the_pointer_names_it(home, tmp_path, monkeypatch):
    """Each new folder, then each file, then the pointer is synced."""
    put(home, "2026-11-01", 1, files=1)
    synced, works = [], os.fsync

    def sync(number):
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        works(number)

    monkeypatch.setattr(os, "fsync", sync)
    done = delivery.deliver(home, f"file://{tmp_path}/there", keep=5)
    synced = [one for one in synced if not one.startswith(str(home))]
    [file] = [str(tmp_path / "there" / file["path"]) for file in done.files["recommendations"]]
    folder = file.rpartition("/")[0]
    above = [str(tmp_path), f"{tmp_path}/there", f"{tmp_path}/there/_versions", folder.rpartition("/")[0]]
    assert sorted(synced[:4]) == sorted(above)
    part, after, pointer, last = synced[4:]
    assert part.startswith(f"{folder}/.{file.rpartition('/')[2]}.")
    assert (after, last) == (folder, f"{tmp_path}/there")
    assert pointer.startswith(f"{tmp_path}/there/.promoted.json.")


def test_the_unfinished_copies_of_a_killed_delivery_go(home, tmp_path):
    """A copy that has not reached its name, also alone in a folder, is removed by the next delivery."""
    put(home, "2026-11-01", 1)
    versions = tmp_path / "there" / "_versions" / "recommendations"
    folder = versions / "ds=2026-11-01.0123456789ab"
    folder.mkdir(parents=True)
    (folder / ".part-00000.parquet.0123abcd.part").write_bytes(b"half")
    delivery.deliver(home, f"file://{tmp_path}/there", keep=5)
    assert not folder.exists()
    assert len(list(versions.iterdir())) == 1


@pytest.fixture
def silent_network(monkeypatch):
    """A network that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in [one for one in os.environ if one.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
            monkeypatch.delenv(name)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(name, url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        yield


STORES = ["s3://shop/x", "gs://shop/x", "abfss://shop@account.dfs.core.windows.net/x"]


@pytest.mark.usefixtures("silent_network")
@pytest.mark.parametrize("store", STORES)
@both
def test_a_store_that_never_answers_is_a_delivery_error(home, store, send, monkeypatch):
    """The deadline holds for the look-up of credentials too, and the error names the command to run later."""
    put(home, "2026-11-01", 1)
    monkeypatch.setattr(objects, "REQUEST_SECONDS", 1)
    monkeypatch.setattr(objects, "RETRY_SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(DeliveryError, match=rf"cannot deliver to {store}: .*run `distilrec deliver`"):
        send(home, store, keep=5)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("silent_network")
@pytest.mark.parametrize("store", STORES)
def test_a_signal_ends_a_delivery_at_once(home, store):
    """SIGTERM does not wait for a store, whose own deadline is a minute."""
    put(home, "2026-11-01", 1)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            delivery.deliver(home, store, keep=5)
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGALRM, before)


def test_wrong_credentials_are_a_delivery_error(home, monkeypatch):
    """A profile that does not exist is found by another package, whose errors are no OSError."""
    put(home, "2026-11-01", 1)
    for name in [one for one in os.environ if one.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_PROFILE", "nope")
    with pytest.raises(DeliveryError, match=r"cannot deliver to s3://shop/x: .*profile \(nope\) could not be found"):
        delivery.deliver(home, "s3://shop/x", keep=5)


FIRST_PUT, POINTER, LAST_POINTER = 3, 6, 17
"""Numbers of requests of a delivery that erases a user."""


@pytest.fixture(scope="module")
def scene(s3, tmp_path_factory):
    """A delivery that erases a user, behind a proxy."""
    with proxy_before(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield Scene("forget", tmp_path_factory.mktemp("scene"), proxy)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("SIGTERM", POINTER), 143),
        (Fault("SIGKILL", POINTER, done=True), -9),
        (Fault("cut", POINTER), 0),
        (Fault("cut", POINTER, done=True), 0),
        (Fault("cut", POINTER, done=True, lasting=True), 74),
        (Fault("503", LAST_POINTER, lasting=True), 74),
        (Fault("no answer", FIRST_PUT), 0),
        (Fault("SIGKILL", FIRST_PUT + 1), -9),
    ],
    ids=str,
)
def test_a_fault_at_a_request_leaves_a_whole_run(scene, fault, status):
    """A reader finds whole runs only, a second delivery finishes, and the place equals one without a fault."""
    assert scene.pointer_writes() == [POINTER, LAST_POINTER]
    outcome = scene.run(fault)
    assert outcome.faults == ()
    assert outcome.status == status
