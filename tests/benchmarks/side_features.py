"""What features of items bring: `python -m tests.benchmarks.side_features FOLDER [SHOP …]` → results/side_features.json.

For each shop it makes the tables below FOLDER: `beauty` with brand, price and categories, and the simulated shop `laptop` with
category, brand, colour and price. In this process it then trains, with and without features and with each of `SEEDS`:

- `teacher`: the run config's trained teacher, which reads titles too,
- `student`: the run config's student without teachers,
- `taught`: the student that learns from the teacher of the first seed. Both read the features, or neither does.

The judges are the test users, and among them those whose next item has no training interaction. Intervals are over users and
seeds.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.console import say
from jobs.runtime.names import title_vectors
from jobs.runtime.published import features, parquet_files, published
from jobs.runtime.students import student_run
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows, read_evaluation_histories, training_windows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.bootstrap import nested_bootstrap_means, percentile_interval
from kdlib.metrics.ranking import hit_rate, ndcg
from kdlib.models.files import load_model
from kdlib.teachers.sparse import SampledTargetWriter
from kdlib.training.specs import StudentsSpec, TrainingRun
from tests.benchmarks.alone import process_group, train_alone

HOME = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
FEATURES = {
    "beauty": {"brand": "category", "price": "number", "categories": "categories"},
    "laptop": {"category": "category", "brand": "category", "colour": "category", "price": "number"},
}
STAGES = ("simulate-events", "build-features", "build-side-features", "encode-titles")
SEEDS = (1, 2, 3)
ARMS = ("plain", "features")
K, SAMPLES = 10, 2_000

Values = dict[str, np.ndarray]
"""Metric → float [users]."""


def beauty_catalogue(path: Path) -> None:
    """Write titles, brands, prices and categories of Amazon Beauty into one CSV. A category counts with all that it is part of."""
    data = Path(os.environ["DISTILREC_DATA"]) / "beauty"
    with gzip.open(data / "items_meta.csv.gz", "rt") as stream:
        about = {row["item_id"]: row for row in csv.DictReader(stream)}
    with (data / "items.csv").open() as stream, path.open("w", newline="") as written:
        rows = csv.writer(written)
        rows.writerow(["item_id", "title", "brand", "price", "categories"])
        for item in csv.DictReader(stream):
            row = about[item["item_id"]]
            levels = row["categories"].split(" > ")
            nested = [" > ".join(levels[: depth + 1]) for depth in range(1, len(levels))]
            brand = "" if row["brand"] == "Unknown" else row["brand"]
            rows.writerow([item["item_id"], item["title"], brand, row["price"], "|".join(nested)])


def run_config(shop: str, folder: Path) -> Path:
    """Write the run config of a shop whose teacher and student read the features, and make its tables."""
    document = yaml.safe_load((HOME / f"cluster/runs/{shop}.yaml").read_text())
    document["output_dir"] = str(folder / shop)
    if shop == "beauty":
        beauty_catalogue(folder / "beauty.csv")
        document["input"]["catalogue"] = {
            "path": str(folder / "beauty.csv"),
            "format": "csv",
            "features": FEATURES[shop],
        }
    for reader in (document["student"], document["teachers"][-1]):
        reader["features"] = list(FEATURES[shop])
    path = folder / f"{shop}.yaml"
    path.write_text(yaml.safe_dump(document))
    for stage in STAGES:
        subprocess.run([sys.executable, "-m", "jobs", stage, "--config", str(path)], cwd=HOME, check=True)
    return path


class _Shop:
    """The tables of a shop, and what is trained on them."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self._folder, self._source = config, folder, features(config)
        self._histories = pq.read_table(self._source.histories)
        text = config.teachers[-1].text
        assert text is not None
        names = ("item_statistics", "item_features", title_vectors(text))
        self._tables = {name: found.folder for name, found in published(config, *names).items()}
        self._titles = self._tables[title_vectors(text)]
        counts = pq.read_table(self._tables["item_statistics"]).sort_by("item_index")["num_in_windows"].to_numpy()
        files = parquet_files(self._source.histories)
        tested = read_evaluation_histories(files, position_column="test_position", max_users=len(self._histories))
        self._rows = evaluation_rows(tested, position_column="test_position")
        self._to_new_V = counts == 0

    def models(self) -> Iterator[tuple[str, str, Values]]:
        """Who is trained, with or without features, and how good it is; once for each seed."""
        windows = training_windows(self._histories, max_length=self._config.training.max_length)
        for arm in ARMS:
            targets = None
            for seed in SEEDS:
                teacher = self._teacher(arm, seed)
                yield "teacher", arm, self._trained(teacher, windows, states=0)
                if targets is None:
                    targets = self._targets(teacher.export, windows)
                yield "student", arm, self._trained(self._student(arm, seed, cached=None), windows, states=0)
                taught = self._student(arm, seed, cached=teacher.export if seed == SEEDS[0] else self._first(arm))
                yield "taught", arm, self._trained(taught, targets, states=1)

    def _first(self, arm: str) -> str:
        return str(self._folder / f"teacher {arm} {SEEDS[0]}")

    def _made(self, name: str) -> str:
        (self._folder / name).mkdir()
        return str(self._folder / name)

    def _teacher(self, arm: str, seed: int) -> TrainingRun:
        settings = self._config.teachers[-1]
        return TrainingRun(
            name=f"teacher {arm} {seed}",
            export=self._made(f"teacher {arm} {seed}"),
            model=settings.model,
            train=self._config.training.resolve(settings.train),
            seed=seed,
            title_vectors=str(self._titles),
            item_features=str(self._tables["item_features"]),
            features=settings.features if arm == "features" else (),
            statistics=str(self._tables["item_statistics"]),
        )

    def _student(self, arm: str, seed: int, *, cached: str | None) -> TrainingRun:
        config, name = self._config, f"{'student' if cached is None else 'taught'} {arm} {seed}"
        if arm == "plain":
            config = config.model_copy(update={"student": config.student.model_copy(update={"features": ()})})
        return student_run(
            config,
            name,
            Path(self._made(name)),
            seed=seed,
            statistics=self._tables["item_statistics"],
            taught=cached is not None,
            cached=[] if cached is None else [(cached, 1.0)],
            item_features=self._tables["item_features"],
        )

    def _targets(self, teacher: str, windows: pa.Table) -> pa.Table:
        how = self._config.distillation
        drawn = {"temperature": how.temperature, "samples": how.samples, "seed": self._config.seed}
        return SampledTargetWriter([[teacher]], [1.0], threads=torch.get_num_threads(), **drawn)(windows)

    def _trained(self, run: TrainingRun, windows: pa.Table, *, states: int) -> Values:
        facts = self._source.vocabulary_facts()
        files = parquet_files(self._source.histories)
        train_alone(
            StudentsSpec((run,), states, files, facts["vocabulary_items"], facts), self._config.training, windows
        )
        model = load_model(Path(run.export))[0]
        ranks = ranks_of_models([model], [1.0], self._rows, device=torch.device("cpu")).ranks
        new = self._to_new_V[self._rows.targets]
        hits = hit_rate(ranks, K)
        found = {f"ndcg@{K}": ndcg(ranks, K), f"recall@{K}": hits, "new": new.astype(float), "new hits": hits * new}
        say(f"{run.name}: " + ", ".join(f"{name} {one.mean():.4f}" for name, one in found.items()))
        return found


