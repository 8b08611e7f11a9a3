"""What features of items bring: `python -m tests.benchmarks.side_features FOLDER [SHOP …]` → results/side_features.json.

For each shop it makes the tables below FOLDER: `beauty` with brand, price and categories, and the simulated shop `laptop` with
category, brand, colour and price. In this process it then trains, with and without features and with several seeds:

- `teacher`: the run config's trained teacher, which reads titles too,
- `student`: the run config's student without teachers,
- `taught`: the student that learns from the teacher of the first seed. Both read the features, or neither does.

The judges of Beauty are the test users. The judge of the simulated shop is its true model, for all users. Intervals are over
users and seeds.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
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
from jobs.runtime.oracle import knows_the_truth, truth_of
from jobs.runtime.published import features, parquet_files, published
from jobs.runtime.students import student_run
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows, read_evaluation_histories, training_windows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.bootstrap import nested_bootstrap_means, percentile_interval
from kdlib.metrics.expected import expected_metrics
from kdlib.metrics.ranking import hit_rate, ndcg
from kdlib.models.files import load_model
from kdlib.teachers.sparse import SampledTargetWriter
from kdlib.training.specs import StudentsSpec, TrainingRun
from tests.benchmarks.one_worker import process_group, train_all

HOME = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
FEATURES = {
    "beauty": {"brand": "category", "price": "number", "categories": "categories"},
    "laptop": {"category": "category", "brand": "category", "colour": "category", "price": "number"},
}
STAGES = ("simulate-events", "build-features", "build-side-features", "encode-titles")
SEEDS = {"teacher": (1, 2), "student": (1, 2, 3), "taught": (1, 2, 3)}
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
        self._truth = knows_the_truth(config)
        how = {"position_column": "test_position", "everyone": self._truth}
        self._tested = read_evaluation_histories(self._files(), max_users=len(self._histories), **how)
        self._rows = evaluation_rows(self._tested, with_marks=self._truth, **how)

    def _files(self) -> list[str]:
        return parquet_files(self._source.histories)

    def models(self) -> Iterator[tuple[str, str, Values]]:
        """Who is trained, with or without features, and how good it is; once for each seed."""
        windows = training_windows(self._histories, max_length=self._config.training.max_length)
        for arm in ARMS:
            teachers = [self._teacher(arm, seed) for seed in SEEDS["teacher"]]
            for teacher in teachers:
                yield "teacher", arm, self._trained(teacher, windows, states=0)
            for seed in SEEDS["student"]:
                yield "student", arm, self._trained(self._student(arm, seed, cached=None), windows, states=0)
            targets = self._targets(teachers[0].export, windows)
            for seed in SEEDS["taught"]:
                taught = self._student(arm, seed, cached=teachers[0].export)
                yield "taught", arm, self._trained(taught, targets, states=1)

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
        spec = StudentsSpec((run,), states, self._files(), facts["vocabulary_items"], facts)
        train_all(spec, self._config.training, windows)
        model = load_model(Path(run.export))[0]
        ranked = ranks_of_models([model], [1.0], self._rows, device=torch.device("cpu"), top=K)
        if self._truth:
            lists = {"model": ranked.best}
            truth = truth_of(self._config, self._tested, self._source.item_ids(), self._rows, lists, top=K)
            expected = expected_metrics(truth.probabilities["model"], (K,))
            found = {f"ndcg@{K}": expected[f"expected_ndcg@{K}"], f"recall@{K}": expected[f"expected_hr@{K}"]}
        else:
            found = {f"ndcg@{K}": ndcg(ranked.ranks, K), f"recall@{K}": hit_rate(ranked.ranks, K)}
        say(f"{run.name}: " + ", ".join(f"{name} {one.mean():.4f}" for name, one in found.items()))
        return found


def figures(found: dict[str, dict[str, list[Values]]]) -> dict[str, Any]:
    """Means over users and seeds, and differences with intervals."""
    result: dict[str, Any] = {}
    for who, arms in found.items():
        flat = {
            f"{arm} {metric}": np.stack([one[metric] for one in seeds])
            for arm, seeds in arms.items()
            for metric in seeds[0]
        }
        worlds = nested_bootstrap_means(flat, samples=SAMPLES, seed=1)
        means = {name: one.mean() for name, one in flat.items()}
        result[who] = {}
        for metric in arms["plain"][0]:
            plain, with_features = (float(means[f"{arm} {metric}"]) for arm in ARMS)
            low, high = percentile_interval(worlds[f"features {metric}"] - worlds[f"plain {metric}"])
            result[who][metric] = {
                "plain": round(plain, 5),
                "features": round(with_features, 5),
                "difference": round(with_features - plain, 5),
                "difference_interval": [round(low, 5), round(high, 5)],
            }
    return result


def measured(shop: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """Train and judge all models of a shop."""
    config = load_config(run_config(shop, folder))
    found: dict[str, dict[str, list[Values]]] = {}
    for who, arm, values in _Shop(config, scratch).models():
        found.setdefault(who, {}).setdefault(arm, []).append(values)
    users = len(found["teacher"]["plain"][0][f"ndcg@{K}"])
    return {"features": list(FEATURES[shop]), "hardware": hardware(config), "users": users, **figures(found)}


if __name__ == "__main__":
    home, shops = Path(sys.argv[1]), sys.argv[2:] or list(FEATURES)
    home.mkdir(parents=True, exist_ok=True)
    results = {
        "command": "python -m tests.benchmarks.side_features FOLDER",
        "seeds": SEEDS,
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory() as name, process_group(Path(name), threads=os.cpu_count() or 1):
        scratch = Path(name)
        for shop in shops:
            (scratch / shop).mkdir()
            results[shop] = measured(shop, home.resolve(), scratch / shop)
            (RESULTS / "side_features.json").write_text(json.dumps(results, indent=1) + "\n")
            say(json.dumps(results[shop], indent=1))
