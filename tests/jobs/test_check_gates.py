"""Gates, promotion and rollback as commands, on nights published by hand."""

import errno
import re
import shutil
import sys
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import check_gates, deliver, forget, nightly, promote, report, rollback, telemetry
from jobs.runtime.console import command
from kdlib.config.load import load_config
from kdlib.errors import ConfigError
from kdlib.privacy import forgetting
from kdlib.release import delivery, promotions
from kdlib.report.content import Night
from kdlib.store import partitions
from kdlib.store.tables import METRICS

DAYS = [f"2026-11-{day}" for day in (20, 21, 22)]
FUNNEL = {
    "rows_read": 1000,
    "kept": 900,
    "duplicate": 50,
    "quarantined": 50,
    "reasons": {},
    "day_events": 100,
    "day_users": 40,
    "users": 200,
    "interactions": 800,
    "users_without_history": 0,
    "items": 100,
    "new_items": 2,
    "columns": {},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    document = {
        "name": "small",
        "output_dir": str(tmp_path / "out"),
        "input": {"simulate": {}},
        "retention": {"nights": 2},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def put(root: Path, name: str, ds: str, table: pa.Table, made_from: tuple[str, ...] = (), **details: object) -> None:
    """Publish; the manifest says that it was made from what is published now of `made_from`."""
    staging = partitions.new_staging(root, name, ds)
    pq.write_table(table, staging / "part.parquet")
    inputs = {one: partitions.manifest_of(root, one, ds).version for one in made_from}
    partitions.publish(staging, root, name, ds, fingerprint=f"{ds} {details}", inputs=inputs, details=details)


def put_night(config: Path, ds: str, *, student: tuple[float, float] = (0.01, 0.05), **funnel: object) -> Path:
    """Publish what a night consists of but its gates; the student's gain over popularity has the interval given."""
    root = config.parent / "out"
    put(root, "histories", ds, pa.table({"ds": [ds]}), funnel=FUNNEL | funnel)
    for name in ("item_vocabulary", "item_statistics", "models/student", "models/teacher", "models/control"):
        put(root, name, ds, pa.table({"ds": [ds]}))
    put(root, "recommendations", ds, pa.table({"ds": [ds]}), ("histories", "models/student"))
    rows = [
        {"model": model, "metric": "ndcg@10", "value": 0.03, "low": student[0], "high": student[1], "num_users": 100}
        for model in ("student", "student - popularity")
    ]
    rows.append(
        {"model": "student", "metric": "coverage@20", "value": 0.4, "low": None, "high": None, "num_users": 100}
    )
    put(root, "metrics", ds, pa.Table.from_pylist(rows, schema=METRICS.schema), ("histories", "models/student"))
    return root


def run(stage, config: Path, *more: str) -> int:
    return stage.main(["--config", str(config), *more])


def test_a_night_that_passes_is_promoted(config, capfd):
    """Exit status 0, the gates are published, and `promoted` leads to the night's table and student."""
    root = put_night(config, DAYS[0])
    assert run(check_gates, config, "--ds", DAYS[0]) == 0
    assert run(promote, config, "--ds", DAYS[0]) == 0
    assert "check_gates: input and quality: 4 passed, 12 skipped" in capfd.readouterr().out
    assert pq.read_table((root / "promoted" / "recommendations").resolve())["ds"].to_pylist() == [DAYS[0]]
    assert pq.read_table(partitions.current(root, "gates", DAYS[0])).num_rows == 16


def test_a_failed_gate_keeps_the_table_in_use(config, capfd):
    """Exit status 3 and one line with gate, value, bound and what stays; promoting is refused; the failure is on record."""
    root = put_night(config, DAYS[0])
    assert run(check_gates, config, "--ds", DAYS[0]) == run(promote, config, "--ds", DAYS[0]) == 0
    put_night(config, DAYS[1], day_events=3)
    assert run(check_gates, config, "--ds", DAYS[1], "--part", "input") == 3
    error = capfd.readouterr().err
    assert (
        f"{DAYS[1]} is not published, the table of {DAYS[0]} stays in use: day_events_volume 3, must be at least 50"
        in error
    )
    assert run(check_gates, config, "--ds", DAYS[1]) == 3
    assert run(promote, config, "--ds", DAYS[1]) == 3
    in_use = promotions.current(root)
    assert in_use is not None
    assert in_use.ds == DAYS[0]
    statuses = pq.read_table(partitions.current(root, "gates", DAYS[1]))["status"].to_pylist()
    assert statuses.count("failed") == 1


def test_a_student_worse_than_popularity_is_not_published(config, capfd):
    """A significant loss against popularity fails the night even when it is the first."""
    put_night(config, DAYS[0], student=(-0.05, -0.01))
    assert run(check_gates, config, "--ds", DAYS[0]) == 3
    assert "nothing is published: student_over_popularity -0.01, must be at least 0" in capfd.readouterr().err


def test_force_publishes_and_is_on_record(config, capfd):
    """With --force the night goes out; the gate, and the reason at promotion, stay readable."""
    root = put_night(config, DAYS[0], day_events=0)
    assert run(check_gates, config, "--ds", DAYS[0], "--force", "closed for a holiday") == 0
    assert "forced: events_of_the_day 0, must be at least 1" in capfd.readouterr().out
    assert run(promote, config, "--ds", DAYS[0]) == 0
    in_use = promotions.current(root)
    assert in_use is not None
    assert in_use.forced == ["events_of_the_day"]
    assert in_use.reason == "closed for a holiday"


@pytest.mark.parametrize("part", ["input", "quality"])
def test_a_rerun_keeps_what_was_overruled(config, capfd, part):
    """The second attempt, without --force, fails no gate of the same input, before training or after; the record stays."""
    faults = {"input": {"day_events": 0}, "quality": {"student": (-0.05, -0.01)}}
    root = put_night(config, DAYS[0], **faults[part])
    for words in (["--force", "closed for a holiday"], []):
        for parts in (["--part", "input"], []):
            assert run(check_gates, config, "--ds", DAYS[0], *parts, *words) == 0, capfd.readouterr().err
            capfd.readouterr()
    put_night(config, DAYS[0], **faults[part])
    assert run(check_gates, config, "--ds", DAYS[0]) == run(promote, config, "--ds", DAYS[0]) == 0
    assert "forced, as before (closed for a holiday): " in capfd.readouterr().out
    in_use = promotions.current(root)
    assert in_use is not None
    assert in_use.reason == "closed for a holiday"
    assert run(check_gates, config, "--ds", DAYS[0], "--part", "input") == 0
    assert partitions.manifest_of(root, "gates", DAYS[0]).version == in_use.versions["gates"]


def test_what_was_overruled_holds_for_that_input_alone(config, capfd):
    """Other rows, or one more gate that fails, need a reason of their own; a forced input holds while models are made anew."""
    put_night(config, DAYS[0], day_events=0)
    assert run(check_gates, config, "--ds", DAYS[0], "--part", "input", "--force", "holiday") == 0
    assert run(check_gates, config, "--ds", DAYS[0]) == 0
    put_night(config, DAYS[0], student=(-0.05, -0.01), day_events=0)
    assert run(check_gates, config, "--ds", DAYS[0]) == 3
    assert "student_over_popularity -0.01" in capfd.readouterr().err
    assert run(check_gates, config, "--ds", DAYS[0], "--force", "holiday") == 0
    put_night(config, DAYS[0], day_events=0, kept=901)
    assert run(check_gates, config, "--ds", DAYS[0]) == 3
    assert "events_of_the_day 0, must be at least 1" in capfd.readouterr().err


def test_gates_of_another_version_of_the_night_do_not_count(config, capfd):
    """What was published after the gates were judged is not promoted."""
    put_night(config, DAYS[0])
    assert run(check_gates, config, "--ds", DAYS[0]) == 0
    put_night(config, DAYS[0], kept=901)
    assert run(promote, config, "--ds", DAYS[0]) == 2
    assert f"the gates of {DAYS[0]} have not judged what is published now" in capfd.readouterr().err


@pytest.mark.parametrize(("rerun", "told"), [((), "metrics"), (("metrics",), "recommendations")])
def test_a_student_trained_again_is_not_promoted_with_the_old_one_s_table(config, capfd, rerun, told):
    """What goes into use must be made from just the model that goes into use; the message names the job to run."""
    root = put_night(config, DAYS[0])
    assert run(check_gates, config, "--ds", DAYS[0]) == 0
    put(root, "models/student", DAYS[0], pa.table({"ds": [DAYS[0]]}), seed=2)
    for name in rerun:
        table = pq.read_table(partitions.current(root, name, DAYS[0]))
        put(root, name, DAYS[0], table, ("histories", "models/student"), seed=2)
        assert run(check_gates, config, "--ds", DAYS[0]) == 0
    assert run(promote, config, "--ds", DAYS[0]) == 2
    error = capfd.readouterr().err
    assert f"{told} of {DAYS[0]} was made from models/student" in error
    assert f"run `distilrec {promote.MADE[told]} --config {config}` first" in error
    assert promotions.current(root) is None


def test_a_job_about_what_is_in_use_needs_no_date(config, capfd):
    """Without `ds` in the run config or on the command line it takes that of the night in use; others ask for one."""
    put_night(config, DAYS[0])
    assert run(check_gates, config, "--ds", DAYS[0]) == run(promote, config, "--ds", DAYS[0]) == 0
    days: list[str] = []
    for in_use in (True, False):
        command(
            "look",
            lambda one: days.append(one.day),
            ["--config", str(config)],
            description="",
            reads_only=True,
            in_use=in_use,
        )
    assert days == [DAYS[0]]
    assert "no date: give --ds" in capfd.readouterr().err


def test_nights_whose_files_are_gone_are_no_measure(config, capfd):
    """Two nights are kept and seven trail: the next night, and one after a rollback, are judged by those that are there."""
    days = [f"2026-11-{day}" for day in range(10, 16)]
    for ds in days:
        put_night(config, ds)
        assert run(check_gates, config, "--ds", ds) == run(promote, config, "--ds", ds) == 0, capfd.readouterr().err
    assert run(rollback, config, "--to", days[-2]) == 0
    put_night(config, DAYS[2])
    assert run(check_gates, config, "--ds", DAYS[2]) == run(promote, config, "--ds", DAYS[2]) == 0


def test_two_nights_that_end_at_the_same_time_leave_the_later_in_use(config, monkeypatch, capfd):
    """The later one is put in use after the earlier has looked and before it has switched."""
    for ds in DAYS[:2]:
        put_night(config, ds)
        assert run(check_gates, config, "--ds", ds) == 0
    switch = promotions.promote

    def late(*words, **more):
        monkeypatch.setattr(promotions, "promote", switch)
        assert run(promote, config, "--ds", DAYS[1]) == 0
        return switch(*words, **more)

    monkeypatch.setattr(promotions, "promote", late)
    assert run(promote, config, "--ds", DAYS[0]) == 0
    assert f"{DAYS[1]} stays in use, it is later than {DAYS[0]}" in capfd.readouterr().out
    root = config.parent / "out"
    assert [switch.ds for switch in promotions.history(root)] == [DAYS[1]]


def test_rollback_switches_back_and_a_backfill_does_not(config, capfd):
    """`rollback --to` puts table and model of then in use; an earlier date that is run again stays out of use; old nights go."""
    root = config.parent / "out"
    for ds in DAYS:
        put_night(config, ds)
        assert run(check_gates, config, "--ds", ds) == run(promote, config, "--ds", ds) == 0
    assert f"removed 1 old nights, {DAYS[0]} to {DAYS[0]}" in capfd.readouterr().out
    assert run(promote, config, "--ds", DAYS[1]) == 0
    assert f"{DAYS[2]} stays in use, it is later than {DAYS[1]}" in capfd.readouterr().out
    assert run(rollback, config, "--to", DAYS[1], "--reason", "wrong prices") == 0
    assert f"{DAYS[1]} is in use, {DAYS[2]} no more" in capfd.readouterr().out
    for name in ("recommendations", "models/student"):
        assert pq.read_table((root / "promoted" / name).resolve())["ds"].to_pylist() == [DAYS[1]]
    assert run(rollback, config, "--to", DAYS[0]) == 2
    assert f"recommendations of {DAYS[0]}, version" in capfd.readouterr().err


@pytest.fixture
def last_steps(config, monkeypatch):
    """`nightly` for a day, its tables being made already; what others read lies in `there`, telemetry in `shop.prom`."""
    folder = config.parent
    more = {"delivery": {"url": f"file://{folder}/there"}, "telemetry": {"textfile": f"{folder}/shop.prom"}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))
    for stage in ("simulate_events", "train_teacher", "cache_teacher", "distill", "evaluate", "recommend"):
        monkeypatch.setattr(getattr(nightly, stage), "run", lambda config: None)
    monkeypatch.setattr(nightly, "run_in_own_process", lambda *words, **more: None)
    monkeypatch.setattr(nightly, "start_ray", nullcontext)
    monkeypatch.setattr(nightly, "print_summary", lambda config, seconds: None)
    monkeypatch.setattr(report, "run", lambda config: None)
    monkeypatch.setattr(telemetry, "gather", lambda root, ds, *, name, k, **more: Night(name, ds, k))
    return lambda ds: run(nightly, config, "--ds", ds)


@pytest.mark.parametrize("failing", [None, "build_features"])
def test_ray_that_started_beside_spark_ends_with_the_night(config, last_steps, failing, monkeypatch):
    """Also where Spark's stage fails."""
    put_night(config, DAYS[0])
    told: list[str] = []

    @contextmanager
    def ray_ahead(config, block):
        told.append("begins")
        block.callback(told.append, "ends")
        yield

    def on_spark(name, *words, meanwhile, **more):
        with meanwhile:
            told.append(name)
            if name == failing:
                raise ConfigError("no events")

    monkeypatch.setattr(nightly, "ray_ahead", ray_ahead)
    monkeypatch.setattr(nightly, "run_in_own_process", on_spark)
    monkeypatch.setattr(nightly.recommend, "run", lambda config: told.append("recommends"))
    assert last_steps(DAYS[0]) == (2 if failing else 0)
    assert told == ["begins", "build_features", *([] if failing else ["recommends"]), "ends"]


def of_telemetry(config: Path) -> tuple[str, float]:
    """Day and exit status of the night that `shop.prom` speaks of."""
    found = dict(re.findall(r"^distilrec_night_(\w+)\{.*\} (\S+)$", (config.parent / "shop.prom").read_text(), re.M))
    day = datetime.fromtimestamp(float(found["day_timestamp_seconds"]), UTC).date().isoformat()
    return day, float(found["exit_status"])


@pytest.fixture(params=["s3a://shop/x", "file://{root}/there", "delta"])
def undeliverable(request, config, monkeypatch) -> str:
    """The run config with a place that nothing can be delivered to; returns what the error says."""
    url = request.param.format(root=config.parent / "out")
    delivery = {"url": url}
    if url == "delta":
        monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)
        delivery = {"url": f"file://{config.parent}/there", "format": "delta"}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"delivery": delivery}))
    return {"s3a": "s3a://shop/x", "fil": "lies inside the other", "del": "needs deltalake"}[url[:3]]


