"""The switch of the run in use, its record, and the removal of old runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdlib.errors import GateError, InputError
from kdlib.release import promotions
from kdlib.release.retention import remove_old_nights
from kdlib.store import partitions
from tests.whole_nights import HOME, environment

DAYS = [f"2026-11-{day}" for day in range(18, 23)]
NAMES = (*promotions.LINKED, *promotions.LISTS, "histories")


def put_night(root: Path, ds: str, value: int = 0) -> dict[str, str]:
    """Publish one row in every table and model of a run; return the versions."""
    versions = {}
    for name in NAMES:
        staging = partitions.new_staging(root, name, ds)
        for part in range(2):
            pq.write_table(pa.table({"ds": [ds], "value": [value]}), staging / f"{part}.parquet")
        versions[name] = partitions.publish(staging, root, name, ds, fingerprint=str(value)).version
    return versions


def put_and_promote(root: Path, *days: str) -> None:
    for ds in days:
        promotions.promote(root, ds, put_night(root, ds))


def in_use(root: Path, name: str = "recommendations") -> set[str]:
    return set(pq.read_table((root / "promoted" / name).resolve())["ds"].to_pylist())


def test_a_promotion_switches_table_and_model_together(tmp_path):
    """Readers of `promoted` find the run's table and its student, and the record holds their versions."""
    assert promotions.current(tmp_path) is None
    put_and_promote(tmp_path, *DAYS[:2])
    assert in_use(tmp_path) == in_use(tmp_path, "models/student") == {DAYS[1]}
    now = promotions.current(tmp_path)
    assert now is not None
    assert (now.number, now.ds, now.action, set(now.versions)) == (2, DAYS[1], "promote", set(NAMES))


KILLED = """
import os, signal, sys
from pathlib import Path
from kdlib.release import promotions
from kdlib.store import locks

locks.STALE_SECONDS = 0.2
root, ds, versions = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
for step in range(100):
    child = os.fork()
    if not child:
        left = step
        def kill(event, _):
            global left
            if event in ("os.mkdir", "os.symlink", "os.rename"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        promotions.promote(root, ds, versions)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    used = {pq.read_table((root / "promoted" / name).resolve())["ds"][0].as_py() for name in names}
    print(step, status, *used)
    if not status:
        break
"""
"""Promotes in a process of its own, which is killed before its nth change on disk, for each n until it gets through."""


def test_a_killed_promotion_shows_all_new_lists_or_all_old_ones(tmp_path):
    """Whenever the process is killed, a reader finds every table and model of one run, and the next attempt succeeds."""
    put_and_promote(tmp_path, DAYS[0])
    names = [name for name in NAMES if name != "histories"]
    start = f"import json\nimport pyarrow.parquet as pq\nnames = {names}\n"
    command = [sys.executable, "-c", start + KILLED, str(tmp_path), DAYS[1], json.dumps(put_night(tmp_path, DAYS[1]))]
    done = subprocess.run(command, cwd=HOME, env=environment(), text=True, capture_output=True, check=True)
    steps = [line.split() for line in done.stdout.splitlines()]
    killed, (_, status, *used) = steps[:-1], steps[-1]
    assert len(killed) > len(names)
    assert all(status == str(int(signal.SIGKILL)) and len(used) == 1 for _, status, *used in killed), steps
    assert (status, used) == ("0", [DAYS[1]])
    assert {name for name in names if in_use(tmp_path, name) == {DAYS[1]}} == set(names)


def test_promoting_what_is_in_use_adds_nothing(tmp_path):
    """Promoting the same versions again is no new switch; other versions of the same date are one."""
    versions = put_night(tmp_path, DAYS[0])
    first = promotions.promote(tmp_path, DAYS[0], versions)
    assert promotions.promote(tmp_path, DAYS[0], versions) == first
    again = promotions.promote(tmp_path, DAYS[0], put_night(tmp_path, DAYS[0], 1), forced=["coverage"], reason="sale")
    assert (again.number, again.forced, again.reason) == (2, ["coverage"], "sale")
    assert len(promotions.history(tmp_path)) == 2


