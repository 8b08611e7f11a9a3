"""A small nightly run, made once for all tests that read one, and fixtures for runs published by hand."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from jobs import nightly
from jobs.runtime import console, telemetry
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Stage
from kdlib.config.run import RunConfig
from kdlib.release import delivery
from kdlib.report.content import Night
from tests.jobs import handmade
from tests.jobs.handmade import DAYS
from tests.s3 import s3 as s3
from tests.whole_nights import run

DS = "2026-11-22"
EPOCHS = 12
SMALL: dict[str, Any] = {
    "ds": DS,
    "training": {"workers": 2, "zero_stage": 2, "defaults": {"epochs": 2, "batch_size": 64, "learning_rate": 0.003}},
    "evaluation": {"k": [5, 10], "bootstrap_samples": 50},
    "recommend": {"k": 7},
    # a few epochs on so few events may give a student that is worse than popularity
    "gates": {"min_gain_over_popularity": None, "max_loss_to_last_night": None},
    "spark": {"master": "local[1]", "driver_memory": "1g", "shuffle_partitions": 1},
}
NIGHT: dict[str, Any] = SMALL | {
    "name": "small",
    "input": {
        "simulate": {
            "num_events": 18_000,
            "num_items": 200,
            "num_days": 12,
            "events_per_user": 20,
            "first_day": "2026-11-13",
        }
    },
    "teachers": [
        {
            "name": "teacher",
            "model": {"kind": "transformer", "dim": 32, "heads": 2, "session_flag": True},
            "features": ["brand", "price"],
        }
    ],
    # training and batch inference take long enough for a test to kill a node in them
    "student": {
        "model": {"kind": "gru", "dim": 16, "session_flag": True},
        "features": ["category"],
        "train": {"epochs": EPOCHS, "patience": EPOCHS},
        "control": {"train": {"epochs": 2}},
    },
    "recommend": {
        "k": 7,
        "actors": 2,
        "batch_size": 1,
        "lists": {"similar_items": 5, "bought_together": 5, "popular_items": 8, "buy_again": 5},
        "long_form": True,
    },
    "experiment": {"salt": "spring-2026", "variants": {"control": 0.45, "treatment": 0.45}, "holdout": 0.1},
    "export": {},
}
"""Run config of the fixture `night`. `runtime/test_ray_jobs.py` runs it on a cluster."""


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A run of `NIGHT` on this machine: run config, output folder and printed text.

    The first test that asks for it makes it, for all test processes. No test changes it: see `night_to_change`.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "night"
    config, printed = folder / "run.yaml", folder / "printed.txt"
    with FileLock(shared / "night.lock"):
        if not printed.exists():
            folder.mkdir(exist_ok=True)
            places = {
                "output_dir": str(folder / "output"),
                "delivery": {"url": f"file://{folder}/shop"},
                "telemetry": {"textfile": f"{folder}/distilrec_small.prom"},
            }
            config.write_text(yaml.safe_dump(NIGHT | places))
            printed.write_text(run(config))
    return config, folder / "output", printed.read_text()


def copy_of(night: tuple[Path, Path, str], folder: Path) -> tuple[Path, Path, str]:
    """The run of `night` in a new folder. Nothing in it is out of date."""
    _, root, printed = night
    shutil.copytree(root.parent, folder, symlinks=True)
    config = folder / "run.yaml"
    config.write_text(config.read_text().replace(str(root.parent), str(folder)))
    return config, folder / "output", printed


@pytest.fixture
def night_to_change(night: tuple[Path, Path, str], tmp_path: Path) -> tuple[Path, Path, str]:
    """A copy of the run of `night`, for a test that changes its files."""
    return copy_of(night, tmp_path / "night")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The run config of runs published by hand (`tests.jobs.handmade`)."""
    path = tmp_path / "run.yaml"
    document = {
        "name": "small",
        "output_dir": str(tmp_path / "out"),
        "input": {"simulate": {}},
        "teachers": [{"name": "teacher"}],
        "retention": {"nights": 2},
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def last_steps(config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """`nightly` for a date whose tables are made already: only the stages that act run.

    It delivers to the folder `there` and writes telemetry to `shop.prom`.
    """
    folder = config.parent
    more = {"delivery": {"url": f"file://{folder}/there"}, "telemetry": {"textfile": f"{folder}/shop.prom"}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))

    def act(config: RunConfig, stage: Stage, **more: Any) -> object:
        return run_stage(config, stage, **more) if stage.acts else {}

    def no_night(root: Path, ds: str, *, name: str, k: int, **more: Any) -> Night:
        return Night(name, ds, k)

    monkeypatch.setattr(nightly, "run_stage", act)
    monkeypatch.setattr(nightly.StageProcess, "run", lambda *words, **more: None)
    monkeypatch.setattr(nightly, "start_ray", nullcontext)
    monkeypatch.setattr(nightly, "print_summary", lambda config, seconds: None)
    monkeypatch.setattr(telemetry, "gather", no_night)
    return lambda ds: handmade.run("nightly", config, "--ds", ds)


@pytest.fixture(params=["s3a://shop/x", "file://{root}/there", "delta"])
def undeliverable(request: pytest.FixtureRequest, config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run config gets a place that nothing can be delivered to; returns what the error says."""
    url = request.param.format(root=handmade.root_of(config))
    place = {"url": url}
    if url == "delta":
        monkeypatch.setitem(sys.modules, "deltalake.exceptions", None)
        place = {"url": f"file://{config.parent}/there", "format": "delta"}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"delivery": place}))
    return {"s3a": "s3a://shop/x", "fil": "lies inside the other", "del": "needs deltalake"}[url[:3]]


@pytest.fixture
def unread_rollback(
    config: Path, last_steps: Callable[[str], int], capfd: pytest.CaptureFixture[str]
) -> Callable[[], object]:
    """Two good runs, and a rollback to the first that could not be delivered. Returns what repairs the place."""
    pointer = config.parent / "there" / delivery.POINTER
    for ds in DAYS[:2]:
        handmade.put_night(config, ds)
        assert last_steps(ds) == 0, capfd.readouterr().err
    before = pointer.read_text()
    pointer.write_text("{}")
    assert handmade.run("rollback", config, "--to", DAYS[0]) == 74
    assert handmade.of_telemetry(config) == (DAYS[1], 74)
    return lambda: pointer.write_text(before)


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `-v` and `--json-logs` set in the environment is gone after the test."""
    for name in (console.JSON_LOGS, console.VERBOSE, console.RUN_ID):
        monkeypatch.setenv(name, "")  # noted as unset before
        monkeypatch.delenv(name)