def test_a_night_that_cannot_be_delivered_does_not_begin(config, last_steps, undeliverable, monkeypatch, capfd):
    """A place that is none ends it with 2 before any stage; monitoring then says truly that the last good night stays."""
    ran: list[str] = []
    for stage in ("simulate_events", "train_teacher", "distill"):
        monkeypatch.setattr(getattr(nightly, stage), "run", lambda config, stage=stage: ran.append(stage))
    monkeypatch.setattr(nightly, "run_in_own_process", lambda name, *words, **more: ran.append(name))
    root = put_night(config, DAYS[0])
    assert last_steps(DAYS[0]) == 2
    assert undeliverable in capfd.readouterr().err
    assert ran == []
    assert promotions.current(root) is None
    assert of_telemetry(config) == (DAYS[0], 2)


def test_nothing_is_switched_that_cannot_be_delivered(config, undeliverable, monkeypatch, capfd):
    """By hand neither; a user is not half forgotten."""
    root = put_night(config, DAYS[0])
    assert run(check_gates, config, "--ds", DAYS[0]) == 0
    assert run(promote, config, "--ds", DAYS[0]) == 2
    assert promotions.current(root) is None
    for ds in DAYS[:2]:
        versions = {"recommendations": partitions.manifest_of(put_night(config, ds), "recommendations", ds).version}
        promotions.promote(root, ds, versions)
    for job, *words in ((rollback, "--to", DAYS[0]), (forget, "--user", "anna"), (deliver,)):
        capfd.readouterr()
        assert run(job, config, *words) == 2
        assert undeliverable in capfd.readouterr().err
    now = promotions.current(root)
    assert now is not None
    assert now.ds == DAYS[1]
    assert forgetting.forgotten(root) == []


