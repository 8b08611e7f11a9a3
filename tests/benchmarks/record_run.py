"""Record the figures of a finished run in results/run_<name>.json, which the README quotes.

    python -m tests.benchmarks.record_run --config … [--set …]

The file also holds the command, seed, hardware, versions and the time of publication.
"""

import json
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.console import say
from kdlib.config.run import RunConfig
from kdlib.metrics.expected import PREFIX
from kdlib.store import partitions
from kdlib.store.partitions import Manifest
from tests.benchmarks.command_line import measure

RESULTS = Path(__file__).parent / "results"
_REALISED = ("accuracy@1", "hr@10", "ndcg@10", "mrr@10")
SHOWN = (*_REALISED, *(f"{PREFIX}{metric}" for metric in _REALISED))


def run(config: RunConfig) -> None:
    """Collect the metrics, the counts of rows, the model sizes and the stages' seconds of the run's date."""
    control = ["control"] if config.evaluation.control else []
    names = ["student", *control, *(model.removeprefix("models/") for t in config.teachers for model in t.models)]
    manifests = {
        name: partitions.read_manifest(config.root, name, config.day)
        for name in (
            "events",
            "histories",
            "metrics",
            "recommendations",
            "teacher_targets",
            *(f"models/{n}" for n in names),
        )
    }
    metrics = manifests["metrics"]
    histories = manifests["histories"]
    assert metrics is not None
    assert histories is not None
    rows = pq.read_table(partitions.current(config.root, "metrics", config.day)).to_pylist()
    figures: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for row in rows:
        if row["metric"] in SHOWN:
            figures[f"{row['model']} {row['metric']}"] = round(row["value"], 5)
            intervals[f"{row['model']} {row['metric']}"] = [round(row["low"], 5), round(row["high"], 5)]
    figures |= _distillation(config, {(row["model"], row["metric"]): row for row in rows})
    figures["seconds"] = _seconds(manifests.values())
    models = {}
    for name in names:
        facts = json.loads((partitions.current(config.root, f"models/{name}", config.day) / "model.json").read_text())
        models[name] = {
            key: facts[key] for key in ("parameters", "parameters_without_item_tables", "bytes", "seed", "version")
        } | {"epochs": len(facts["epochs"])}
    funnel = histories.details["funnel"]
    kept = ("rows_read", "kept", "duplicate", "reasons", "users", "interactions", "items")
    result: dict[str, Any] = {
        "command": shlex.join(["distilrec", "nightly", *sys.argv[1:]]),
        "protocol": f"{config.features.split.kind} split, all items but the user's history ranked, one target a test user;"
        " expected_…: over the true model's next items of every user with a history",
        "seed": config.seed,
        "hardware": hardware(config),
        "versions": package_versions(),
        "published": datetime.fromtimestamp(metrics.published_unix_seconds, UTC).isoformat(timespec="seconds"),
        "test_users": metrics.details["users"],
        "repeats_left_out": metrics.details["repeats_left_out"],
        "users_with_truth": metrics.details.get("users_with_truth"),
        "funnel": {key: funnel[key] for key in kept},
        "step_seconds": {
            name: manifest.details["seconds"] for name, manifest in manifests.items() if manifest is not None
        },
        "models": models,
        "figures": figures,
        "intervals": intervals,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"run_{config.name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    say(f"wrote {path}")


def _distillation(config: RunConfig, found: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The gain by distillation in NDCG@10, expected for simulated shops; empty for runs without a control."""
    names = [teacher.name for teacher in config.teachers]
    teacher = names[0] if len(names) == 1 else "ensemble"
    expected = ("student - control", f"{PREFIX}ndcg@10") in found
    metric, suffix = (f"{PREFIX}ndcg@10", "_expected") if expected else ("ndcg@10", "")
    gained, gap = found.get(("student - control", metric)), found.get((f"{teacher} - control", metric))
    if gained is None or gap is None:
        return {}
    return {
        f"student_minus_control{suffix}": round(gained["value"], 5),
        "student_minus_control_interval": [round(gained["low"], 5), round(gained["high"], 5)],
        "student_gain": round(gained["value"] / found["control", metric]["value"], 4),
        "teacher_gain": round(gap["value"] / found["control", metric]["value"], 4),
        **({"gap_closed": round(gained["value"] / gap["value"], 4)} if gap["low"] > 0 else {}),
    }


def _seconds(manifests: Iterable[Manifest | None]) -> float:
    """Seconds from the start of the first stage to the last table. The run must have made all outputs in one go."""
    made = [one for one in manifests if one is not None]
    first = min(one.published_unix_seconds - one.details["seconds"] for one in made)
    return round(max(one.published_unix_seconds for one in made) - first, 1)


if __name__ == "__main__":
    sys.exit(measure("record_run", run, description=__doc__))
