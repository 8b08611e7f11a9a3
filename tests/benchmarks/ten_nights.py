"""Ten nightly runs in a row of the default shop, with two crashes and a bad day → results/ten_nights.json.

    python -m tests.benchmarks.ten_nights FOLDER
    python -m tests.benchmarks.ten_nights FOLDER --larger 4    # two nights of a shop 4 times as large → warm_start.json

Every day brings new users and items. Three nights have a fault:
- Night 3 is killed in training and started again.
- On day 5, an upstream fault removes the user from six rows in ten. The whole day is delivered a day later.
- In night 7, a training worker is killed.

DuckDB checks each published table against the raw files: its users, their seen items, and the items for sale. Then the last
night is trained again from nothing on a copy, to compare it with the warm-started one. FOLDER must be empty and keeps all
outputs.
"""

import argparse
import json
import shutil
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import yaml

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.published import features
from jobs.runtime.rank_targets import histories_to_test, rank_targets
from kdlib.config.load import load_config
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.metrics.ranking import ndcg
from kdlib.store import partitions
from tests.benchmarks.night_faults import lose_users
from tests.benchmarks.shop_nights import Shop, count_faults, in_use, simulate, unchanged
from tests.whole_nights import HOME, child, follow, kill_all, start

RESULTS = Path(__file__).parent / "results"
NIGHTS = [date(2026, 11, 20) + timedelta(days=number) for number in range(10)]
KILLED, WORKER_KILLED, BAD = 2, 6, 4
"""Numbers of the nights with faults, from 0."""
K, SAMPLES = 10, 10_000
WARM_EPOCHS = 1


def _write_config(shop: Shop, output: Path, *, warm: bool) -> Path:
    """Write the default run config, with the shop's own files as input."""
    settings = yaml.safe_load((HOME / "cluster/runs/laptop.yaml").read_text())
    settings |= {"output_dir": str(output), "input": shop.input}
    settings["training"]["warm_start"] = {"epochs": WARM_EPOCHS} if warm else None
    path = shop.folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _simulate(folder: Path, larger: int) -> Shop:
    """Simulate all days of the shop, and deliver the catalogue."""
    laptop = yaml.safe_load((HOME / "cluster/runs/laptop.yaml").read_text())
    for size in ("num_events", "num_items"):
        laptop["input"]["simulate"][size] *= larger
    shop = simulate(folder, laptop, NIGHTS[-1])
    shop.deliver_catalogue(NIGHTS[-1])
    return shop


def _check(shop: Shop, root: Path, night: date) -> dict[str, Any]:
    """Check the published table, which must be in use, against the raw files. Returns counts and NDCG of the night."""
    funnel = partitions.manifest_of(root, "histories", night.isoformat()).details["funnel"]
    assert funnel["rows_read"] == funnel["kept"] + funnel["duplicate"] + funnel["quarantined"]
    assert in_use(root) == night.isoformat()
    found = count_faults(shop, root, night, k=K)
    users = found.pop("users")
    assert not any(found.values()), f"{night}: {found}"
    metrics = pq.read_table(partitions.current(root, "metrics", night.isoformat())).to_pylist()
    quality = {row["model"]: row["value"] for row in metrics if row["metric"] == f"ndcg@{K}"}
    return {
        "rows_read": funnel["rows_read"] - funnel["carried"],
        "carried": funnel["carried"],
        "users": users,
        "items": funnel["items"],
        "table_faults": 0,
        "ndcg@10": {
            name: round(quality[name], 4) for name in ("student", "last_night", "popularity") if name in quality
        },
    }


def _training_seconds(root: Path, night: date) -> float:
    names = ("models/teacher", "teacher_targets", "models/student")
    return sum(partitions.manifest_of(root, name, night.isoformat()).details["seconds"] for name in names)


