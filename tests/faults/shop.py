"""A small shop with one promoted run, restored before each fault."""

import copy
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jobs.runtime.input_files import HASHES
from kdlib.config.run import RunConfig
from kdlib.release import promotions
from kdlib.store import partitions
from tests import stages
from tests.whole_nights import whole

YESTERDAY, TODAY = "2026-11-22", "2026-11-23"
CHANGING = ("logs", "reports", "_locks", "_staging", "quarantine_failed", HASHES)
"""Folders and files of the output that a failed run may change. No published table depends on them."""
SETTINGS: dict[str, Any] = {
    "name": "faults",
    "ds": TODAY,
    "features": {"period_start": "2026-11-13"},
    "teachers": [{"name": "teacher", "model": {"kind": "gru", "dim": 24, "session_flag": True}}],
    "student": {"model": {"kind": "gru", "dim": 16, "session_flag": True}},
    "training": {
        "workers": 2,
        "zero_stage": 2,
        "defaults": {"epochs": 4, "patience": 4, "batch_size": 64, "learning_rate": 0.003},
    },
    "evaluation": {"k": [10], "bootstrap_samples": 50, "control": False},
    "recommend": {"k": 7},
    "spark": {"shuffle_partitions": 2},
    # four epochs on so few events may give a student that is worse than popularity
    "gates": {"min_gain_over_popularity": None, "max_loss_to_last_night": None},
}


def own_files(events: str, catalogue: Path, *, late_days: int) -> dict[str, Any]:
    """The section `input` of a run config that reads the simulator's days and catalogue as a shop's own files."""
    return {
        "events": {
            "path": events,
            "late_days": late_days,
            "format": "parquet",
            "user": "user_id",
            "item": "item_id",
            "event_type": "event_type",
            "event_id": "event_id",
            "time": {"column": "event_time"},
        },
        "catalogue": {
            "path": str(catalogue),
            "format": "parquet",
            "item": "item_id",
            "title": "title",
            "available": "available",
        },
    }


class Shop:
    """A folder with input, run config and output. `restore` puts all three back.

    Args:
      folder: empty, or the folder of an earlier `Shop`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.input, self.root, self.config = folder / "input", folder / "output", folder / "run.yaml"
        self.settings: dict[str, Any] = {}
        if not self.input.exists():
            self._write_input()

    def _write_input(self) -> None:
        """Write the simulator's days and catalogue as the shop's own files."""
        world = {
            "num_events": 18_000,
            "num_items": 200,
            "num_days": 12,
            "events_per_user": 20,
            "first_day": "2026-11-13",
        }
        config = RunConfig.model_validate(
            {"name": "world", "ds": TODAY, "output_dir": str(self._folder / "world"), "input": {"simulate": world}}
        )
        stages.run("simulate-events", config)
        shutil.copytree(partitions.current(config.root, "events", TODAY), self.input / "events")
        shutil.copytree(partitions.current(config.root, "catalogue", TODAY), self.input / "catalogue")

    def has(self, name: str) -> bool:
        """Whether a saved state has this name."""
        return (self._folder / "saved" / name).exists()

    def save(self, name: str) -> None:
        """Save input and output under a name."""
        for part in (self.input, self.root):
            shutil.copytree(part, self._folder / "saved" / name / part.name, symlinks=True)

    def restore(self, name: str | None, *, output: bool = True) -> None:
        """Put back the run config, and input and output as saved under the name. Without `output`, the output stays."""
        for part in (self.input, self.root) if output else (self.input,):
            if name is not None:
                shutil.rmtree(part, ignore_errors=True)
                part.unlink(missing_ok=True)
                shutil.copytree(self._folder / "saved" / name / part.name, part, symlinks=True)
        self.settings = copy.deepcopy(SETTINGS) | {
            "output_dir": str(self.root),
            "input": own_files(str(self.input / "events/day={day}"), self.input / "catalogue", late_days=1),
        }
        self.write_config()

    def write_config(self, **changes: Any) -> None:
        """Write the run config. `section__key=value` changes a setting."""
        settings = copy.deepcopy(self.settings)
        for name, value in changes.items():
            *sections, key = name.split("__")
            place = settings
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        self.config.write_text(yaml.safe_dump(settings))

    def day(self, ds: str = TODAY) -> Path:
        """The first file of the events that arrived on a day."""
        return sorted((self.input / "events" / f"day={ds}").glob("*.parquet"))[0]

    def change_day(self, change: Callable[[pa.Table], pa.Table]) -> None:
        """Rewrite today's events."""
        path = self.day()
        table = change(pq.ParquetFile(path).read())
        path.unlink()
        pq.write_table(table, path)

    def state(self) -> dict[str, str]:
        """Path → link or hash, of all output files that a reader or a later run uses."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            if name.parts[0] in CHANGING or any((self.root / parent).is_symlink() for parent in name.parents):
                continue
            if path.is_symlink():
                found[str(name)] = f"→ {path.readlink()}"
            elif path.is_file():
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def table(self) -> pa.Table:
        """Today's recommendations without the model version, which differs between runs."""
        whole(self.root, TODAY)
        return pq.read_table(partitions.current(self.root, "recommendations", TODAY)).drop_columns("model_version")

    def in_use(self) -> str:
        """The date in use, after a check that its table is complete."""
        found = promotions.current(self.root)
        assert found is not None
        whole(self.root, found.ds)
        return found.ds

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Read the table in use all the time during the block. Each read must find all rows of one version."""
        ended, seen = threading.Event(), []

        def look() -> None:
            while not ended.is_set():
                try:
                    folder = (self.root / promotions.LINK / "recommendations").resolve(strict=True)
                    rows = sum(pq.read_metadata(file).num_rows for file in folder.iterdir())
                    seen.append((folder.parent.name, rows))
                except BaseException as error:
                    seen.append((repr(error), 0))
                time.sleep(0.05)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert seen
        for version, rows in set(seen):
            ds, _, short = version.removeprefix("ds=").partition(".")
            assert rows == partitions.version_manifest(self.root, "recommendations", ds, short).rows, version
