"""Repair as a command, on runs published by hand."""

import errno
from pathlib import Path

import yaml

from jobs.runtime.lock import run_lock
from kdlib.config.load import load_config
from kdlib.release import promotions
from kdlib.store import partitions
from tests.jobs.handmade import DAYS, put_night, root_of, run


def promoted(config, *days):
    for ds in days:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0
    return root_of(config)


def everything(root):
    return sorted((path, path.is_file() and path.read_bytes()) for path in root.rglob("*") if ".lock" not in path.name)


def test_it_shows_before_it_does(config, capfd):
    """Without `--yes` it prints faults and remedies, changes nothing and ends with 1; then with `--yes` 0, and 0 again."""
    root = promoted(config, *DAYS[:2])
    record = root / "_promotions" / f"00002.ds={DAYS[1]}"
    (record / "promotion.json").write_text("")
    assert run("rollback", config, "--to", DAYS[0]) == 2
    assert f"no usable record of a promotion at {record}" in capfd.readouterr().err
    before = everything(root)
    assert run("repair", config) == 1
    printed = capfd.readouterr().out
    assert f"the record of a switch, _promotions/{record.name}, cannot be read\n    with --yes: move it to" in printed
    assert f"promoted leads to no record, so that no run is in use\n    with --yes: put the run of {DAYS[0]}" in printed
    assert f"repair: 2 found in {root}; `distilrec repair --config {config} --yes` mends 2" in printed
    assert everything(root) == before
    assert run("repair", config, "--yes") == 0
    printed = capfd.readouterr().out
    assert "cannot be read\n    done: move it to _promotions/_damaged" in printed
    assert f"repair: 2 mended in {root}, 0 left" in printed
    for words in ([], ["--yes"]):
        assert run("repair", config, *words) == 0
        assert f"repair: no fault found in {root}" in capfd.readouterr().out
    now = promotions.current(root)
    assert now is not None
    assert now.ds == DAYS[0]
    assert run("promote", config, "--ds", DAYS[1]) == 0


def test_what_a_person_has_to_decide_is_left_with_status_one(config, capfd):
    """The run in use lacks a file: the way back is named, and works."""
    root = promoted(config, *DAYS[:2])
    next(partitions.current(root, "recommendations", DAYS[1]).iterdir()).unlink()
    assert run("repair", config) == run("repair", config, "--yes") == 1
    printed = capfd.readouterr().out
    assert "repair: 1 found in" in printed
    assert "each needs your decision" in printed
    assert f"by hand: go back with `distilrec rollback --config {config} --to {DAYS[0]}`, or make it again" in printed
    assert f"repair: 0 mended in {root}, 1 left" in printed
    assert run("rollback", config, "--to", DAYS[0]) == 0
    assert run("repair", config, "--yes") == 0


def test_a_remedy_that_fails_is_told(config, monkeypatch, capfd):
    """The others are done, and the status is 1."""
    root = promoted(config, DAYS[0])
    for ds in DAYS[1:]:
        (root / "histories" / f"ds={ds}").symlink_to(f"../_versions/histories/ds={ds}.abc/data")
    unlink = Path.unlink

    def refused(path: Path, **more: bool) -> None:
        if path.name == f"ds={DAYS[1]}":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, **more)

    monkeypatch.setattr(Path, "unlink", refused)
    assert run("repair", config, "--yes") == 1
    printed = capfd.readouterr().out
    assert "not done: remove this link: [Errno 13] Permission denied" in printed
    assert f"repair: 1 mended in {root}, 1 left" in printed


def test_dates_that_runs_hold_are_left_alone(config, capfd):
    """A run makes its tables again by itself."""
    root = promoted(config, DAYS[0])
    (root / "histories" / f"ds={DAYS[1]}").symlink_to(f"../_versions/histories/ds={DAYS[1]}.abc/data")
    with run_lock(load_config(config, ds=DAYS[1]), "nightly"):
        assert run("repair", config, "--yes") == 0
    assert f"repair: runs work on {DAYS[1]}: what is of these dates is left alone" in capfd.readouterr().out
    assert run("repair", config) == 1


def test_a_folder_that_cannot_be_read_otherwise_can_be_repaired(config, capfd):
    """The default recipe reads the size of the data from a manifest. Where it is damaged, `repair` works nevertheless."""
    root = put_night(config, DAYS[0])
    document = {name: value for name, value in yaml.safe_load(config.read_text()).items() if name != "teachers"}
    config.write_text(yaml.safe_dump(document | {"ds": DAYS[0]}))
    (partitions.current(root, "histories", DAYS[0]).parent / "manifest.json").write_text("")
    assert run("deliver", config) == 2
    assert "no usable manifest" in capfd.readouterr().err
    assert run("repair", config, "--yes") == 0
    assert partitions.read_manifest(root, "histories", DAYS[0]) is None
