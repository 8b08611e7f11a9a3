"""The gates as commands, on runs published by hand."""

import pyarrow.parquet as pq
import pytest

from kdlib.release import promotions
from kdlib.store import partitions
from tests.jobs.handmade import DAYS, put_night, run


def test_a_failed_gate_keeps_the_table_in_use(config, capfd):
    """Exit status 3.

    The error names gate, value, bound and the run in use. Promotion is refused, and the failure is on record.
    """
    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == run("promote", config, "--ds", DAYS[0]) == 0
    put_night(config, DAYS[1], day_events=3)
    assert run("check-input", config, "--ds", DAYS[1]) == 3
    error = capfd.readouterr().err
    assert (
        f"{DAYS[1]} is not published, the table of {DAYS[0]} stays in use: day_events_volume 3, must be at least 50"
        in error
    )
    assert run("check-gates", config, "--ds", DAYS[1]) == 3
    assert run("promote", config, "--ds", DAYS[1]) == 3
    in_use = promotions.current(root)
    assert in_use is not None
    assert in_use.ds == DAYS[0]
    statuses = pq.read_table(partitions.current(root, "gates", DAYS[1]))["status"].to_pylist()
    assert statuses.count("failed") == 1


def test_a_student_worse_than_popularity_is_not_published(config, capfd):
    """A significant loss against popularity fails the first run, too."""
    put_night(config, DAYS[0], student=(-0.05, -0.01))
    assert run("check-gates", config, "--ds", DAYS[0]) == 3
    assert "nothing is published: student_over_popularity -0.01, must be at least 0" in capfd.readouterr().err


def test_metrics_without_the_objective_are_stale(config, capfd):
    """Gates of an objective need metrics that were measured with it. The error names the metric and the stage to run."""
    put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0], "--set", "objective.purchase=10") == 2
    assert (
        "the gates judge objective_ndcg@10, which was not measured. Run `distilrec evaluate" in capfd.readouterr().err
    )


def test_force_publishes_and_is_on_record(config, capfd):
    """With `--force` the run is published. The promotion keeps the gate and the reason."""
    root = put_night(config, DAYS[0], day_events=0)
    assert run("check-gates", config, "--ds", DAYS[0], "--force", "closed for a holiday") == 0
    assert "forced: events_of_the_day 0, must be at least 1" in capfd.readouterr().out
    assert run("promote", config, "--ds", DAYS[0]) == 0
    in_use = promotions.current(root)
    assert in_use is not None
    assert in_use.forced == ["events_of_the_day"]
    assert in_use.reason == "closed for a holiday"


@pytest.mark.parametrize("part", ["input", "quality"])
def test_a_rerun_keeps_what_was_overruled(config, capfd, part):
    """A rerun without `--force` passes the same gates of the same input, before and after training.

    The record stays.
    """
    faults = {"input": {"day_events": 0}, "quality": {"student": (-0.05, -0.01)}}
    root = put_night(config, DAYS[0], **faults[part])
    for words in (["--force", "closed for a holiday"], []):
        for stage in ("check-input", "check-gates"):
            assert run(stage, config, "--ds", DAYS[0], *words) == 0, capfd.readouterr().err
            capfd.readouterr()
    put_night(config, DAYS[0], **faults[part])
    assert run("check-gates", config, "--ds", DAYS[0]) == run("promote", config, "--ds", DAYS[0]) == 0
    assert "forced, as before (closed for a holiday): " in capfd.readouterr().out
    in_use = promotions.current(root)
    assert in_use is not None
    assert in_use.reason == "closed for a holiday"
    assert run("check-input", config, "--ds", DAYS[0]) == 0
    assert partitions.manifest_of(root, "gates", DAYS[0]).version == in_use.versions["gates"]


def test_what_was_overruled_holds_for_that_input_alone(config, capfd):
    """Other rows, or one more failed gate, need a new reason.

    A forced input stays forced while models are trained again.
    """
    put_night(config, DAYS[0], day_events=0)
    assert run("check-input", config, "--ds", DAYS[0], "--force", "holiday") == 0
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    put_night(config, DAYS[0], student=(-0.05, -0.01), day_events=0)
    assert run("check-gates", config, "--ds", DAYS[0]) == 3
    assert "student_over_popularity -0.01" in capfd.readouterr().err
    assert run("check-gates", config, "--ds", DAYS[0], "--force", "holiday") == 0
    put_night(config, DAYS[0], day_events=0, kept=901)
    assert run("check-gates", config, "--ds", DAYS[0]) == 3
    assert "events_of_the_day 0, must be at least 1" in capfd.readouterr().err


def test_nights_whose_files_are_gone_are_no_measure(config, capfd):
    """The gates compare with up to seven runs, but only two are kept. They use the runs that exist, also after a rollback."""
    days = [f"2024-11-{day}" for day in range(10, 16)]
    for ds in days:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0, capfd.readouterr().err
    assert run("rollback", config, "--to", days[-2]) == 0
    put_night(config, DAYS[2])
    assert run("check-gates", config, "--ds", DAYS[2]) == run("promote", config, "--ds", DAYS[2]) == 0


def test_a_day_is_compared_with_its_weekday(config, capfd):
    """Half of a Saturday is refused, although a usual day of the week has no more events."""
    week = [f"2024-11-{day:02}" for day in range(9, 16)]  # Saturday to Friday
    for ds in week:
        put_night(config, ds, day_events=300 if ds == week[0] else 100)
        status = run("check-gates", config, "--ds", ds, "--force", "a weekend")
        assert status == run("promote", config, "--ds", ds, "--set", "retention.nights=14") == 0
    put_night(config, "2024-11-16", day_events=140)
    assert run("check-input", config, "--ds", "2024-11-16") == 3
    assert "day_events_volume 140, must be at least 150 and at most 900: events of the day; the median of the same" in (
        capfd.readouterr().err
    )
