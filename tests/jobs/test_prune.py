"""Removing old runs by hand, on runs published by hand."""

import errno
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.runtime.lock import run_lock
from kdlib.config.load import load_config
from kdlib.release import promotions
from kdlib.store import folders, partitions
from tests.jobs.handmade import DAYS, put, put_night, root_of, run


def promote(config, *days):
    for ds in days:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0


def dates(root, table="recommendations"):
    """The dates with a version of a table."""
    return sorted(path.name[3:13] for path in (root / "_versions" / table).iterdir())


def everything(root):
    return sorted(path for path in root.rglob("*") if ".lock" not in path.name and "logs" not in path.parts)


def test_the_newest_promoted_runs_stay(config, capfd):
    """`--keep 1` leaves the run in use alone. Each removed date is printed with its bytes, a dry run's too."""
    promote(config, *DAYS[:2])
    root = root_of(config)
    size = sum(path.stat().st_size for path in (root / "_versions").glob(f"**/ds={DAYS[0]}.*/**/*") if path.is_file())
    before = everything(root)
    capfd.readouterr()
    assert run("prune", config, "--keep", "1", "--dry-run") == 0
    printed = capfd.readouterr().out
    assert f"  {DAYS[0]}: {size:,} bytes" in printed
    assert f"prune: would remove {size:,} bytes from {root}; {DAYS[1]} stays" in printed
    assert everything(root) == before
    shutil.rmtree(root / partitions.STAGING)  # as in a copy without it
    assert run("prune", config, "--keep", "1") == 0
    assert f"prune: removed {size:,} bytes from {root}" in capfd.readouterr().out
    assert dates(root) == dates(root, "models/student") == [DAYS[1]]
    now = promotions.current(root)
    assert now is not None
    assert not [name for name in now.versions if not promotions.folder_of(root, now, name).is_dir()]
    assert run("rollback", config, "--to", DAYS[0]) == 2
    assert "is gone" in capfd.readouterr().err


def test_without_a_promotion_the_newest_dates_stay(config, capfd):
    """The default is `retention.nights`, here two. Replaced tables of earlier dates go, those of the newest date stay."""
    for ds in DAYS:
        put_night(config, ds)
    root = root_of(config)
    for ds in DAYS[1:]:
        put(root, "histories", ds, pa.table({"ds": [ds]}), again=1)
    assert run("prune", config) == 0
    assert f"; 2 dates stay, {DAYS[1]} to {DAYS[2]}" in capfd.readouterr().out
    assert dates(root) == DAYS[1:]
    assert dates(root, "histories") == [DAYS[1], DAYS[2], DAYS[2]]
    assert not (root / "recommendations" / f"ds={DAYS[0]}").is_symlink()


def test_the_run_in_use_stays_after_a_rollback_however_old_it_is(config):
    """The newer runs are withdrawn; their tables are newer than the run in use, and stay too."""
    promote(config, *DAYS[:2])
    assert run("rollback", config, "--to", DAYS[0]) == 0
    assert run("prune", config, "--keep", "1") == 0
    assert dates(root_of(config)) == DAYS[:2]


def test_a_date_that_a_run_holds_and_the_run_before_it_stay(config, capfd):
    """A backfill continues from the promoted run before it."""
    config.write_text(config.read_text().replace("nights: 2", "nights: 3"))
    promote(config, *DAYS)
    root = root_of(config)
    capfd.readouterr()
    with run_lock(load_config(config, ds=DAYS[1]), "nightly"):
        assert run("prune", config, "--keep", "1") == 0
        assert f"runs work on {DAYS[1]}; these dates and what they start from stay" in capfd.readouterr().out
        assert dates(root) == DAYS
    assert run("prune", config, "--keep", "1") == 0
    assert dates(root) == [DAYS[2]]


def put_leftovers(root):
    """Unfinished tables of a date that has ended and of one that a run holds, and a version that was moved aside."""
    names = [f"models.student.ds={ds}.abc" for ds in DAYS[1:]] + [f"removed.histories.{DAYS[0]}.abc.def"]
    for name in names:
        (root / partitions.STAGING / name).mkdir(parents=True)
        (root / partitions.STAGING / name / "part").write_bytes(b"x" * 2**20)


def test_what_ended_runs_left_goes_whatever_its_date(config, capfd):
    """An unfinished table of a date that a run holds stays; the lease of a removal is not needed."""
    promote(config, DAYS[0])
    root = root_of(config)
    put_leftovers(root)
    with run_lock(load_config(config, ds=DAYS[2]), "nightly"):
        assert run("prune", config) == 0
    printed = capfd.readouterr().out
    assert "  unfinished tables of runs that have ended: 1.0 MiB" in printed
    assert "  tables that an earlier removal has left: 1.0 MiB" in printed
    assert [path.name for path in (root / partitions.STAGING).iterdir()] == [f"models.student.ds={DAYS[2]}.abc"]


@pytest.mark.parametrize("helps", [True, False])
def test_on_a_full_disk_the_leftovers_go_before_anything_is_written(config, helps, monkeypatch, capfd):
    """If that frees no room for the lease, the error names what to free, and no run is removed."""
    promote(config, *DAYS)
    root = root_of(config)
    capfd.readouterr()
    (root / "logs" / f"ds={DAYS[0]}").mkdir(parents=True, exist_ok=True)
    (root / "logs" / f"ds={DAYS[0]}" / "x.log").write_bytes(b"x" * 2**21)
    write = folders.replace_file

    def full(path: Path, data: bytes, **more: bool) -> None:
        if not helps or list((root / partitions.STAGING).glob("*ds=*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data, **more)

    with run_lock(load_config(config, ds=DAYS[2]), "nightly"):
        put_leftovers(root)
        monkeypatch.setattr(folders, "replace_file", full)  # the run ends, and cannot even release its lease
    kept = dates(root)
    assert run("prune", config, "--keep", "1") == (0 if helps else 2)
    assert not list((root / partitions.STAGING).iterdir())
    if helps:
        assert dates(root) == [DAYS[2]]
        return
    error = capfd.readouterr().err
    assert f"the disk of {root} is full (No space left on device). Not even a lease" in error
    assert f"for example {root}/logs/ds={DAYS[0]} (2.0 MiB). Then run `distilrec prune" in error
    assert dates(root) == kept


def test_prune_does_not_guess_what_is_in_use(config, capfd):
    """Without the link `promoted` the run in use would look like any old run: an error says what to do."""
    promote(config, *DAYS[:2])
    root = root_of(config)
    (root / promotions.LINK).unlink()
    assert run("prune", config, "--keep", "1") == 2
    assert (
        "promoted leads to none, so that nobody can say what is in use: run `distilrec repair" in capfd.readouterr().err
    )
    assert dates(root) == DAYS[:2]


def test_what_cannot_be_removed_is_a_warning(config, monkeypatch, capfd):
    """The rest is removed, and the next call tries again."""
    promote(config, *DAYS[:2])
    remove = shutil.rmtree

    def refused(path: Path, **more: object) -> None:
        if "models.teacher" in path.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", refused)
    assert run("prune", config, "--keep", "1") == 0
    assert "prune: warning: not removed: " in capfd.readouterr().out
    monkeypatch.undo()
    assert run("prune", config, "--keep", "1") == 0
    assert not list((root_of(config) / partitions.STAGING).iterdir())