def test_an_old_night_that_cannot_be_removed_is_a_warning(config, last_steps, monkeypatch, capfd):
    """On NFS a file that somebody has open keeps its folder: the night was delivered before, and the next one tries again."""
    home, remove, url = config.parent / "out" / "_versions", shutil.rmtree, f"file://{config.parent}/there"
    delivered: list[delivery.Delivered | None] = []

    def kept_by_a_reader(path: Path, **more: Any) -> None:
        if any(name in str(path) for name in (f"recommendations.{DAYS[0]}", f"recommendations/ds={DAYS[0]}")):
            (path / "manifest.json").unlink()
            delivered.append(delivery.delivered(url))
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path / "data"))
        remove(path, **more)

    monkeypatch.setattr(shutil, "rmtree", kept_by_a_reader)
    for ds in DAYS:
        put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    assert [night and night.ds for night in delivered] == [DAYS[2]]
    printed = capfd.readouterr().out
    told = re.search(
        r"promote: warning: not removed: (\S+) \(Directory not empty\)\. The next promotion tries", printed
    )
    assert told is not None
    assert f"removed 1 old nights, {DAYS[0]} to {DAYS[0]}" in printed
    assert Path(told[1]).is_dir()
    assert sorted(path.name[:13] for path in (home / "recommendations").iterdir()) == [f"ds={ds}" for ds in DAYS[1:]]
    monkeypatch.undo()
    assert run(promote, config, "--ds", DAYS[2]) == 0
    assert not Path(told[1]).exists()