def figures(found: dict[str, dict[str, list[Values]]]) -> dict[str, Any]:
    """Means over users and seeds, and differences with intervals. `new_recall` is of users whose next item is new."""
    result: dict[str, Any] = {}
    for who, arms in found.items():
        flat = {
            f"{arm} {metric}": np.stack([one[metric] for one in seeds])
            for arm, seeds in arms.items()
            for metric in seeds[0]
        }
        worlds = nested_bootstrap_means(flat, samples=SAMPLES, seed=1)
        means = {name: one.mean() for name, one in flat.items()}
        both = [{name: _metrics(of, name) for name in arms} for of in (means, worlds)]
        result[who] = {}
        for metric in both[0]["plain"]:
            plain, with_features = (float(both[0][arm][metric]) for arm in ARMS)
            low, high = percentile_interval(both[1]["features"][metric] - both[1]["plain"][metric])
            result[who][metric] = {
                "plain": round(plain, 5),
                "features": round(with_features, 5),
                "difference": round(with_features - plain, 5),
                "difference_interval": [round(low, 5), round(high, 5)],
            }
    return result


def _metrics(of: Any, arm: str) -> dict[str, Any]:
    found = {metric: of[f"{arm} {metric}"] for metric in (f"ndcg@{K}", f"recall@{K}")}
    if np.any(of[f"{arm} new"]):
        found[f"new_recall@{K}"] = of[f"{arm} new hits"] / of[f"{arm} new"]
    return found


def measured(shop: str, folder: Path) -> dict[str, Any]:
    """Train and judge all models of a shop."""
    config = load_config(run_config(shop, folder))
    with process_group(threads=os.cpu_count() or 1) as scratch:
        found: dict[str, dict[str, list[Values]]] = {}
        for who, arm, values in _Shop(config, scratch).models():
            found.setdefault(who, {}).setdefault(arm, []).append(values)
    some = found["teacher"]["plain"][0]
    users = {"test_users": len(some["new"]), "test_users_with_a_new_next_item": int(some["new"].sum())}
    return {"features": list(FEATURES[shop]), "hardware": hardware(config), **users, **figures(found)}


if __name__ == "__main__":
    home, shops = Path(sys.argv[1]), sys.argv[2:] or list(FEATURES)
    home.mkdir(parents=True, exist_ok=True)
    results = {
        "command": "python -m tests.benchmarks.side_features FOLDER",
        "seeds": list(SEEDS),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{shop: measured(shop, home.resolve()) for shop in shops},
    }
    (RESULTS / "side_features.json").write_text(json.dumps(results, indent=1) + "\n")
    say(json.dumps(results, indent=1))