def test_an_earlier_night_does_not_take_the_place_of_a_later_one(tmp_path):
    """Promoting an earlier date than the one in use changes nothing and returns the switch in force."""
    put_and_promote(tmp_path, DAYS[1])
    assert promotions.promote(tmp_path, DAYS[0], put_night(tmp_path, DAYS[0])).ds == DAYS[1]
    assert in_use(tmp_path) == {DAYS[1]}
    assert len(promotions.history(tmp_path)) == 1


def test_a_rollback_goes_back_to_the_versions_of_then(tmp_path):
    """A rollback uses the versions that were promoted, even if that date was run again without promotion."""
    put_and_promote(tmp_path, *DAYS[:3])
    put_night(tmp_path, DAYS[1], value=9)
    switch = promotions.rollback(tmp_path, DAYS[1], reason="bad prices")
    assert (switch.action, switch.reason) == ("rollback", "bad prices")
    rows = pq.read_table((tmp_path / "promoted" / "recommendations").resolve()).to_pylist()
    assert {(row["ds"], row["value"]) for row in rows} == {(DAYS[1], 0)}


def test_rolled_back_nights_are_no_measure_for_later_ones(tmp_path):
    """`nights` leaves out runs that a rollback withdrew until they are promoted again, and runs from the date on."""
    put_and_promote(tmp_path, *DAYS[:4])
    promotions.rollback(tmp_path, DAYS[1])
    assert [night.ds for night in promotions.nights(tmp_path, before=DAYS[4])] == DAYS[:2]
    put_and_promote(tmp_path, DAYS[3])
    assert [night.ds for night in promotions.nights(tmp_path, before=DAYS[4])] == [*DAYS[:2], DAYS[3]]
    assert [night.ds for night in promotions.nights(tmp_path, before=DAYS[1])] == DAYS[:1]


def test_what_a_rollback_withdrew_is_known(tmp_path):
    """`last_use` finds the rollback that withdrew some versions, until they are in use again."""
    put_and_promote(tmp_path, *DAYS[:3])
    versions = [put_night(tmp_path, ds) for ds in DAYS[:3]]
    promotions.rollback(tmp_path, DAYS[0], reason="bad prices")
    promotions.rollback(tmp_path, DAYS[0], reason="once more")
    for ds, found in zip(DAYS[1:3], versions[1:], strict=True):
        used, withdrawn = promotions.last_use(tmp_path, ds, {"recommendations": found["recommendations"]})
        assert used is not None
        assert used.ds == ds
        assert withdrawn is not None
        assert (withdrawn.ds, withdrawn.reason) == (DAYS[0], "bad prices")
    assert promotions.last_use(tmp_path, DAYS[0], versions[0])[1] is None
    other = put_night(tmp_path, DAYS[1], value=9)
    assert promotions.last_use(tmp_path, DAYS[1], other) == (None, None)
    promotions.rollback(tmp_path, DAYS[1])
    used, withdrawn = promotions.last_use(tmp_path, DAYS[1], versions[1])
    assert (used, withdrawn) == (promotions.current(tmp_path), None)


def test_nights_that_hold_a_table(tmp_path):
    """`holding` leaves out runs without the table, but not a run whose files are missing."""
    put_and_promote(tmp_path, *DAYS[:3])
    promotions.promote(tmp_path, DAYS[3], {"histories": put_night(tmp_path, DAYS[3])["histories"]})
    shutil.rmtree(partitions.current(tmp_path, "models/student", DAYS[2]).parent)
    found = promotions.nights(tmp_path, before=DAYS[4], holding="models/student")
    assert [night.ds for night in found] == DAYS[:3]
    last = promotions.last_night(tmp_path, before=DAYS[4], holding="histories")
    assert last is not None
    assert last.ds == DAYS[3]
    assert promotions.last_night(tmp_path, before=DAYS[4], holding="search_index") is None


