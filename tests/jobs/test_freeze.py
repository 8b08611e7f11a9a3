"""A freeze as a command, on runs published by hand."""

import json
import threading

from kdlib.release import delivery, freezing, promotions
from kdlib.report.gather import find_partitions, use_of
from tests.jobs.handmade import DAYS, of_telemetry, put_night, root_of, run


def in_use(config):
    now = promotions.current(root_of(config))
    return now and now.ds


def test_a_frozen_run_stays_in_use_and_is_delivered(config, last_steps, capfd):
    """A night that ends meanwhile says so with status 0, delivers the run in use, and is promoted after the freeze."""
    put_night(config, DAYS[0])
    assert last_steps(DAYS[0]) == 0
    assert run("freeze", config, "--reason", "sale until Monday") == 0
    assert f"freeze: {DAYS[0]} stays in use in {root_of(config)} until `distilrec unfreeze" in capfd.readouterr().out
    put_night(config, DAYS[1])
    pointer = config.parent / "there" / delivery.POINTER
    pointer.unlink()
    assert last_steps(DAYS[1]) == 0
    printed = capfd.readouterr().out
    assert f"promote: {DAYS[1]} stays out of use: frozen since 20" in printed
    assert f" UTC (sale until Monday). `distilrec unfreeze --config {config}`" in printed
    assert f"then `distilrec promote --config {config} --ds {DAYS[1]}`" in printed
    assert in_use(config) == DAYS[0]
    there = delivery.delivered(f"file://{config.parent}/there")
    assert there is not None
    assert there.ds == DAYS[0]
    assert of_telemetry(config) == (DAYS[1], 0)
    assert run("unfreeze", config) == 0
    printed = capfd.readouterr().out
    assert "are promoted again. It was frozen since 20" in printed
    assert f"`distilrec promote --config {config} --ds {DAYS[1]}` puts the newest run in use" in printed
    assert run("promote", config, "--ds", DAYS[1]) == 0
    assert in_use(config) == DAYS[1]


def test_while_frozen_rollback_works_and_the_run_in_use_can_be_promoted_again(config, capfd):
    """A freeze keeps other runs out, and nothing else."""
    for ds in DAYS[:2]:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0
    assert run("freeze", config, "--reason", "sale") == 0
    capfd.readouterr()
    assert run("promote", config, "--ds", DAYS[1]) == 0
    assert f"promote: {DAYS[1]} is in use" in capfd.readouterr().out
    assert run("rollback", config, "--to", DAYS[0]) == 0
    assert in_use(config) == DAYS[0]


def test_old_runs_go_while_the_run_in_use_is_frozen(config, capfd):
    """A freeze of weeks keeps no run that is older than `retention.nights` promoted ones."""
    root = root_of(config)
    for ds in DAYS[:2]:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0
    put_night(config, DAYS[1], kept=901)
    put_night(config, DAYS[1])
    assert run("freeze", config, "--reason", "sale") == 0
    put_night(config, DAYS[2])
    assert run("check-gates", config, "--ds", DAYS[2]) == run("promote", config, "--ds", DAYS[2]) == 0
    assert in_use(config) == DAYS[1]
    kept = sorted(path.name[:13] for path in (root / "_versions" / "histories").iterdir())
    assert kept == [f"ds={ds}" for ds in DAYS], "the replaced histories of the second date are gone"


def test_nothing_is_promoted_into_a_frozen_folder_without_a_run_in_use(config, last_steps, capfd):
    """A freeze before the first promotion keeps the first run out of use, and delivers nothing."""
    put_night(config, DAYS[0])
    assert run("freeze", config, "--reason", "not yet") == 0
    assert "no run is in use, and none comes into use" in capfd.readouterr().out
    assert last_steps(DAYS[0]) == 0
    assert in_use(config) is None
    assert not (config.parent / "there").exists()


def test_a_second_freeze_changes_nothing_and_an_unfreeze_without_one_says_so(config, capfd):
    """The first reason stays; both end with 0."""
    put_night(config, DAYS[0])
    for reason in ("first", "second"):
        assert run("freeze", config, "--reason", reason) == 0
    assert "nothing changed" in capfd.readouterr().out
    freeze = freezing.frozen(root_of(config))
    assert freeze is not None
    assert freeze.reason == "first"
    assert run("unfreeze", config) == run("unfreeze", config) == 0
    assert "is not frozen" in capfd.readouterr().out


def test_a_freeze_needs_a_reason_no_date_and_an_output_folder(config, capfd):
    """Each is an error with status 2, and nothing is written."""
    assert run("freeze", config, "--reason", "sale") == 2
    assert f"no run has been made in {root_of(config)}" in capfd.readouterr().err
    put_night(config, DAYS[0])
    assert run("freeze", config, "--reason", " ") == 2
    assert "--reason: expected why the run in use is frozen" in capfd.readouterr().err
    assert run("freeze", config, "--reason", "sale", "--ds", DAYS[0]) == 2
    assert f"--ds {DAYS[0]}: this command is about all runs and takes no date" in capfd.readouterr().err
    assert freezing.frozen(root_of(config)) is None


def test_a_damaged_freeze_counts_as_one(config, capfd):
    """Nothing comes into use by accident, and `unfreeze` ends it."""
    put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    path = root_of(config) / freezing.FILE
    path.parent.mkdir()
    path.write_text("")
    assert run("promote", config, "--ds", DAYS[0]) == 0
    assert f"frozen since an unknown time ({path} cannot be read" in capfd.readouterr().out
    assert in_use(config) is None
    assert run("unfreeze", config) == run("promote", config, "--ds", DAYS[0]) == 0
    assert in_use(config) == DAYS[0]


def test_a_freeze_waits_for_a_switch(config, monkeypatch):
    """A promotion that has begun ends before the freeze does; a promotion after the freeze stays out."""
    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    with promotions.switching(root, "promote"):
        thread = threading.Thread(target=run, args=("freeze", config, "--reason", "sale"))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        assert freezing.frozen(root) is None
    thread.join()
    assert json.loads((root / freezing.FILE).read_text())["reason"] == "sale"


def test_the_report_says_that_a_freeze_keeps_the_run_out(config):
    """It does not say so of the run in use, nor of a run that was promoted before."""
    root = root_of(config)
    for ds in DAYS[:2]:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0
    put_night(config, DAYS[2])
    assert run("freeze", config, "--reason", "sale") == 0
    assert [use_of(root, ds, find_partitions(root, ds)).frozen for ds in DAYS] == ["", "", "sale"]
