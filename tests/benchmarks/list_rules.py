"""What rules for lists cost: users a second with and without them, of the actor of `jobs/recommend.py` on one thread.

    python -m tests.benchmarks.list_rules

The shop is made up: 100,000 items, 2% of them new, Transformer of width 64, lists of ten. Both actors take turns on the same users. The
result is written to results/list_rules.json.
"""

import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.provenance import package_versions, processor
from jobs.runtime.console import say
from kdlib.config.policy import PolicyConfig
from kdlib.store.tables import ITEM_FEATURES, USER_FEATURES
from tests.benchmarks.serving import histories_table, serving_actor

RESULT = Path(__file__).parent / "results" / "list_rules.json"
ITEMS, USERS, LENGTH, ROUNDS = 100_000, 4096, 12, 5
SHAPE = {"kind": "transformer", "dim": 64, "heads": 2, "max_length": 50}
RULES: dict[str, dict[str, Any]] = {
    "include and exclude": {"include": {"price": {"min": 10}}, "exclude": {"brand": ["b0", "b1"]}},
    "exclude_recent": {"exclude_recent": {"view": "3d"}},
    "at_most": {"at_most": {"brand": 2, "category": 3}},
    "new_items": {"new_items": {"days": 7, "share": 0.2}},
    "boosts": {"boosts": [{"items": {"brand": ["b7"]}, "factor": 2}]},
    "pins": {"pins": [{"item": "77", "place": 2}]},
    "segments": {"segments": {"feature": "country", "rules": {"c1": {"exclude": {"brand": ["b2"]}}}}},
}


def run() -> None:
    """Time the actor without rules, with each rule alone, and with all rules."""
    rng = np.random.default_rng(1)
    items = rng.integers(0, ITEMS, USERS * LENGTH)
    histories = histories_table(items, np.arange(0, len(items) + 1, LENGTH), [f"u{n:06}" for n in range(USERS)])
    counts = np.bincount(items, minlength=ITEMS)
    policies = {"no rules": None} | RULES | {"all rules": {k: v for rule in RULES.values() for k, v in rule.items()}}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        features = _features(home, rng)
        actors = {}
        for label, policy in policies.items():
            (home / label).mkdir()
            given = PolicyConfig.model_validate(policy) if policy else None
            actors[label] = serving_actor(home / label, histories, counts, SHAPE, policy=given, **features)
        rates: dict[str, list[float]] = {label: [] for label in actors}
        for _ in range(1 + ROUNDS):
            for label, (actor, shards) in actors.items():
                started = time.perf_counter()
                actor(shards)
                rates[label].append(USERS / (time.perf_counter() - started))
    figures = {label: round(median(found[1:])) for label, found in rates.items()}
    shares = {
        label: round(median(r / p for r, p in zip(found[1:], rates["no rules"][1:], strict=True)), 3)
        for label, found in rates.items()
    }
    result = {
        "command": "python -m tests.benchmarks.list_rules",
        "what": f"{ITEMS:,} items, width 64, k 10, {USERS:,} users with {LENGTH} events, one thread;"
        f" medians of {ROUNDS} rounds, in which all actors take turns; shares are medians of each round's ratio",
        "hardware": processor(),
        "versions": package_versions(),
        "date": datetime.now(UTC).date().isoformat(),
        "seed": 1,
        "users_per_second": figures,
        "share_of_no_rules": shares,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    say(json.dumps({"users_per_second": figures, "share_of_no_rules": shares}, indent=1))


def _features(home: Path, rng: np.random.Generator) -> dict[str, str]:
    """Folders of made-up features: 50 brands, 300 categories, prices; three countries."""
    rows: list[dict[str, Any]] = []
    for item in range(ITEMS):
        rows.append({"item_index": item, "feature": "brand", "values": [f"b{rng.integers(50)}"]})
        rows.append({"item_index": item, "feature": "category", "values": [f"c{rng.integers(300)}"]})
        rows.append({"item_index": item, "feature": "price", "number": float(rng.lognormal(3, 1))})
    people = [{"user_id": f"u{n:06}", "feature": "country", "values": [f"c{n % 3}"]} for n in range(USERS)]
    for folder, table, found in (("items", ITEM_FEATURES, rows), ("users", USER_FEATURES, people)):
        (home / folder).mkdir()
        pq.write_table(pa.Table.from_pylist(found, schema=table.schema), home / folder / "part-00000.parquet")
    return {"item_features_folder": str(home / "items"), "user_features_folder": str(home / "users")}


if __name__ == "__main__":
    run()
    sys.exit()