def test_switches_at_the_same_moment_get_numbers_of_their_own(tmp_path):
    """If runs of different dates promote at once, each gets its own number and the latest date is in use."""
    nights = {ds: put_night(tmp_path, ds) for ds in DAYS}
    together = threading.Barrier(len(DAYS))

    def switch(ds: str) -> None:
        together.wait()
        promotions.promote(tmp_path, ds, nights[ds])

    threads = [threading.Thread(target=switch, args=(ds,)) for ds in DAYS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    switches = promotions.history(tmp_path)
    assert [one.number for one in switches] == list(range(1, len(switches) + 1))
    assert [one.ds for one in switches] == sorted(one.ds for one in switches)
    assert promotions.current(tmp_path) == switches[-1]
    assert switches[-1].ds == max(DAYS)


def test_a_rollback_to_an_unknown_night_names_the_known_ones(tmp_path):
    """Rolling back to a date that was never promoted, or whose files are gone, is an error and changes nothing."""
    with pytest.raises(
        InputError, match=r"no run was ever promoted under .*: expected .*Run `distilrec nightly` first"
    ):
        promotions.rollback(tmp_path, DAYS[0])
    put_and_promote(tmp_path, *DAYS[:2])
    with pytest.raises(InputError, match=f"{DAYS[4]} was never promoted.*: {DAYS[0]}, {DAYS[1]}"):
        promotions.rollback(tmp_path, DAYS[4])
    shutil.rmtree(partitions.current(tmp_path, "recommendations", DAYS[0]).parent)
    with pytest.raises(InputError, match=f"recommendations of {DAYS[0]}, version .* is gone"):
        promotions.rollback(tmp_path, DAYS[0])
    assert in_use(tmp_path) == {DAYS[1]}
    assert list((tmp_path / "_staging").iterdir()) == []


@pytest.mark.parametrize("moment", ["rename", "replace", "symlink_to"])
def test_a_run_killed_while_promoting_changes_nothing_for_readers(tmp_path, monkeypatch, moment):
    """A promotion that is killed at any step leaves the run in use; the next promotion succeeds."""
    put_and_promote(tmp_path, DAYS[0])
    versions = put_night(tmp_path, DAYS[1])

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, moment, die)
        with pytest.raises(KeyboardInterrupt):
            promotions.promote(tmp_path, DAYS[1], versions)
    assert in_use(tmp_path) == {DAYS[0]}
    promotions.promote(tmp_path, DAYS[1], versions)
    assert in_use(tmp_path) == {DAYS[1]}


def test_readers_beside_promotions_see_one_night_at_a_time(tmp_path):
    """During many switches a reader finds the files of one run, or none if it is late, but never of two runs."""
    nights = {ds: put_night(tmp_path, ds) for ds in DAYS}
    promotions.promote(tmp_path, DAYS[0], nights[DAYS[0]])
    seen, late, done = [], [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                files = sorted((tmp_path / "promoted" / "recommendations").iterdir())
                seen.append(frozenset(pq.ParquetFile(file).read()["ds"][0].as_py() for file in files))
            except FileNotFoundError as error:
                late.append(error)
            except Exception as error:
                seen.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(1, 100):
        ds = DAYS[number % len(DAYS)]
        if ds == DAYS[0]:
            promotions.rollback(tmp_path, ds)
        else:
            promotions.promote(tmp_path, ds, nights[ds])
    done.set()
    watcher.join()
    whole = {frozenset([ds]) for ds in DAYS}
    odd = [found for found in seen if found not in whole]
    assert not odd, odd[0]
    assert len(set(seen)) > 1


def test_old_nights_go_and_what_is_in_use_stays(tmp_path):
    """Only the newest promoted runs keep their files, and the run in use, and a date that another run works on."""
    put_and_promote(tmp_path, *DAYS)
    (tmp_path / "logs" / f"ds={DAYS[0]}").mkdir(parents=True)
    assert remove_old_nights(tmp_path, keep=9, before=DAYS[4]) == []
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4], busy={DAYS[0]}) == DAYS[1:3]
    assert (tmp_path / "recommendations" / f"ds={DAYS[0]}").exists()
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4]) == DAYS[:1]
    left = sorted(path.name for path in (tmp_path / "recommendations").iterdir())
    assert promotions.last_night(tmp_path, before=DAYS[3], holding="models/student") is None
    assert left == [f"ds={ds}" for ds in DAYS[3:]]
    assert len(list((tmp_path / "_versions" / "models" / "student").iterdir())) == 2
    assert not (tmp_path / "logs" / f"ds={DAYS[0]}").exists()
    promotions.rollback(tmp_path, DAYS[3])
    put_and_promote(tmp_path, DAYS[4])
    promotions.rollback(tmp_path, DAYS[3])
    assert remove_old_nights(tmp_path, keep=1, before=DAYS[4]) == []
    assert in_use(tmp_path) == {DAYS[3]}


