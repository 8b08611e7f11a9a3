"""A small nightly run, made once for all tests that read one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    "teachers": [{"name": "teacher", "model": {"kind": "transformer", "dim": 32, "heads": 2, "session_flag": True}}],
    # training and batch inference take long enough for a test to kill a node in them
    "student": {
        "model": {"kind": "gru", "dim": 16, "session_flag": True},
        "train": {"epochs": EPOCHS, "patience": EPOCHS},
    },
    "recommend": {"k": 7, "actors": 2, "batch_size": 1},
}
"""Run config of the fixture `night`. test_cluster.py runs the same config on a cluster."""


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A run of `NIGHT` on this machine: run config, output folder and printed text."""
    folder = tmp_path_factory.mktemp("night")
    places = {
        "output_dir": str(folder / "output"),
        "delivery": {"url": f"file://{folder}/shop"},
        "telemetry": {"textfile": f"{folder}/distilrec_small.prom"},
    }
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(NIGHT | places))
    return config, folder / "output", run(config)


@pytest.fixture
def night_to_change(night: tuple[Path, Path, str], tmp_path: Path) -> Iterator[tuple[Path, Path, str]]:
    """The run of `night`, for a test that changes its files. The files are restored after the test.

    They return to the same place with the same times, because the versions of inputs depend on paths and times.
    """
    folder = night[1].parent
    shutil.copytree(folder, tmp_path / "kept", symlinks=True)
    yield night
    folder.rename(tmp_path / "changed")
    (tmp_path / "kept").rename(folder)
