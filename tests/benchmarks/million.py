"""A night of a million users, and the night after it, on this machine → results/million.json, `night_1m_*` of speed_cpu.json.

    python -m tests.benchmarks.million FOLDER

Runs `distilrec nightly` with `cluster/runs/million.yaml` for its date, then for the next date. FOLDER keeps all outputs, about
6 GB a night. It must be new, or hold the first night: then only the next one runs. The results are written after each night. With
`--first` the command ends after the first.

A stage has its seconds beside those of the cost model of `cluster/SIZING.md`, where the model covers it. The memory is the sum
of the proportional set sizes of all processes of the run, looked at every second.
"""

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from jobs.benchmark.provenance import hardware, package_versions
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.store import partitions
from tests.benchmarks.night_watch import Use, megabytes_on_disk
from tests.benchmarks.sizing import POSITIONS, predict
from tests.benchmarks.sizing import RESULTS as SIZING
from tests.whole_nights import HOME, follow, start

RESULTS = Path(__file__).parent / "results"
CONFIG = HOME / "cluster" / "runs" / "million.yaml"


def predicted(config: RunConfig, funnel: dict[str, Any]) -> dict[str, float]:
    """Stage → seconds by the cost model on this machine's cores."""
    constants, cores = json.loads(SIZING.read_text())["constants"], len(os.sched_getaffinity(0))
    users, items = funnel["users"], funnel["items"]
    train = config.training.resolve(config.student.train)
    steps = -(-users // train.batch_size)
    positions = funnel["interactions"] - users

    def trained(form: str, width: int) -> float:
        """One epoch. The model counts windows of 19 positions."""
        size = {"items": items, "windows": positions / steps / POSITIONS, "negatives": train.negatives}
        return steps * predict(constants, "train.seconds", form=form, dim=width, **size) / cores

    return {
        "build-features": predict(constants, "features.core_seconds", events=funnel["rows_read"]) / cores,
        "train-teacher": trained("negatives", config.teachers[0].model.dim),
        "distill": sum(trained(form, config.student.model.dim) for form in ("followed", "negatives")),
        "recommend": predict(constants, "recommend.seconds", form="dense", users=users, items=items) / cores,
    }


def run_night(folder: Path, ds: str) -> dict[str, Any]:
    """Run one date; returns its seconds, memory, counts and quality."""
    started = time.monotonic()
    process = start(CONFIG, "--ds", ds, "--set", f"output_dir={folder}")
    with Use(psutil.Process(process.pid)) as use:
        printed = follow(process)
    seconds = time.monotonic() - started
    (folder / f"{ds}.txt").write_text(printed)
    assert process.returncode == 0, printed
    config = load_config(CONFIG, ds=ds, overrides=(f"output_dir={folder}",))
    funnel = partitions.manifest_of(folder, "histories", ds).details["funnel"]
    [line] = [line for line in printed.splitlines() if line.startswith("seconds ")]
    stages = {name: float(value) for name, value in re.findall(r"([a-z-]+) (\d+)(?=,|;)", line)}
    expected = predicted(config, funnel)
    metrics = pq.read_table(partitions.current(folder, "metrics", ds)).to_pylist()
    return {
        "ds": ds,
        "seconds": round(seconds, 1),
        "peak_gigabytes": use.gigabytes,
        "gigabytes_on_disk": round(megabytes_on_disk(folder) / 1000, 1),
        "counts": {name: funnel[name] for name in ("rows_read", "kept", "users", "items", "interactions")},
        "stages": {
            name: {"seconds": value} | ({"predicted": round(expected[name], 1)} if name in expected else {})
            for name, value in stages.items()
        },
        "ndcg@10": {row["model"]: round(row["value"], 5) for row in metrics if row["metric"] == "ndcg@10"},
        "lists": partitions.manifest_of(folder, "recommendations", ds).rows,
    }


def main() -> int:
    """Run the nights that the folder lacks, and write the results after each; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="for the outputs: new, or with the first night")
    parser.add_argument("--first", action="store_true", help="run only the first night")
    options = parser.parse_args()
    folder, config = options.folder.resolve(), load_config(CONFIG)
    days = [(config.last_day + timedelta(days=number)).isoformat() for number in range(1 if options.first else 2)]
    done = [day for day in days if partitions.read_manifest(folder, "reports", day)]
    assert done or not folder.exists(), f"{folder} must be new, or hold a whole first night"
    for day in days[len(done) :]:
        _record(run_night(folder, day), config, first=day == days[0])
    return 0


def _record(night: dict[str, Any], config: RunConfig, *, first: bool) -> None:
    """Write a night into both results files. The first night replaces an earlier benchmark."""
    path = RESULTS / "million.json"
    about = {
        "command": "python -m tests.benchmarks.million FOLDER",
        "seed": config.seed,
        "hardware": hardware(config),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    nights = [*([] if first else json.loads(path.read_text())["nights"]), about | night]
    path.write_text(json.dumps({"nights": nights}, indent=1) + "\n")
    figures = {
        "night_1m_users_seconds": nights[0]["seconds"],
        "night_1m_peak_gb": max(night["peak_gigabytes"] for night in nights),
    }
    if not first:
        figures["night_1m_next_seconds"] = night["seconds"]
    speed = json.loads((RESULTS / "speed_cpu.json").read_text())
    speed["figures"].pop("night_1m_next_seconds", None)
    speed["figures"] |= figures
    speed["parts"]["million"] = {**about, "figures": list(figures), "rounds": 1}
    (RESULTS / "speed_cpu.json").write_text(json.dumps(speed, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(night, indent=1))


if __name__ == "__main__":
    sys.exit(main())