def test_what_given_up_runs_of_old_dates_left_goes_too(tmp_path):
    """Checkpoints, unfinished tables and logs of dates before the kept runs go; those of busy and later dates stay."""
    put_and_promote(tmp_path, *DAYS)
    for ds in ("2026-11-01", "2026-11-02", DAYS[4]):
        for place in (
            f"_checkpoints/shop.distill.ds={ds}.abc",
            f"_staging/models.student.ds={ds}.abc",
            f"logs/ds={ds}",
        ):
            (tmp_path / place).mkdir(parents=True)
        (tmp_path / f"_checkpoints/shop.distill.ds={ds}.abc.jsonl").touch()
    remove_old_nights(tmp_path, keep=2, before=DAYS[4], busy={"2026-11-02"})
    left = [
        path.name for place in ("_checkpoints", "_staging", "logs") for path in sorted((tmp_path / place).iterdir())
    ]
    assert len(left) == 8
    assert all(DAYS[4] in name or "2026-11-02" in name for name in left)


def test_replaced_versions_go_a_night_later(tmp_path):
    """A version that a rerun of its date replaced stays until a run of a later date."""
    put_and_promote(tmp_path, DAYS[0])
    put_night(tmp_path, DAYS[1], value=1)
    put_and_promote(tmp_path, DAYS[1])
    home = tmp_path / "_versions" / "recommendations"
    remove_old_nights(tmp_path, keep=5, before=DAYS[1])
    assert len(list(home.iterdir())) == 3
    remove_old_nights(tmp_path, keep=5, before=DAYS[2])
    assert len(list(home.iterdir())) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", None])
def test_a_damaged_old_record_is_left_out(tmp_path, damage):
    """History, the runs and a rollback work without it, and its number is not used again."""
    put_and_promote(tmp_path, *DAYS[:3])
    record = tmp_path / promotions.RECORDS / f"00002.ds={DAYS[1]}"
    (record / "promotion.json").unlink()
    if damage is not None:
        (record / "promotion.json").write_text(damage)
    assert [switch.number for switch in promotions.history(tmp_path)] == [1, 3]
    assert promotions.damaged_records(tmp_path) == [record]
    assert [night.ds for night in promotions.nights(tmp_path)] == [DAYS[0], DAYS[2]]
    assert promotions.rollback(tmp_path, DAYS[0]).number == 4
    assert promotions.promote(tmp_path, DAYS[3], put_night(tmp_path, DAYS[3])).number == 5


def test_nothing_of_a_published_and_promoted_night_is_lost_in_a_power_cut(tmp_path, monkeypatch):
    """Each file and each folder was synced after its last change."""
    synced, fsync = dict[int, int](), os.fsync

    def noted(opened: int) -> None:
        fsync(opened)
        synced[os.fstat(opened).st_ino] = os.fstat(opened).st_mtime_ns

    monkeypatch.setattr(os, "fsync", noted)
    put_and_promote(tmp_path, *DAYS[:2])
    promotions.rollback(tmp_path, DAYS[0])
    lost = []
    for path in [tmp_path, *tmp_path.rglob("*")]:
        kept = path.relative_to(tmp_path).parts[:1] not in [("_staging",), ("_locks",)]
        if kept and not path.is_symlink() and synced.get(path.stat().st_ino) != path.stat().st_mtime_ns:
            lost.append(path)
    assert lost == []


