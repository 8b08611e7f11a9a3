"""Features compared with DuckDB, and growth of the cost with events, users and items: parts of `tests.benchmarks.speed`.

`python -m tests.benchmarks.growth USERS ITEMS` measures the recommender at one size. It prints JSON: `seconds`, and
`peak_gigabytes` of the process.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kdlib.config.data import SimulateConfig
from kdlib.simulation.events import Plan, write_task

LAST_DAY = date(2026, 11, 22)
DAYS = 30
EVENTS = 20_000_000
FACTOR = 16
MEMORY = "4G"
USERS, ITEMS = 5_000, 20_000
MEAN_LENGTH = 8
SHAPE: dict[str, Any] = {"kind": "transformer", "dim": 64, "layers": 1, "heads": 1, "dropout": 0.0, "max_length": 50}


def sessionize(rounds: int) -> dict[str, float]:
    """Our sessionizing against DuckDB's, measured in turns, and its growth from a 16th of the events to all events."""
    with tempfile.TemporaryDirectory() as name:
        few, many = Path(name, "few"), Path(name, "many")
        for folder, events in ((few, EVENTS // FACTOR), (many, EVENTS)):
            folder.mkdir()
            _simulate(folder / "events", events)
        facts: dict[str, list[dict[str, float]]] = {"spark": [], "duckdb": [], "few": []}
        for _ in range(rounds):
            facts["duckdb"].append(_sessionize("duckdb", many))
            facts["spark"].append(_sessionize("spark", many))
            facts["few"].append(_sessionize("spark", few))
        same = {(one["sessions"], one["events"]) for side in ("spark", "duckdb") for one in facts[side]}
        assert len(same) == 1, f"Spark and DuckDB give different (sessions, events): {same}"
    seconds = {side: float(np.median([one["seconds"] for one in found])) for side, found in facts.items()}
    return {
        "sessionize_seconds": seconds["spark"],
        "sessionize_duckdb_seconds": seconds["duckdb"],
        "sessionize_vs_duckdb": seconds["spark"] / seconds["duckdb"],
        "sessionize_peak_gigabytes": max(one["peak_gigabytes"] for one in facts["spark"]),
        "sessionize_16x_events": seconds["spark"] / seconds["few"],
    }


def recommend_growth(rounds: int) -> dict[str, float]:
    """Growth of the recommender's seconds with 16 times the users or items, and of its memory with 16 times the users."""
    sizes = {"base": (USERS, ITEMS), "users": (FACTOR * USERS, ITEMS), "items": (USERS, FACTOR * ITEMS)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sizes}
    for _ in range(rounds):
        for name, size in sizes.items():
            found[name].append(_output([sys.executable, "-m", "tests.benchmarks.growth", *map(str, size)]))
    medians = {
        name: {key: float(np.median([one[key] for one in runs])) for key in runs[0]} for name, runs in found.items()
    }
    return {
        "recommend_16x_users": medians["users"]["seconds"] / medians["base"]["seconds"],
        "recommend_16x_items": medians["items"]["seconds"] / medians["base"]["seconds"],
        "recommend_16x_users_memory": medians["users"]["peak_gigabytes"] / medians["base"]["peak_gigabytes"],
    }


def _simulate(folder: Path, events: int) -> None:
    folder.mkdir()
    settings = SimulateConfig(num_events=events, num_items=max(2_000, events // 200), num_days=DAYS)
    plan = Plan(
        **settings.model_dump(exclude={"first_day"}), first_day=LAST_DAY - timedelta(days=DAYS - 1), until=LAST_DAY
    )
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        list(pool.map(write_task, *zip(*((plan, number, folder) for number in range(len(plan.tasks()))), strict=True)))


def _sessionize(side: str, folder: Path) -> dict[str, float]:
    days = [str(LAST_DAY - timedelta(days=DAYS - 1)), str(LAST_DAY)]
    return _output([sys.executable, "-m", "tests.benchmarks.sessionize", side, str(folder / "events"), *days, MEMORY])


def _output(command: list[str]) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(command, check=True, text=True, capture_output=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _recommend(users: int, items: int) -> None:
    import torch

    from tests.benchmarks.serving import histories_table, serving_actor

    torch.set_num_threads(1)
    generator = np.random.default_rng(1)
    offsets = np.concatenate(([0], np.cumsum(generator.integers(2, 2 * MEAN_LENGTH - 1, users))))
    bought = generator.integers(0, items, offsets[-1])
    with tempfile.TemporaryDirectory() as name:
        table = histories_table(bought, offsets, [f"u{number}" for number in range(users)])
        actor, shards = serving_actor(Path(name), table, np.bincount(bought, minlength=items), SHAPE)
        del table
        actor(shards.slice(0, 1))
        started = time.perf_counter()
        for number in range(len(shards)):
            actor(shards.slice(number, 1))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gigabytes": peak}))


if __name__ == "__main__":
    _recommend(*map(int, sys.argv[1:]))
