"""The default run on other simulated shops: `python -m tests.benchmarks.shop_seeds FOLDER` → results/shop_seeds.json.

The recipe was chosen on the shop with seed 7. This benchmark runs it on shops with other seeds.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.benchmark.provenance import hardware, package_versions
from kdlib.config.load import load_config
from kdlib.store import partitions

RESULTS = Path(__file__).parent / "results"
CONFIG = "cluster/runs/laptop.yaml"
SEEDS = (1, 2, 3, 4, 5)
METRIC = "expected_ndcg@10"


def measure(seed: int, folder: Path) -> dict[str, Any]:
    """Run one shop and read its metrics."""
    overrides = (f"input.simulate.seed={seed}", f"output_dir={folder / f'seed_{seed}'}")
    flags = [flag for override in overrides for flag in ("--set", override)]
    with (folder / f"seed_{seed}.log").open("w") as log:
        command = [sys.executable, "-m", "jobs", "nightly", "--config", CONFIG, *flags]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    config = load_config(CONFIG, overrides=overrides)
    rows = pq.read_table(partitions.current(config.root, "metrics", config.day)).to_pylist()
    found = {row["model"]: row for row in rows if row["metric"] == METRIC}
    gained, gap = found["student - control"], found["teacher - control"]
    return {
        "users": found["student"]["num_users"],
        **{name: round(found[name]["value"], 5) for name in ("student", "control", "teacher", "best_reachable")},
        "student_minus_control": round(gained["value"], 5),
        "student_minus_control_interval": [round(gained["low"], 5), round(gained["high"], 5)],
        "student_gain": round(gained["value"] / found["control"]["value"], 4),
        "teacher_minus_control": round(gap["value"], 5),
        "teacher_minus_control_interval": [round(gap["low"], 5), round(gap["high"], 5)],
        "teacher_gain": round(gap["value"] / found["control"]["value"], 4),
        "gap_closed": round(gained["value"] / gap["value"], 4),
    }


def main() -> None:
    """Run all shops, one after the other, and write the results."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    shops = {}
    for seed in SEEDS:
        shops[str(seed)] = measure(seed, folder)
        print(f"seed {seed}: {shops[str(seed)]}", flush=True)
    results = {
        "command": "python -m tests.benchmarks.shop_seeds FOLDER",
        "metric": METRIC,
        "seeds": list(SEEDS),
        "hardware": hardware(load_config(CONFIG)),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "shops": shops,
    }
    (RESULTS / "shop_seeds.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