def test_a_night_built_on_a_withdrawn_one_is_not_promoted(tmp_path):
    """The day before was rolled back while the run was at work. Made again from the run in use, it is promoted."""
    put_and_promote(tmp_path, *DAYS[:2])
    before = promotions.current(tmp_path)
    assert before is not None
    versions = put_night(tmp_path, DAYS[2])
    for name, start in (("histories", "item_vocabulary"), ("models/student", "start")):
        table = "models/student" if start == "start" else start
        staging = partitions.new_staging(tmp_path, name, DAYS[2])
        pq.write_table(pa.table({"ds": [DAYS[2]]}), staging / "0.parquet")
        inputs = {start: f"{DAYS[1]}.{before.versions[table]}"}
        built = versions | {
            name: partitions.publish(staging, tmp_path, name, DAYS[2], fingerprint=name, inputs=inputs).version
        }
        promotions.check_not_withdrawn(tmp_path, DAYS[2], built)
        promotions.rollback(tmp_path, DAYS[0], reason="bad prices")
        with pytest.raises(
            GateError,
            match=rf"{DAYS[2]} is not promoted: its {name} was made from the run of {DAYS[1]}, which a rollback to"
            rf" {DAYS[0]} \(bad prices\) has withdrawn since\. Run `distilrec nightly --ds {DAYS[2]}` again",
        ):
            promotions.promote(tmp_path, DAYS[2], built)
        assert in_use(tmp_path) == {DAYS[0]}
        promotions.rollback(tmp_path, DAYS[1])
        promotions.check_not_withdrawn(tmp_path, DAYS[2], built)
    promotions.rollback(tmp_path, DAYS[0])
    assert promotions.promote(tmp_path, DAYS[2], versions).ds == DAYS[2]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_off_by_a_day_changes_nothing(tmp_path, monkeypatch, days):
    """Switches are in the order of their numbers, and dates are those of the runs: no clock decides."""
    put_and_promote(tmp_path, *DAYS[:3])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 86_400)
    put_and_promote(tmp_path, DAYS[3])
    assert in_use(tmp_path) == {DAYS[3]}
    promotions.rollback(tmp_path, DAYS[1])
    assert in_use(tmp_path) == {DAYS[1]}
    monkeypatch.undo()
    put_and_promote(tmp_path, DAYS[4])
    assert [switch.ds for switch in promotions.history(tmp_path)] == [*DAYS[:4], DAYS[1], DAYS[4]]
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4]) == [DAYS[0]]
    assert in_use(tmp_path) == {DAYS[4]}


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_switch_that_was_killed_before_its_end_does_not_count(tmp_path, monkeypatch, action):
    """Its record is written and readers have the run before. The next switch takes the record away."""
    put_and_promote(tmp_path, *DAYS[:3])
    versions = put_night(tmp_path, DAYS[3])

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    switch = partial(promotions.promote, tmp_path, DAYS[3], versions)
    if action == "rollback":
        switch = partial(promotions.rollback, tmp_path, DAYS[0])
    with monkeypatch.context() as patch:
        patch.setattr(partitions, "switch_link", killed)
        with pytest.raises(KeyboardInterrupt):
            switch()
    assert in_use(tmp_path) == {DAYS[2]}
    assert [switch.ds for switch in promotions.history(tmp_path)] == DAYS[:3]
    assert [night.ds for night in promotions.nights(tmp_path)] == DAYS[:3]
    assert promotions.promote(tmp_path, DAYS[4], put_night(tmp_path, DAYS[4])).number == 4
    assert [switch.ds for switch in promotions.history(tmp_path)] == [*DAYS[:3], DAYS[4]]
    assert not promotions.damaged_records(tmp_path)
