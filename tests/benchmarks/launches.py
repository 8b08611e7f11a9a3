"""New products on real data: Amazon Beauty, where a tenth of the products is first listed in the last two days.

    DISTILREC_DATA=… python -m tests.benchmarks.launches FOLDER    # → results/quality_launches.json

The sequences have no times. As in `cluster/runs/beauty.yaml`, each interaction gets its own day, and a user's last
interaction gets the last day. A hash of its id decides when a product is first listed:
- One product in twenty on the last day, which is the test day.
- One product in twenty on the day before, which is the validation day.
- All others before the first day.

Earlier interactions with these products are removed. So training never sees them, and settings for new products can be
chosen on the validation day. The recipes are those of Beauty, with `item_dropout`. `<variant>_new_hr10` is the recall on
the new products.

FOLDER keeps input, run configs and outputs. The same command resumes an earlier run.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.whole_nights import HOME

RESULTS = HOME / "tests/benchmarks/results/quality_launches.json"
ITEM_DROPOUT, TAUGHT = 0.3, 0.1
"""Item dropout of models without a teacher, and of the student, whose teacher also teaches new products. Both were chosen on
the validation day."""
SEEDS = [11, 12, 13]


def first_day(item: str) -> float:
    """Days from an item's first listing to the last day; infinity: the item was always listed."""
    number = int(hashlib.sha256(item.encode()).hexdigest(), 16) % 20
    return number if number < 2 else math.inf


def write_sequences(source: Path, target: Path) -> None:
    """Write the sequences without interactions before an item's first listing."""
    with source.open() as lines, target.open("w") as out:
        for line in lines:
            user, *items = line.split()
            days = range(len(items) - 1, -1, -1)
            kept = [item for item, day in zip(items, days, strict=True) if day <= first_day(item)]
            print(user, *kept, file=out)


def run_config(folder: Path) -> dict[str, Any]:
    """Beauty's recipe on the input in the folder, split by time."""
    settings = yaml.safe_load((HOME / "cluster/runs/beauty.yaml").read_text())
    settings |= {
        "name": "launches",
        "output_dir": str(folder / "output"),
        "input": {
            "events": {"path": str(folder / "sequences.txt"), "format": "sequences"},
            "catalogue": {"path": str(folder / "items.csv"), "format": "csv"},
        },
        "features": {"split": {"kind": "time", "validation_days": 1, "test_days": 1}},
    }
    for teacher in settings["teachers"]:
        if "model" in teacher:
            teacher["model"]["item_dropout"] = ITEM_DROPOUT
    # new products need a student that reads titles
    settings["student"] = {
        "model": settings["student"]["model"] | {"dropout": 0.2, "item_dropout": TAUGHT},
        "text": {"whiten": True},
        "train": {"epochs": 10, "patience": 10},
    }
    settings["distillation"]["item_start"] = "random"
    return settings


def arms() -> dict[str, Any]:
    """The variants: with and without teacher, titles and codes."""
    few = {"seeds": SEEDS[:1]}
    ids = {"text": None, "model": {"item_dropout": 0.0, "dropout": 0.5}, "train": {"epochs": 14, "patience": 14}}
    codes = {"kind": "residual", "count": 8}
    return {
        "ids_plain": few | {"teacher": "none", "student": ids},
        "text_plain": few
        | {
            "teacher": "none",
            "student": {"model": {"item_dropout": ITEM_DROPOUT}, "train": {"epochs": 12, "patience": 12}},
        },
        "student": {"plain": "text_plain"},
        "codes": {
            "student": {"model": {"item_dropout": 0.0, "codes": codes, "dropout": 0.1}, "text": None, "export": "int8"},
            "plain": "ids_plain",
        },
    }


def main(folder: Path) -> int:
    """Write input and run configs, then run the benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(os.environ["DISTILREC_DATA"]) / "beauty"
    if not (folder / "sequences.txt").exists():  # a new file time would make all outputs stale
        write_sequences(source / "sequences.txt", folder / "sequences.txt")
        shutil.copyfile(source / "items.csv", folder / "items.csv")
    (folder / "launches.yaml").write_text(yaml.safe_dump(run_config(folder)))
    (folder / "quality_launches.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "quality_launches",
                "run": "launches.yaml",
                "seeds": SEEDS,
                "arms": arms(),
                "results": str(RESULTS),
            }
        )
    )
    command = [sys.executable, "-m", "jobs", "benchmark", "--config", str(folder / "quality_launches.yaml")]
    if status := subprocess.run(command, cwd=HOME).returncode:
        return status
    result = json.loads(RESULTS.read_text()) | {"command": "python -m tests.benchmarks.launches FOLDER"}
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
