"""Faults, one at a time, each on a shop with one promoted run: `make faults` (an hour, not part of `make test`).

- A `Refusal` stops a run before it changes anything. The test checks that every file stays as it was.
- A `Break` happens later. The test runs the same date again, which must give the table of an undisturbed run.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from kdlib.store import leases, partitions
from kdlib.store.folders import DiskFolder
from tests.faults.shop import TODAY, YESTERDAY, Shop
from tests.whole_nights import child, follow, kill_all, run, start

BALLAST = "ballast"
"""A file that fills a disk."""
pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, pa.Table]:
    """A shop with both dates saved, and the table of the undisturbed second run.

    `DISTILREC_FAULTS` names a folder that keeps them for the next test run.
    """
    kept = os.environ.get("DISTILREC_FAULTS")
    shop = Shop(Path(kept) if kept else tmp_path_factory.mktemp("shop"))
    if not shop.has("second"):
        shop.restore(None)
        run(shop.config, "--ds", YESTERDAY)
        shop.save("first")
        run(shop.config)
        table = shop.table()
        shop.restore("first")
        run(shop.config)
        assert shop.table().equals(table), (
            "two undisturbed runs give different tables, so a disturbed run cannot be judged"
        )
        shop.save("second")
    shop.restore("second")
    return shop, shop.table()


@dataclass(frozen=True)
class Refusal:
    """A fault before the run. The run must end with `status`, print `says`, and change nothing below the output."""

    name: str
    says: str
    before: Callable[[Shop], object] = lambda shop: None
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 2


def _end(printed: str) -> str:
    """The last ten lines, where a person looks for the reason."""
    return "\n".join(printed.rstrip().splitlines()[-10:])


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


REFUSALS = [
    Refusal("unknown setting", r"recomend", settings={"recomend__k": 5}),
    Refusal("value out of range", r"recommend\.k", settings={"recommend__k": 0}),
    Refusal("value of a wrong type", r"training\.workers", settings={"training__workers": "two"}),
    Refusal(
        "run config that is no YAML",
        r"run\.yaml is not valid YAML",
        before=lambda shop: shop.config.write_text("a: [1\n"),
    ),
    Refusal(
        "run config that is not there",
        r"cannot read the run config .*No such file",
        before=lambda shop: shop.config.unlink(),
    ),
    Refusal("no such date", r"2026-13-40", arguments=("--ds", "2026-13-40")),
    Refusal(
        "the day's export has not run", r"has the day's export run\?", before=lambda shop: _remove(shop.day().parent)
    ),
    Refusal("the day's folder is empty", r"has the day's export run\?", before=lambda shop: _remove(shop.day())),
    Refusal("half a file", r"cannot read .* is complete", before=lambda shop: _cut(shop.day())),
    Refusal(
        "a file of no bytes", r"has no bytes: is the export whole\?", before=lambda shop: shop.day().write_bytes(b"")
    ),
    Refusal(
        "a file of another format", r"cannot read|is not a Parquet", before=lambda shop: shop.day().write_text("a,b\n")
    ),
    Refusal(
        "a column of another type",
        r"has the column event_id as INT64, other files of .* as string",
        before=lambda shop: shop.change_day(_as_numbers),
    ),
    Refusal("a mapped column is not there", r"no_such_column", settings={"input__events__user": "no_such_column"}),
    Refusal(
        "no time can be read",
        r"are quarantined \(.*bad_time",
        settings={"input__events__time": {"format": "epoch_seconds", "column": "event_time"}},
    ),
    Refusal(
        "no event type is known",
        r"are quarantined \(.*unknown_event_type",
        settings={"input__events__event_types": {"sold": "purchase"}},
    ),
    Refusal(
        "the catalogue is gone", r"no file matches .*catalogue", before=lambda shop: _remove(shop.input / "catalogue")
    ),
    Refusal("the catalogue has other columns", r"lacks|no_such", settings={"input__catalogue__item": "no_such"}),
    Refusal("nothing to train on", r"nothing to train on", settings={"features__split": {"test_days": 11}}),
    Refusal(
        "the key's file is gone",
        r"cannot read the file /nowhere/key \(privacy\.key_file\)",
        settings={"privacy__key_file": "/nowhere/key"},
    ),
    Refusal("the key's variable is not set", r"NO_SUCH_KEY", settings={"privacy__key_environment": "NO_SUCH_KEY"}),
    Refusal("Spark gets too little memory", r"Spark did not start|driver", settings={"spark__driver_memory": "16m"}),
    Refusal("the output folder is a file", r"cannot write below output_dir", settings={"output_dir": "pyproject.toml"}),
    Refusal("another night's lease", r"another run writes", before=lambda shop: _hold_lease(shop), status=75),
]


def _hold_lease(shop: Shop) -> None:
    shop.held = ExitStack()  # pyright: ignore[reportAttributeAccessIssue]
    shop.held.enter_context(  # pyright: ignore[reportAttributeAccessIssue]
        leases.held(DiskFolder(shop.root, durable=False), leases.of_date(TODAY), "nightly")
    )


def _leave_lease(shop: Shop) -> None:
    """As of a run whose machine has died."""
    state = {"token": "x", "holder": {"stage": "nightly", "pid": 1, "host": "far", "machine": "far", "since": "now"}}
    path = shop.root / leases.of_date(TODAY)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(state))


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: fault.name)
def test_a_refused_night_changes_nothing(reference: tuple[Shop, pa.Table], fault: Refusal) -> None:
    """The exit status and the printed reason are right, and every file that a reader or a later run uses is unchanged."""
    shop, _ = reference
    shop.restore("first")
    before = shop.state()
    shop.write_config(**fault.settings)
    fault.before(shop)
    with shop.reader():
        process = start(shop.config, *fault.arguments, more_environment=fault.environment)
        printed = follow(process)
    if held := getattr(shop, "held", None):
        held.close()
        del shop.held  # pyright: ignore[reportAttributeAccessIssue]
    assert process.returncode == fault.status, printed
    assert re.search(fault.says, _end(printed)), printed
    assert "Traceback" not in printed, printed
    assert shop.state() == before
    assert shop.in_use() == YESTERDAY


@dataclass(frozen=True)
class Break:
    """A fault before or during the run. The run must end with `status` and print `says`. With status 0 it recovers."""

    name: str
    status: int
    says: str = ""
    before: Callable[[Shop], object] = lambda shop: None
    settings: dict[str, Any] = field(default_factory=dict)
    at: str | None = None
    """The fault `disturb` happens when the run prints this text."""
    disturb: Callable[[Shop, psutil.Process], object] = lambda shop, process: None
    state: str = "first"
    readable: bool = True
    """Whether a reader must find a complete table during the run: before the run the table is complete."""
    environment: dict[str, str] = field(default_factory=dict)
    small_disk: bool = False
    """Whether the output lies on a small disk of its own, which `_fill_the_disk` fills and the test empties again."""


def _kill_all(shop: Shop, process: psutil.Process) -> None:
    kill_all(shop.root, process.pid)


def _send(number: signal.Signals) -> Callable[[Shop, psutil.Process], None]:
    return lambda shop, process: process.send_signal(number)


def _wait_then_kill_all(name: str) -> Callable[[Shop, psutil.Process], None]:
    def kill(shop: Shop, process: psutil.Process) -> None:
        child(process, name)
        _kill_all(shop, process)

    return kill


def _kill_one(name: str) -> Callable[[Shop, psutil.Process], None]:
    return lambda shop, process: child(process, name).kill()


def _stop_one(name: str) -> Callable[[Shop, psutil.Process], None]:
    """The process lives on, and never answers."""
    return lambda shop, process: child(process, name).suspend()


def _fill_the_disk(shop: Shop, process: psutil.Process) -> None:
    """Fill the disk, and keep it full until the run ends."""

    def fill() -> None:
        with (shop.root / BALLAST).open("wb", buffering=0) as file:
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                for size in (1 << 20, 1 << 12, 1):
                    with suppress(OSError):
                        while True:
                            file.write(bytes(size))
                time.sleep(0.02)

    threading.Thread(target=fill, daemon=True).start()


def _fill_at_work(shop: Shop, process: psutil.Process) -> None:
    _wait_for_spark_to_write(shop)
    _fill_the_disk(shop, process)


def _kill_java_at_work(shop: Shop, process: psutil.Process) -> None:
    java = child(process, "deploy.SparkSubmit")
    _wait_for_spark_to_write(shop)
    java.kill()


def _wait_for_spark_to_write(shop: Shop) -> None:
    until = time.monotonic() + 240
    while not any((shop.root / partitions.STAGING).rglob("_temporary")):
        assert time.monotonic() < until, "Spark did not begin to write within four minutes"
        time.sleep(0.05)


def _version(shop: Shop, name: str, ds: str = TODAY) -> Path:
    return partitions.current(shop.root, name, ds)


def _damage(
    name: str, how: Callable[[Path], object], suffix: str = ".parquet", ds: str = TODAY
) -> Callable[[Shop], None]:
    def damage(shop: Shop) -> None:
        how(next(path for path in sorted(_version(shop, name, ds).rglob("*")) if path.suffix == suffix))

    return damage


def _fewer(table: pa.Table) -> pa.Table:
    return table.slice(0, len(table) // 10)


def _no_users(table: pa.Table) -> pa.Table:
    return _replaced(table, "user_id", pa.nulls(len(table), pa.string()))


def _new_items(table: pa.Table) -> pa.Table:
    items = [f"new{number % 500}" if number % 2 else one for number, one in enumerate(table["item_id"].to_pylist())]
    return _replaced(table, "item_id", pa.array(items))


def _as_numbers(table: pa.Table) -> pa.Table:
    return _replaced(table, "event_id", pa.array(range(len(table)), pa.int64()))


BREAKS = [
    # gates
    Break("a tenth of the day's events", 3, "day_events_volume", before=lambda shop: shop.change_day(_fewer)),
    Break(
        "no user on the day", 3, "events_of_the_day|day_events_volume", before=lambda shop: shop.change_day(_no_users)
    ),
    Break("a day of new items", 3, "new_item_share", before=lambda shop: shop.change_day(_new_items)),
    Break(
        "a day of nothing but repeats",
        3,
        "duplicate_rise",
        before=lambda shop: shop.change_day(lambda table: pa.concat_tables([table] * 30)),
    ),
    Break(
        "a student that has learnt nothing",
        3,
        "student_over_popularity",
        settings={"training__defaults__learning_rate": 1e-12, "gates__min_gain_over_popularity": 0.0},
    ),
    # settings whose fault shows only at work
    Break(
        "a loss that is not finite", 1, "not finite|learning_rate", settings={"training__defaults__learning_rate": 1e9}
    ),
    Break("more actors than CPUs", 2, "recommend.actors", settings={"recommend__actors": 64}),
    Break("a longer list than there are items", 2, r"recommend\.k", settings={"recommend__k": 100_000}),
    Break("no Ray cluster at the address", 75, "cannot join the Ray cluster", settings={"ray__address": "127.0.0.1:1"}),
    # the whole run is killed
    Break("killed while Spark runs", -9, at="nightly: faults", disturb=_wait_then_kill_all("java")),
    Break("killed in the teacher's training", -9, at="teacher epoch  2/4", disturb=_kill_all),
    Break("killed between teacher and cache", -9, at="teacher epoch  4/4", disturb=_kill_all),
    Break("killed in the student's training", -9, at="student epoch  2/4", disturb=_kill_all),
    Break("killed before the gates", -9, at="distill:", disturb=_kill_all),
    Break(
        "killed while lists are written",
        -9,
        at="check_gates: input and quality",
        disturb=_wait_then_kill_all("ShardRecommender"),
    ),
    Break("killed between table and promotion", -9, at="recommend:", disturb=_kill_all),
    Break("stopped by a person", 130, "interrupted", at="student epoch  1/4", disturb=_send(signal.SIGINT)),
    Break(
        "stopped by the scheduler", 143, "stopped by SIGTERM", at="student epoch  1/4", disturb=_send(signal.SIGTERM)
    ),
    # a part of the run is killed
    Break(
        "Java killed as it starts",
        2,
        "Spark did not start",
        at="nightly: faults",
        disturb=_kill_one("deploy.SparkSubmit"),
    ),
    Break("Java killed at work", 1, "Spark|Java|Py4J|exit status", at="nightly: faults", disturb=_kill_java_at_work),
    Break("a training worker killed", 0, at="student epoch  1/4", disturb=_kill_one("RayTrainWorker")),
    Break("an inference actor killed", 0, at="check_gates: input and quality", disturb=_kill_one("ShardRecommender")),
    Break("Ray's raylet killed", 1, at="student epoch  1/4", disturb=_kill_one("raylet/raylet")),
    Break("Ray's control store killed", 1, at="student epoch  1/4", disturb=_kill_one("gcs_server")),
    # a part of the run lives on and never answers
    Break(
        "a training worker that never answers",
        0,
        at="student epoch  1/4",
        disturb=_stop_one("RayTrainWorker"),
        environment={"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "15"},
    ),
    # a full disk
    Break(
        "disk full while Spark writes", 1, "No space left", at="nightly: faults", disturb=_fill_at_work, small_disk=True
    ),
    Break(
        "disk full in training", 1, "No space left", at="teacher epoch  1/4", disturb=_fill_the_disk, small_disk=True
    ),
    Break("disk full at the promotion", 1, "No space left", at="recommend:", disturb=_fill_the_disk, small_disk=True),
    # a published output is damaged: the run makes it again, or names the date that must be run
    Break("half a file of the histories", 0, before=_damage("histories", _cut), state="second"),
    Break("the teacher's weights are cut", 0, before=_damage("models/teacher", _cut, ".safetensors"), state="second"),
    Break(
        "the student's weights are gone", 0, before=_damage("models/student", _remove, ".safetensors"), state="second"
    ),
    Break("half of the published table", 0, before=_damage("recommendations", _cut), state="second", readable=False),
    Break(
        "yesterday's vocabulary is gone",
        2,
        "item_vocabulary of .* is damaged",
        before=lambda shop: _remove(_version(shop, "item_vocabulary", YESTERDAY).resolve()),
    ),
    Break(
        "yesterday's clean events are cut",
        2,
        "clean_events of .* is damaged",
        before=_damage("clean_events", _cut, ds=YESTERDAY),
    ),
    # left-overs of a dead run
    Break(
        "staging folders of a killed run",
        0,
        before=lambda shop: [
            partitions.new_staging(shop.root, name, TODAY) for name in ("histories", "recommendations")
        ],
    ),
    Break("the lease of a dead run", 0, before=_leave_lease),
]


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: fault.name)
def test_a_broken_night_is_made_whole(reference: tuple[Shop, pa.Table], fault: Break) -> None:
    """Exit status and reason are right, a reader always finds a complete table, and the next run gives the right table."""
    shop, table = reference
    shop.restore(fault.state)
    shop.write_config(**fault.settings)
    fault.before(shop)
    with small_disk(shop.root) if fault.small_disk else nullcontext():
        _break_and_rerun(shop, table, fault)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put a folder on a disk of 256 MiB in memory."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], capture_output=True).returncode:
        folder.rmdir()
        aside.rename(folder)
        pytest.skip("file systems cannot be mounted here")
    shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
        aside.rename(folder)


def _break_and_rerun(shop: Shop, table: pa.Table, fault: Break) -> None:
    with shop.reader() if fault.readable else nullcontext():
        process = start(shop.config, more_environment=fault.environment)
        printed = follow(process, fault.at, lambda: fault.disturb(shop, psutil.Process(process.pid)))
    assert process.returncode == fault.status, printed
    assert re.search(fault.says, _end(printed)), printed
    assert "Traceback" not in printed, printed
    if fault.status == 0:
        assert shop.table().equals(table)
        assert shop.in_use() == TODAY
        return
    assert shop.in_use() in (YESTERDAY, TODAY)
    if fault.state == "first" and fault.name != "killed between table and promotion":
        assert shop.in_use() == YESTERDAY
    (shop.root / BALLAST).unlink(missing_ok=True)
    shop.restore(fault.state, output=False)
    if "is damaged" in fault.says:
        run(shop.config, "--ds", YESTERDAY)  # as the error says
    with shop.reader():
        run(shop.config)
    assert shop.table().equals(table)
    assert shop.in_use() == TODAY
