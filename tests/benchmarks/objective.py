"""What a purchase objective brings and costs: `python -m tests.benchmarks.objective --config FILE` → results/objective_NAME.json.

It needs the features of the run config, up to `encode-titles`, and cuts the histories anew, so that enough purchases test. In
this process, without Ray, it then trains a teacher with and without the objective, and students of `SEEDS` from each. The
judges are the first new items of each event type that a user meets in the test days. Each model ranks them from the history
before the test days. Intervals are over users and seeds.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.console import say
from jobs.runtime.names import title_vectors
from jobs.runtime.published import Features, features, published
from jobs.runtime.students import student_run
from kdlib.config.data import EVENT_TYPES
from kdlib.config.models import ObjectiveConfig
from kdlib.config.run import RunConfig
from kdlib.data.folds import training_counts
from kdlib.data.windows import EvaluationRows, evaluation_rows, training_windows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.bootstrap import nested_bootstrap_means, percentile_interval
from kdlib.metrics.ranking import hit_rate
from kdlib.metrics.table import OTTO
from kdlib.models.files import load_model
from kdlib.store import tables
from kdlib.teachers.sparse import SampledTargetWriter
from kdlib.teachers.targets import TargetWriter
from kdlib.training.specs import StudentsSpec, TrainingRun
from tests.benchmarks.command_line import measure
from tests.benchmarks.one_worker import process_group, train_all

RESULTS = Path(__file__).parent / "results"
OBJECTIVE = ObjectiveConfig(cart=3, purchase=10)
SEEDS = (1, 2, 3)
TEST_DAYS = {"laptop": 5, "taobao": 2}
"""Run config → number of last days that test. Taobao has nine days in all."""
VALIDATION_DAYS = 2
K, SAMPLES = 20, 2_000


def cut_again(config: RunConfig, histories: pa.Table) -> pa.Table:
    """The histories with the last days as the test, and `VALIDATION_DAYS` before them."""
    end = datetime.combine(config.last_day + timedelta(days=1), datetime.min.time(), UTC)
    tested = TEST_DAYS[config.name]
    starts = [end - timedelta(days=days) for days in (tested + VALIDATION_DAYS, tested)]
    columns: dict[str, list[int | None]] = {"num_train": [], "validation_position": [], "test_position": []}
    for times in histories["event_times"].to_pylist():
        first, second = (sum(time < start for time in times) for start in starts)
        columns["num_train"].append(first)
        columns["validation_position"].append(first if 0 < first < second else None)
        columns["test_position"].append(second if 0 < second < len(times) else None)
    for name, values in columns.items():
        place = histories.column_names.index(name)
        histories = histories.set_column(place, tables.HISTORIES.schema.field(name), [pa.array(values, pa.int32())])
    return histories


def first_of_each_type(histories: pa.Table) -> pa.Table:
    """The histories before the test, once for each event type, with the first new item of this type in the test as the target.

    Args:
      histories: rows of `tables.HISTORIES` with a test position.
    """
    rows = []
    for row in histories.to_pylist():
        position, seen, found = row["test_position"], set(row["item_indices"][: row["test_position"]]), {}
        for place in range(position, len(row["item_indices"])):
            if row["item_indices"][place] not in seen:
                found.setdefault(row["event_types"][place], place)
        for place in found.values():
            kept = [*range(position), place]
            lists = ("item_indices", "event_types", "event_times", "session_numbers")
            rows.append(row | {name: [row[name][one] for one in kept] for name in lists})
    return pa.Table.from_pylist(rows, schema=histories.schema)


class _Shop:
    """The histories that were cut anew, and what is trained on them."""

    def __init__(self, config: RunConfig, source: Features, folder: Path) -> None:
        self._config, self._source, self._folder = config, source, folder
        histories = cut_again(config, pq.read_table(source.histories))
        self._file = folder / "histories.parquet"
        pq.write_table(histories, self._file)
        self._windows = training_windows(histories, max_length=config.training.max_length)
        items = source.vocabulary_facts()["vocabulary_items"]
        counts = training_counts([str(self._file)], lambda rows: rows, num_items=items)
        statistics = {"item_index": np.arange(items), "num_train": counts[0], "num_in_windows": counts[1]}
        (folder / "statistics").mkdir()
        pq.write_table(pa.table(statistics), folder / "statistics" / "part.parquet")
        tested = histories.filter(histories["test_position"].is_valid())
        self.rows = evaluation_rows(first_of_each_type(tested), position_column="test_position")

    def students(self, name: str, objective: ObjectiveConfig) -> list[Path]:
        """The folders of the students of all seeds, whose teacher has the same objective."""
        config = self._config.model_copy(update={"objective": objective})
        [settings] = config.teachers
        teacher = TrainingRun(
            name="teacher",
            export=str(self._made(f"{name}_teacher")),
            model=settings.model,
            train=config.training.resolve(settings.train),
            seed=config.seed,
            title_vectors=self._titles(),
            statistics=str(self._folder / "statistics"),
            event_weights=objective.event_weights,
        )
        self._train(teacher, self._windows, states=0)
        cached = [(teacher.export, 1.0)]
        targets = self._targets(teacher.export)(self._windows)
        folders = []
        for seed in SEEDS:
            folders.append(self._made(f"{name}_student_{seed}"))
            run = student_run(
                config,
                f"{name} student, seed {seed}",
                folders[-1],
                seed=seed,
                statistics=self._folder / "statistics",
                taught=True,
                cached=cached,
            )
            self._train(run, targets, states=1)
        return folders

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _titles(self) -> str | None:
        text = self._config.teachers[0].text
        return None if text is None else str(published(self._config, title_vectors(text))[title_vectors(text)].folder)

    def _targets(self, folder: str) -> Any:
        how = self._config.distillation
        if how.targets == "hidden":
            return TargetWriter([folder], 1)
        return SampledTargetWriter(
            [[folder]], [1.0], temperature=how.temperature, samples=how.samples, seed=self._config.seed, threads=1
        )

    def _train(self, run: TrainingRun, windows: pa.Table, *, states: int) -> None:
        facts = self._source.vocabulary_facts()
        spec = StudentsSpec((run,), states, [str(self._file)], facts["vocabulary_items"], facts)
        train_all(spec, self._config.training, windows)


def hits_of(folders: list[Path], rows: EvaluationRows) -> np.ndarray:
    """Whether each target is among the first `K` of each model: float [models, targets]."""
    models = [load_model(folder)[0].eval() for folder in folders]
    ranks = [ranks_of_models([model], [1.0], rows, device=torch.device("cpu")).ranks for model in models]
    return np.stack([hit_rate(one, K) for one in ranks])


def figures(hits: dict[str, np.ndarray], types: np.ndarray, users: np.ndarray) -> dict[str, Any]:
    """Means and 95% intervals. A resample draws users with all their targets, and seeds.

    Args:
      hits: `plain` and `objective` → float [seeds, targets].
      types: event type of each target.
      users: user of each target.
    """
    names, owners = np.unique(users, return_inverse=True)

    def per_user(values_ST: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(owners, row, minlength=len(names)) for row in values_ST])

    there = {name: types == number for number, name in enumerate(EVENT_TYPES) if (types == number).any()}
    flat = {f"{arm} {name}": per_user(one * chosen) for arm, one in hits.items() for name, chosen in there.items()}
    flat |= {f"targets {name}": per_user(chosen[None].astype(float)) for name, chosen in there.items()}
    worlds = nested_bootstrap_means(flat, samples=SAMPLES, seed=1)

    def recall(of: Any, arm: str) -> dict[str, Any]:
        found = {name: of[f"{arm} {name}"] / of[f"targets {name}"] for name in there}
        if OTTO.keys() <= found.keys():
            found["otto"] = sum(share * found[name] for name, share in OTTO.items())
        return found

    means = {name: one.mean() for name, one in flat.items()}
    plain, weighted, plain_R, weighted_R = (recall(of, arm) for of in (means, worlds) for arm in hits)
    result: dict[str, Any] = {
        "users": len(names),
        "targets": {name: int(chosen.sum()) for name, chosen in there.items()},
    }
    for name in plain:
        low, high = percentile_interval(weighted_R[name] - plain_R[name])
        result[f"recall@{K}/{name}"] = {
            "plain": round(float(plain[name]), 5),
            "objective": round(float(weighted[name]), 5),
            "difference": round(float(weighted[name] - plain[name]), 5),
            "difference_interval": [round(low, 5), round(high, 5)],
        }
    return result


def run(config: RunConfig) -> None:
    """Measure, print and write the results."""
    with tempfile.TemporaryDirectory() as name, process_group(Path(name)):
        folder = Path(name)
        shop = _Shop(config, features(config), folder)
        arms = {"plain": ObjectiveConfig(), "objective": OBJECTIVE}
        hits = {arm: hits_of(shop.students(arm, objective), shop.rows) for arm, objective in arms.items()}
        found = figures(hits, shop.rows.target_types, shop.rows.user_ids)
    results = {
        "command": f"python -m tests.benchmarks.objective --config cluster/runs/{config.name}.yaml",
        "objective": OBJECTIVE.model_dump(),
        "student_seeds": list(SEEDS),
        "test_days": TEST_DAYS[config.name],
        "hardware": hardware(config),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **found,
    }
    say(json.dumps(found, indent=1))
    (RESULTS / f"objective_{config.name}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(measure("objective", run, description=__doc__))
