"""Rollback as a command, and what later runs of a withdrawn date do, on runs published by hand."""

import re
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from kdlib.release import delivery, promotions
from tests.jobs.handmade import DAYS, of_telemetry, put, put_night, root_of, run


def test_rollback_switches_back_and_a_backfill_does_not(config, capfd):
    """`rollback --to` puts table and model of a date in use.

    A rerun of an earlier date is not promoted, and old runs are removed.
    """
    root = root_of(config)
    for ds in DAYS:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == run("promote", config, "--ds", ds) == 0
    assert f"removed 1 old runs, {DAYS[0]} to {DAYS[0]}" in capfd.readouterr().out
    assert run("promote", config, "--ds", DAYS[1]) == 0
    assert f"{DAYS[2]} stays in use, because it is later than {DAYS[1]}" in capfd.readouterr().out
    assert run("rollback", config, "--to", DAYS[1], "--reason", "wrong prices") == 0
    assert f"{DAYS[1]} is in use, {DAYS[2]} no more" in capfd.readouterr().out
    for name in ("recommendations", "models/student"):
        assert pq.read_table((root / "promoted" / name).resolve())["ds"].to_pylist() == [DAYS[1]]
    assert run("rollback", config, "--to", DAYS[0]) == 2
    assert f"recommendations of {DAYS[0]}, version" in capfd.readouterr().err


def test_a_rollback_that_others_do_not_get_to_read_is_told(config, unread_rollback):
    """Telemetry keeps status 74 of the withdrawn run, which others still read, until `deliver` succeeds."""
    unread_rollback()  # the place can be reached again
    assert run("deliver", config) == 0
    assert of_telemetry(config) == (DAYS[1], 0)


def test_the_second_attempt_of_a_withdrawn_night_delivers_what_is_in_use(config, last_steps, unread_rollback):
    """Otherwise status 0 would hide that others still read the withdrawn run."""
    assert last_steps(DAYS[1]) == 74
    assert of_telemetry(config) == (DAYS[1], 74)
    unread_rollback()  # the place can be reached again
    assert last_steps(DAYS[1]) == 0
    there = delivery.delivered(f"file://{config.parent}/there")
    assert there is not None
    assert there.ds == DAYS[0]


def test_the_second_attempt_of_a_withdrawn_night_leaves_it_out_of_use(config, last_steps, capfd):
    """The rerun ends with 0 and changes neither the run in use, nor the delivery, nor telemetry.

    With new tables it is promoted.
    """
    root, there = root_of(config), config.parent / "there"

    def in_use() -> tuple[str, ...]:
        now, told = promotions.current(root), (config.parent / "shop.prom").read_text()
        assert now is not None
        sent = delivery.read(f"file://{there}", "recommendations").to_table()["ds"].unique().to_pylist()
        day = re.search(r"distilrec_in_use_day_timestamp_seconds\{.*\} (\S+)", told)
        assert day is not None
        return now.ds, *sent, datetime.fromtimestamp(float(day[1]), UTC).date().isoformat()

    for ds in DAYS[:2]:
        put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    assert in_use() == (DAYS[1],) * 3
    assert run("rollback", config, "--to", DAYS[0], "--reason", "wrong prices") == 0
    capfd.readouterr()
    assert last_steps(DAYS[1]) == 0
    found = (
        f"promote: {DAYS[1]} stays out of use: a rollback to {DAYS[0]} (wrong prices) has withdrawn these very tables"
    )
    assert found in capfd.readouterr().out
    assert in_use() == (DAYS[0],) * 3
    assert run("promote", config, "--ds", DAYS[1]) == 0
    assert in_use() == (DAYS[0],) * 3
    assert run("rollback", config, "--to", DAYS[1]) == 0
    assert last_steps(DAYS[1]) == 0
    assert in_use() == (DAYS[1],) * 3
    assert run("rollback", config, "--to", DAYS[0]) == 0
    put(root, "recommendations", DAYS[1], pa.table({"ds": [DAYS[1]]}), ("histories", "models/student"), seed=2)
    assert last_steps(DAYS[1]) == 0
    assert in_use() == (DAYS[1],) * 3
