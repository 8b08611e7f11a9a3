"""One process at a time holds a lease, also where the kernel's locks do not work, and on an object store."""

import fcntl
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from kdlib.errors import BusyError
from kdlib.store import leases
from kdlib.store.leases import State, alive, check_held, held, state_of
from kdlib.store.objects import folder_at

HOLD = """
import sys, time
from kdlib.store import leases
from kdlib.store.objects import folder_at
leases.TERM_SECONDS = float(sys.argv[2])
if sys.argv[3] == "without":
    leases.fcntl.flock = lambda *_: None
with leases.held(folder_at(sys.argv[1]), "_locks/date.json", "nightly"):
    print("held", flush=True)
    sys.stdin.readline()
    try:
        leases.check_held()
        print("may publish", flush=True)
    except Exception as error:
        print(error, flush=True)
"""
PATH = "_locks/date.json"


@pytest.fixture
def folder(url):
    return folder_at(url)


def held_by(folder) -> State:
    return state_of(folder.read(PATH))


@pytest.fixture
def other(url, request):
    """Another process that holds the lease for as long as its input is open."""
    locks = "without" if "without_locks" in request.fixturenames else "with"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url, "1", locks], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def short(monkeypatch):
    """Leases end after a second without a beat."""
    monkeypatch.setattr(leases, "TERM_SECONDS", 1.0)


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that grants each kernel lock to everybody."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)


@pytest.mark.usefixtures("short", "without_locks")
def test_the_second_one_is_told_who_holds_the_lease(folder, other):
    """The holder's beat shows that it is alive. Nothing changes for the holder."""
    told = []
    with (
        pytest.raises(BusyError, match=rf"nightly, process {other.pid} on .*, since 20"),
        held(folder, PATH, "recommend", told=told.append),
    ):
        pass
    assert len(told) == 1
    assert "to see whether the other run is alive: nightly" in told[0]
    out, _ = other.communicate("\n")
    assert out == "may publish\n"
    assert held_by(folder).token == ""
    with held(folder, PATH, "recommend"):
        assert held_by(folder).holder["stage"] == "recommend"


@pytest.mark.usefixtures("short", "without_locks")
def test_a_paused_holder_that_wakes_up_cannot_publish(folder, other):
    """Another process takes over after the term, and the sleeper is told."""
    other.send_signal(signal.SIGSTOP)
    with held(folder, PATH, "recommend"):
        check_held()
        other.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # the sleeper's next beat must not win the lease back
        out, _ = other.communicate("\n")
        assert "its lease _locks/date.json has gone to recommend, process" in out
        check_held()
    assert held_by(folder).token == ""


@pytest.mark.usefixtures("short", "without_locks")
def test_the_lease_of_a_killed_process_ends_after_its_term(folder, other):
    """Without kernel locks the others wait for the term."""
    other.kill()
    other.wait()
    started = time.monotonic()
    with held(folder, PATH, "recommend"):
        assert time.monotonic() - started >= 1


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_kernel_lock_shows_at_once_that_the_holder_is_dead(folder, other):
    """With working locks nobody waits for the term of a minute; a living holder is found without a beat."""
    started = time.monotonic()
    with pytest.raises(BusyError), held(folder, PATH, "recommend"):
        pass
    assert alive(folder, [PATH]) == {PATH}
    assert held_by(folder).holder["pid"] == other.pid
    other.kill()
    other.wait()
    assert alive(folder, [PATH]) == set()
    assert held_by(folder).token == ""
    with held(folder, PATH, "recommend"):
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_holder_on_another_machine_is_not_taken_for_dead(folder, short):
    """A free kernel lock says nothing about another machine."""
    with held(folder, PATH, "nightly"):
        state = json.loads(folder.read(PATH).data)
    far = {"stage": "nightly", "pid": 1, "host": "far", "machine": "far", "since": "now"}
    (folder.path / PATH).write_text(json.dumps(state | {"token": "x", "holder": far}))
    started = time.monotonic()
    with held(folder, PATH, "recommend"):
        assert time.monotonic() - started >= 1


@pytest.mark.usefixtures("without_locks")
def test_of_many_that_start_at_once_one_holds_the_lease(folder):
    """Eight threads take the lease for a moment each: never two at a time."""
    inside, most, errors = [], [], []

    def take():
        try:
            with held(folder, PATH, "nightly", seconds=60):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not errors
    assert most == [1] * 8


@pytest.mark.usefixtures("short", "without_locks")
def test_a_beat_tells_who_is_alive(folder, other):
    """The lease of a living process stays, and that of a killed one is free afterwards. A free one is held by nobody."""
    assert alive(folder, [PATH, "_locks/none.json"]) == {PATH}
    with held(folder, "_locks/own.json", "recommend"):
        assert alive(folder, [PATH, "_locks/own.json"]) == {PATH, "_locks/own.json"}
        other.kill()
        other.wait()
        assert alive(folder, [PATH, "_locks/own.json"]) == {"_locks/own.json"}
    assert held_by(folder).token == ""


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_lock_that_a_dead_holder_left_behind_ends_after_the_term(folder, short):
    """A child that outlives its parent keeps the kernel's lock, and an NFS server that of a machine that is gone."""
    (folder.path / "_locks").mkdir(parents=True)
    with (folder.path / "_locks" / "date.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        folder.write(PATH, json.dumps({"token": "x", "holder": {"pid": 1}}).encode(), over=None)
        started = time.monotonic()
        with held(folder, PATH, "recommend"):
            assert 1 <= time.monotonic() - started < 10


@pytest.mark.usefixtures("short", "without_locks")
def test_a_holder_is_told_that_its_lease_is_lost(folder):
    """Its next beat finds another token."""
    lost = threading.Event()
    with held(folder, PATH, "nightly", lost=lost.set):
        seen = folder.read(PATH)
        folder.write(PATH, seen.data.replace(b'"token": "', b'"token": "x'), over=seen)
        assert lost.wait(10)
        with pytest.raises(BusyError, match=r"its lease _locks/date\.json has gone to nightly, process"):
            check_held()


@pytest.mark.usefixtures("without_locks")
def test_a_run_that_fails_lets_the_next_one_in_at_once(folder):
    """Its lease is released like that of a run that ends well."""
    with pytest.raises(KeyboardInterrupt), held(folder, PATH, "nightly"):
        raise KeyboardInterrupt
    assert held_by(folder).token == ""


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"token": "x", "holder": 3}', b'{"token": "x", "holder": {"pid": 1}}']
)
def test_a_damaged_lease_ends_after_the_term(folder, damage):
    """An empty or cut file blocks nobody for longer than a dead holder would."""
    folder.write(PATH, damage, over=None)
    assert str(state_of(folder.read(PATH))) == "an unknown process"
    with held(folder, PATH, "recommend"):
        assert held_by(folder).holder["stage"] == "recommend"