def _night(config: Path, root: Path, number: int) -> dict[str, Any]:
    """Run a night, with its crash if it has one. Returns the exit status of each try and the seconds."""
    night, statuses, started = NIGHTS[number], [], time.monotonic()
    process = start(config, "--ds", night.isoformat())
    if number == KILLED:
        printed = follow(process, "teacher epoch  ", lambda: kill_all(root, process.pid))
        statuses.append(process.returncode)
        process = start(config, "--ds", night.isoformat())
        printed += follow(process)
    elif number == WORKER_KILLED:
        printed = follow(
            process, "student epoch  ", lambda: child(psutil.Process(process.pid), "RayTrainWorker").kill()
        )
    else:
        printed = follow(process)
    statuses.append(process.returncode)
    (config.parent / f"{night}.log").write_text(printed)
    end = [line for line in printed.splitlines() if line.startswith("distilrec: ")]
    assert statuses[-1] == (3 if number == BAD else 0), printed
    return {"ds": night.isoformat(), "statuses": statuses, "seconds": round(time.monotonic() - started, 1)} | (
        {"said": end[-1]} if number == BAD else {}
    )


def _beside_a_cold_night(shop: Shop, root: Path, last: date) -> dict[str, Any]:
    """Train the last night from nothing on a copy of the output, and compare both students on the same test users."""
    cold = shop.folder / "cold"
    shutil.copytree(root, cold, symlinks=True)
    for name in ("models/teacher", "teacher_targets", "models/student", "models/control", "metrics", "recommendations"):
        (cold / name / f"ds={last}").unlink()
    config_path = _write_config(shop, cold, warm=False)
    process = start(config_path, "--ds", last.isoformat())
    printed = follow(process)
    assert process.returncode == 0, printed
    config = load_config(config_path, ds=last.isoformat())
    source = features(config)
    compared = {
        name: [(str(partitions.current(where, "models/student", config.day)), 1.0)]
        for name, where in (("warm", root), ("cold", cold))
    }
    found = rank_targets(config, source, histories_to_test(config, source), compared, top=K)
    values = {name: ndcg(found[f"rank/{name}"].to_numpy(), K) for name in compared}
    seconds = {"warm": _training_seconds(root, last), "cold": _training_seconds(cold, last)}
    low, high = bootstrap_interval(values["warm"] - values["cold"], samples=SAMPLES, seed=1)
    return {
        "training_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "training_cost_ratio": round(seconds["cold"] / seconds["warm"], 2),
        "test_users": len(found),
        "ndcg@10": {name: round(float(value.mean()), 4) for name, value in values.items()},
        "warm - cold": [round(float((values["warm"] - values["cold"]).mean()), 4), [round(low, 4), round(high, 4)]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps all outputs; must be empty")
    parser.add_argument(
        "--larger", type=int, default=1, metavar="N", help="run two nights of a shop N times as large, without crashes"
    )
    arguments = parser.parse_args()
    folder, larger = arguments.folder.absolute(), arguments.larger
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty. Name a new or an empty folder")
    shop, root = _simulate(folder, larger), folder / "output"
    config = _write_config(shop, root, warm=True)
    for day in shop.days():
        if day < NIGHTS[0]:
            shop.deliver(day)
    nights: list[dict[str, Any]] = []
    planned = NIGHTS if larger == 1 else NIGHTS[:2]
    for number, night in enumerate(planned):
        shop.deliver(night, change=lose_users if number == BAD else unchanged)
        if number == BAD + 1:
            shop.deliver(NIGHTS[BAD])
        one = _night(config, root, number)
        if number == BAD:
            _check(shop, root, NIGHTS[BAD - 1])  # the table in use is still that of the night before
        else:
            one |= _check(shop, root, night) | {"training_seconds": round(_training_seconds(root, night), 1)}
        print(json.dumps(one), flush=True)
        nights.append(one)
    figures = _beside_a_cold_night(shop, root, planned[-1])
    print(json.dumps(figures), flush=True)
    settings = load_config(config, ds=planned[-1].isoformat())
    option = f" --larger {larger}" if larger > 1 else ""
    (RESULTS / ("ten_nights.json" if larger == 1 else "warm_start.json")).write_text(
        json.dumps(
            {
                "command": f"python -m tests.benchmarks.ten_nights FOLDER{option}",
                "date": datetime.now(UTC).date().isoformat(),
                "hardware": hardware(settings),
                "versions": package_versions(),
                "seed": settings.seed,
                "warm_start": settings.training.warm_start and settings.training.warm_start.model_dump(),
                "figures": figures,
                "nights": nights,
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