def test_a_removal_that_cannot_be_noted_is_not_begun(config, last_steps, monkeypatch, capfd):
    """A night without files that is not marked would be one that later nights go on from. This night ends well all the same."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "_promotions/removed")

    monkeypatch.setattr(promotions, "mark_removed", refused)
    for ds in DAYS:
        put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    assert "promote: warning: old nights are not removed: [Errno 13] Permission denied" in capfd.readouterr().out
    assert len(list((config.parent / "out" / "_versions" / "recommendations").iterdir())) == len(DAYS)


def test_old_nights_go_also_where_the_new_one_cannot_be_delivered(config, last_steps, capfd):
    """A place that is down for weeks must not fill the disk."""
    pointer = config.parent / "there" / delivery.POINTER
    for ds, status in zip(DAYS, (0, 0, 74), strict=True):
        put_night(config, ds)
        if status:
            pointer.write_text("{}")
        assert last_steps(ds) == status, capfd.readouterr().err
    assert not list((config.parent / "out" / "_versions" / "recommendations").glob(f"ds={DAYS[0]}*"))


@pytest.fixture
def unread_rollback(config, last_steps, capfd):
    """Two good nights, and a rollback to the first that the place has not taken; returns what mends the place."""
    pointer = config.parent / "there" / delivery.POINTER
    for ds in DAYS[:2]:
        put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    before = pointer.read_text()
    pointer.write_text("{}")
    assert run(rollback, config, "--to", DAYS[0]) == 74
    assert of_telemetry(config) == (DAYS[1], 74)
    return lambda: pointer.write_text(before)


def test_a_rollback_that_others_do_not_get_to_read_is_told(config, unread_rollback):
    """Status 74 of the withdrawn night, which they still read, until `deliver` ends it."""
    unread_rollback()  # the place can be reached again
    assert run(deliver, config) == 0
    assert of_telemetry(config) == (DAYS[1], 0)


def test_the_second_attempt_of_a_withdrawn_night_delivers_what_is_in_use(config, last_steps, unread_rollback):
    """Else its status 0 would hide that others still read the withdrawn night."""
    assert last_steps(DAYS[1]) == 74
    assert of_telemetry(config) == (DAYS[1], 74)
    unread_rollback()  # the place can be reached again
    assert last_steps(DAYS[1]) == 0
    there = delivery.delivered(f"file://{config.parent}/there")
    assert there is not None
    assert there.ds == DAYS[0]


def test_two_runs_that_tell_at_the_same_time_take_nothing_back(config, last_steps, monkeypatch):
    """An earlier day's run that has read what the file says, and gathers, does not write over what tonight's tells meanwhile."""
    loaded = [load_config(config, ds=ds) for ds in DAYS]
    telemetry.run(loaded[1], status=0)
    gather, tonight = telemetry.gather, Thread(target=telemetry.run, args=(loaded[2],), kwargs={"status": 3})

    def slow(*words, **more):
        monkeypatch.setattr(telemetry, "gather", gather)
        tonight.start()
        tonight.join(timeout=0.5)
        return gather(*words, **more)

    monkeypatch.setattr(telemetry, "gather", slow)
    telemetry.run(loaded[0], status=0)
    tonight.join()
    assert of_telemetry(config) == (DAYS[2], 3)


def test_the_second_attempt_of_a_withdrawn_night_leaves_it_out_of_use(config, last_steps, capfd):
    """Here, where others read and for monitoring, with exit status 0; made anew it goes into use, as `rollback` to it does."""
    root, there = config.parent / "out", config.parent / "there"

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
    assert run(rollback, config, "--to", DAYS[0], "--reason", "wrong prices") == 0
    capfd.readouterr()
    assert last_steps(DAYS[1]) == 0
    found = (
        f"promote: {DAYS[1]} stays out of use, a rollback to {DAYS[0]} (wrong prices) has withdrawn just these tables"
    )
    assert found in capfd.readouterr().out
    assert in_use() == (DAYS[0],) * 3
    assert run(promote, config, "--ds", DAYS[1]) == 0
    assert in_use() == (DAYS[0],) * 3
    assert run(rollback, config, "--to", DAYS[1]) == 0
    assert last_steps(DAYS[1]) == 0
    assert in_use() == (DAYS[1],) * 3
    assert run(rollback, config, "--to", DAYS[0]) == 0
    put(root, "recommendations", DAYS[1], pa.table({"ds": [DAYS[1]]}), ("histories", "models/student"), seed=2)
    assert last_steps(DAYS[1]) == 0
    assert in_use() == (DAYS[1],) * 3
