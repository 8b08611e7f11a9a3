"""Old runs are removed, and nothing else; see also `test_promotions.py`."""

import errno
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from kdlib.errors import BusyError, InputError
from kdlib.release import promotions, retention
from kdlib.release.retention import remove_old_nights
from kdlib.store import leases, partitions
from kdlib.store.folders import DiskFolder
from tests.release.test_promotions import DAYS, NAMES, put_and_promote, put_night


@pytest.mark.parametrize("busy", DAYS[1:3])
def test_the_night_that_a_running_backfill_goes_on_from_stays(tmp_path: Path, busy: str) -> None:
    """The run that a running backfill continues from stays until the backfill has ended."""
    put_and_promote(tmp_path, *DAYS)
    before = promotions.last_night(tmp_path, before=busy, holding="models/student")
    assert before is not None
    remove_old_nights(tmp_path, keep=2, before=DAYS[4], busy={busy})
    assert promotions.last_night(tmp_path, before=busy, holding="models/student") == before
    for name in before.versions:
        assert promotions.folder_of(tmp_path, before, name).is_dir()
    remove_old_nights(tmp_path, keep=2, before=DAYS[4])
    assert promotions.last_night(tmp_path, before=busy, holding="models/student") is None


def test_the_night_that_a_backfill_has_just_made_again_stays(tmp_path: Path) -> None:
    """A version that a backfill has just made stays although it was not promoted."""
    put_and_promote(tmp_path, *DAYS)
    put_night(tmp_path, DAYS[1], value=9)
    again = partitions.manifest_of(tmp_path, "histories", DAYS[1])
    remove_old_nights(tmp_path, keep=2, before=DAYS[4], busy={DAYS[2]})
    assert partitions.manifest_of(tmp_path, "histories", DAYS[1]) == again
    remove_old_nights(tmp_path, keep=2, before=DAYS[4])
    assert partitions.read_manifest(tmp_path, "histories", DAYS[1]) is None


def test_a_night_that_is_half_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose removal failed half-way cannot be used any more, and the next call removes the rest."""
    put_and_promote(tmp_path, *DAYS)
    remove, said = shutil.rmtree, []

    def half(path: Path, **more: Any) -> None:
        if DAYS[1] not in path.name:
            return remove(path, **more)
        next((path / "data").iterdir()).unlink()
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path / "data"))

    monkeypatch.setattr(shutil, "rmtree", half)
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4], warn=said.append) == DAYS[:3]
    left = sorted((tmp_path / "_staging").glob("removed.*"))
    assert [path.name.rpartition(".")[0].rpartition(".")[0] for path in left] == [
        f"removed.{name.replace('/', '.')}.{DAYS[1]}" for name in sorted(NAMES)
    ]
    assert len(said) == 1
    assert str(said[0]).startswith(f"not removed: {tmp_path}/_staging/removed.")
    assert str(said[0]).endswith(f" (Directory not empty) and {len(NAMES) - 1} more. The next promotion tries again")
    assert not list((tmp_path / partitions.VERSIONS).rglob(f"ds={DAYS[1]}.*"))
    assert promotions.last_night(tmp_path, before=DAYS[2], holding="models/student") is None
    with pytest.raises(InputError, match="is gone"):
        promotions.rollback(tmp_path, DAYS[1])
    monkeypatch.undo()
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4], warn=said.append) == []
    assert len(said) == 1
    assert not list((tmp_path / "_staging").iterdir())


def test_a_night_that_cannot_go_aside_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that cannot be moved aside stays whole and can be rolled back to; the other runs go."""
    put_and_promote(tmp_path, *DAYS)
    rename, said = Path.rename, []

    def refused(path: Path, target: Path) -> Path:
        if path.name.startswith(f"ds={DAYS[1]}."):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4], warn=said.append) == [DAYS[0], DAYS[2]]
    assert len(said) == 1
    assert f"/ds={DAYS[1]}." in str(said[0])
    monkeypatch.undo()
    night = promotions.rollback(tmp_path, DAYS[1])
    assert not [
        name for name in night.versions if partitions.damaged(tmp_path, promotions.manifest_of(tmp_path, night, name))
    ]


@pytest.mark.parametrize("starts", [set(), {DAYS[1]}])
def test_an_unpromoted_night_that_a_backfill_goes_on_from_stays(tmp_path: Path, starts: set[str]) -> None:
    """A backfill of a date before the oldest promoted run continues from a run that was never promoted."""
    before = put_night(tmp_path, DAYS[1])
    put_and_promote(tmp_path, *DAYS[3:])
    remove_old_nights(tmp_path, keep=2, before=DAYS[4], busy={DAYS[2]}, starts=starts)
    for name in before:
        assert (partitions.read_manifest(tmp_path, name, DAYS[1]) is not None) == bool(starts)


def test_a_rollback_and_the_removal_of_old_nights_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal cannot take away what a rollback is about to put in use."""
    put_and_promote(tmp_path, *DAYS)
    inside, go_on, switch = threading.Event(), threading.Event(), partitions.switch_link

    def slowly(link: Path, target: Path, **more: Any) -> None:
        inside.set()
        assert go_on.wait(30)
        switch(link, target, **more)

    monkeypatch.setattr(partitions, "switch_link", slowly)
    back = threading.Thread(target=promotions.rollback, args=(tmp_path, DAYS[0]))
    back.start()
    assert inside.wait(30)
    removal = threading.Thread(target=remove_old_nights, args=(tmp_path,), kwargs={"keep": 2, "before": DAYS[4]})
    removal.start()
    removal.join(0.5)
    assert removal.is_alive()
    go_on.set()
    back.join()
    removal.join()
    for name in NAMES:
        if name in (*promotions.LINKED, *promotions.LISTS):
            assert (tmp_path / promotions.LINK / name).is_dir()


def test_a_date_on_which_a_run_has_begun_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal takes the lease of each date, and passes over a date that another run has."""
    monkeypatch.setattr(leases, "TERM_SECONDS", 1.0)
    put_and_promote(tmp_path, *DAYS)
    folder, begun, ended = DiskFolder(tmp_path, durable=False), threading.Event(), threading.Event()

    def other_run() -> None:
        with leases.held(folder, leases.of_date(DAYS[0]), "nightly"):
            begun.set()
            ended.wait(30)

    other = threading.Thread(target=other_run)
    other.start()
    assert begun.wait(30)
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4]) == DAYS[1:3]
    ended.set()
    other.join()
    assert remove_old_nights(tmp_path, keep=2, before=DAYS[4]) == [DAYS[0]]


def test_a_removal_that_was_paused_for_too_long_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback has taken over from it, and may use what was about to go."""
    put_and_promote(tmp_path, *DAYS)
    lease, folders = tmp_path / promotions.SWITCHING, retention.version_folders

    def paused(home: Path) -> Any:
        lease.write_text(lease.read_text().replace('"token": "', '"token": "x'))
        yield from folders(home)

    monkeypatch.setattr(retention, "version_folders", paused)
    with pytest.raises(BusyError, match="has gone to removal of old runs"):
        remove_old_nights(tmp_path, keep=2, before=DAYS[4])
    for name in NAMES:
        assert partitions.read_manifest(tmp_path, name, DAYS[0]) is not None


def test_without_a_partition_and_a_promotion_nothing_is_old(tmp_path: Path) -> None:
    """A version that no partition points to may be the next one to be published."""
    put_night(tmp_path, DAYS[0])
    for link in partitions.links(tmp_path).values():
        link.unlink()
    assert retention.old_versions(tmp_path, keep=1, before=partitions.EVER).versions == []
