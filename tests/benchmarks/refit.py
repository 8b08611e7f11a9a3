"""What a second training on all days brings (`student.refit`), on nights in a row → results/refit_NAME.json.

    python -m tests.benchmarks.refit --config cluster/runs/laptop.yaml --ds 2026-12-02 FOLDER
    python -m tests.benchmarks.refit --config cluster/runs/laptop.yaml --ds 2026-12-02 --alone FOLDER
    python -m tests.benchmarks.refit --config cluster/runs/beauty_time.yaml --ds 2014-06-30 --period-days 7 FOLDER

Each night trains the run config's teachers and student as of its day, and then the student again on all days up to it. Both
students rank what follows: each user's first new item in the day (or `--period-days`) after the night, among all items that
are known on the night. The last such period ends with `--ds`. `--alone` trains the student without teachers.

The features are built once, as of `--ds`, and cut for each night:
- A history ends with the night's day, and the split's days count back from it. An item is known if a history has it by then.
- An event counts from the day on which it happened, also if it arrives later. A user whose later events are a bot's is
  missing on all nights.
- Titles are whitened over the items of all days.

The nights are trained without Ray, one at a time on each core. FOLDER keeps the features.
"""

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.benchmark.provenance import hardware, package_versions
from jobs.refit import as_judged
from jobs.runtime.command import execute
from jobs.runtime.console import in_utf8, say
from jobs.runtime.names import title_vectors
from jobs.runtime.published import features, parquet_files, published
from jobs.runtime.students import student_run
from kdlib.config.models import TeacherConfig
from kdlib.config.run import RunConfig
from kdlib.config.text import TextConfig
from kdlib.data.folds import training_counts
from kdlib.data.windows import read_evaluation_histories, training_windows, whole_histories
from kdlib.errors import ConfigError
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.bootstrap import nested_bootstrap_means, percentile_interval
from kdlib.metrics.ranking import hit_rate, ndcg
from kdlib.models.files import MODEL_FILE, load_model
from kdlib.store import tables
from kdlib.teachers.ensembles import choose_weights
from kdlib.teachers.rules_task import count_and_save, recount_and_save
from kdlib.teachers.sparse import SampledTargetWriter
from kdlib.teachers.targets import TargetWriter
from kdlib.teachers.text import read_title_vectors
from kdlib.training.specs import StudentsSpec, TrainingRun
from tests.benchmarks.as_of import Cut, cut_at, what_follows
from tests.benchmarks.command_line import invocation_of, run_config_parser
from tests.benchmarks.one_worker import process_group, train_all
from tests.whole_nights import run as run_command

RESULTS = Path(__file__).parent / "results"
STAGES = ("simulate-events", "build-features", "train-text-encoder", "encode-titles")
"""What the nights are cut from."""
METRICS = {"ndcg@10": ndcg, "recall@10": hit_rate}
K, SAMPLES = 10, 2_000


@dataclass(frozen=True)
class Task:
    """A night to train and to judge."""

    config: RunConfig
    day: date
    days: int
    alone: bool
    histories: list[str]
    titles: dict[str, str]
    """Name of title vectors → their folder."""


class Night:
    """The models of one night, below a folder."""

    def __init__(self, task: Task, cut: Cut, folder: Path) -> None:
        self._task, self._config, self._folder, self._known = task, task.config, folder, cut.known
        self._file = str(folder / "histories.parquet")
        pq.write_table(cut.histories, self._file)
        self.counts = training_counts([self._file], lambda rows: rows, num_items=len(cut.known))
        statistics = {"item_index": np.arange(len(cut.known)), "num_train": self.counts[0]}
        pq.write_table(
            pa.table(statistics | {"num_in_windows": self.counts[1]}), self._made("statistics") / "part.parquet"
        )
        length = self._config.training.max_length
        self.windows = training_windows(cut.histories, max_length=length)
        self.whole = training_windows(whole_histories(cut.histories), max_length=length)
        self.seconds: dict[str, float] = {}

    def students(self) -> tuple[Path, Path]:
        """The folders of the judged student and of the refitted one."""
        config, taught = self._config, not self._task.alone
        cached, targets, whole = [], self.windows, self.whole
        if taught:
            started = time.monotonic()
            folders = [self._teacher(teacher) for teacher in config.teachers]
            weights = self._weights(folders)
            cached = list(zip(map(str, folders), weights, strict=True))
            targets = self._targets(folders, weights)(self.windows)
            self.seconds["teachers"] = time.monotonic() - started
        judged = self._student("student", cached, taught)
        self._train(judged, targets, taught=taught)
        refit = as_judged(
            self._student("refit", cached, taught), json.loads((Path(judged.export) / MODEL_FILE).read_text())
        )
        started = time.monotonic()
        if taught:
            whole = self._targets([self._recounted(teacher) for teacher in config.teachers], weights)(self.whole)
        self._train(refit, whole, taught=taught, whole=True)
        self.seconds["refit"] = time.monotonic() - started
        return Path(judged.export), Path(refit.export)

    def _student(self, name: str, cached: list[tuple[str, float]], taught: bool) -> TrainingRun:
        return student_run(
            self._config,
            name,
            self._made(name),
            seed=self._config.seed,
            statistics=self._folder / "statistics",
            taught=taught,
            cached=cached,
            titles=self._titles(self._config.student.text),
        )

    def _teacher(self, teacher: TeacherConfig) -> Path:
        config, made = self._config, self._made(f"teacher_{teacher.name}")
        if teacher.rules:
            count_and_save(
                teacher.rules.model_dump(),
                [self._file],
                self.counts[0],
                str(made),
                {},
                max_length=config.training.max_length,
                max_validation_users=config.training.max_validation_users,
                event_weights=config.objective.event_weights,
            )
            return made
        titles = self._titles(teacher.text)
        run = TrainingRun(
            name=teacher.name,
            export=str(made),
            model=teacher.model,
            train=config.training.resolve(teacher.train),
            seed=config.seed if teacher.seed is None else teacher.seed,
            title_vectors=None if titles is None else str(titles),
            statistics=str(self._folder / "statistics"),
            event_weights=config.objective.event_weights,
        )
        self._train(run, self.windows, taught=False)
        return made

    def _recounted(self, teacher: TeacherConfig) -> Path:
        if not teacher.rules:
            return self._folder / f"teacher_{teacher.name}"
        made = self._folder / f"recounted_{teacher.name}"
        options = {"num_items": len(self._known), "max_length": self._config.training.max_length}
        recount_and_save(teacher.rules.model_dump(), [self._file], str(made), {}, **options)
        return made

    def _weights(self, folders: list[Path]) -> list[float]:
        config = self._config
        if config.distillation.weights == "given":
            return [teacher.weight for teacher in config.teachers]
        most = config.training.max_validation_users
        histories = read_evaluation_histories([self._file], position_column="validation_position", max_users=most)
        named = [[str(folder)] for folder in folders]
        return choose_weights(named, histories, threads=1, event_weights=config.objective.event_weights).tolist()

    def _targets(self, folders: list[Path], weights: list[float]) -> Any:
        how = self._config.distillation
        if how.targets == "hidden":
            return TargetWriter([str(folder) for folder in folders], 1)
        named, more = [[str(folder)] for folder in folders], {"samples": how.samples, "seed": self._config.seed}
        return SampledTargetWriter(named, weights, temperature=how.temperature, threads=1, **more)

    def _titles(self, text: TextConfig | None) -> Path | None:
        """The folder of the known items' title vectors."""
        if text is None:
            return None
        name = title_vectors(text)
        folder = self._folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            vectors = read_title_vectors(Path(self._task.titles[name]))[self._known]
            rows = {"item_index": np.arange(len(vectors)), "vector": list(vectors)}
            pq.write_table(pa.table(rows), folder / "part.parquet")
        return folder

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _train(self, run: TrainingRun, windows: pa.Table, *, taught: bool, whole: bool = False) -> None:
        started, config, states = time.monotonic(), self._config, 0
        if taught:
            states = 1 if config.distillation.targets == "sampled" else len(config.teachers)
        spec = StudentsSpec((run,), states, [self._file], len(self._known), {}, whole=whole)
        train_all(spec, config.training, windows, label=f"{self._task.day} ")
        self.seconds[run.name] = time.monotonic() - started


def train_night(task: Task) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Train and judge a night: its figures, the users of the targets, and the targets' ranks under both students."""
    started = time.monotonic()
    histories = pa.concat_tables([pq.read_table(file, schema=tables.HISTORIES.schema) for file in task.histories])
    cut = cut_at(histories, task.day, task.config.features.split)
    rows, unknown = what_follows(histories, cut, task.day, task.days)
    with tempfile.TemporaryDirectory() as name, process_group(Path(name)):
        night = Night(task, cut, Path(name))
        models = dict(zip(("student", "refit"), night.students(), strict=True))
        ranks = {
            name: ranks_of_models([load_model(folder)[0].eval()], [1.0], rows, device=torch.device("cpu")).ranks
            for name, folder in models.items()
        }
        facts = {name: json.loads((folder / MODEL_FILE).read_text()) for name, folder in models.items()}
    told = {
        "ds": task.day.isoformat(),
        "users": len(cut.histories),
        "items": len(cut.known),
        "epochs": facts["refit"]["validation"]["epoch"],
        "positions": {name: int(one["epochs"][0]["positions"]) for name, one in facts.items()},
        "targets": len(rows),
        "events_of_unknown_items": unknown,
        "seconds": {name: round(spent, 1) for name, spent in night.seconds.items()}
        | {"in_all": round(time.monotonic() - started, 1)},
        **{name: _of_both({model: of(one, K).mean() for model, one in ranks.items()}) for name, of in METRICS.items()},
    }
    say(json.dumps(told))
    return told, rows.user_ids, ranks


def _of_both(means: dict[str, float]) -> dict[str, float]:
    figures = {name: round(float(value), 5) for name, value in means.items()}
    return figures | {"gain": round(float(means["refit"] - means["student"]), 5)}


def totals(users: np.ndarray, ranks: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over the targets of all nights, with the gain's 95% interval. A resample draws users with all their targets.

    Args:
      users: user of each target.
      ranks: `student` and `refit` → rank of each target.
    """
    names, owners = np.unique(users, return_inverse=True)
    result: dict[str, Any] = {"users": len(names), "targets": len(users)}
    for metric, of in METRICS.items():
        values = {name: of(one, K) for name, one in ranks.items()}
        flat = {name: np.bincount(owners, one)[None] for name, one in values.items()}
        worlds = nested_bootstrap_means(flat | {"targets": np.bincount(owners)[None]}, samples=SAMPLES, seed=1)
        low, high = percentile_interval((worlds["refit"] - worlds["student"]) / worlds["targets"])
        means = _of_both({name: one.mean() for name, one in values.items()})
        result[metric] = means | {"gain_interval": [round(low, 5), round(high, 5)]}
    return result


def run(config: RunConfig, *, days: int, nights: int, alone: bool, command: str) -> None:
    """Train all nights, print and write the results."""
    student, split, mode = config.student, config.features.split.kind, config.distillation.mode
    unfit = [one.name for one in config.teachers if one.function or one.folds > 1 or one.features]
    if split != "time" or mode == "joint" or student.model.codes or student.features or unfit:
        raise ConfigError(
            "this benchmark needs features.split.kind time, distillation.mode offline, a student without codes and features,"
            f" and teachers without function, folds and features. Found in {config.name}: split {split}, mode {mode}, codes"
            f" {student.model.codes}, features {list(student.features)}, and the teachers {unfit}"
        )
    texts = [one.text for one in (*config.teachers, config.student) if one.text]
    named = published(config, *dict.fromkeys(map(title_vectors, texts)))
    tasks = [
        Task(
            config,
            config.last_day - timedelta(days=days * (nights - number)),
            days,
            alone,
            parquet_files(features(config).histories),
            {name: str(one.folder) for name, one in named.items()},
        )
        for number in range(nights)
    ]
    # a process for each night, because DeepSpeed keeps the process group of the first training
    workers = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), **workers) as pool:
        found = list(pool.map(train_night, tasks))
    users = np.concatenate([of_night for _, of_night, _ in found])
    ranks = {name: np.concatenate([one[name] for _, _, one in found]) for name in ("student", "refit")}
    results = {
        "command": command,
        "seeds": [config.seed],
        "period_days": days,
        "hardware": hardware(config),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "totals": totals(users, ranks),
        "nights": [told for told, _, _ in found],
    }
    say(json.dumps(results["totals"], indent=1))
    name = f"refit_{config.name}{'_alone' if alone else ''}.json"
    (RESULTS / name).write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    in_utf8(None)
    parser = run_config_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder for the features")
    parser.add_argument("--alone", action="store_true", help="train the student without teachers")
    parser.add_argument("--period-days", type=int, default=1, metavar="DAYS", help="days between nights (default: 1)")
    parser.add_argument("--nights", type=int, default=10, metavar="NUMBER", help="how many nights (default: 10)")
    arguments = parser.parse_args()
    arguments.set.append(f"output_dir={arguments.folder.absolute()}")
    invocation = invocation_of(arguments)
    for stage in STAGES:
        say(run_command(Path(arguments.config), *invocation.words()[2:], command=stage).rstrip())
    words = ["FOLDER" if word == str(arguments.folder) else word for word in sys.argv[1:]]
    options = {"days": arguments.period_days, "nights": arguments.nights, "alone": arguments.alone}
    command = f"python -m tests.benchmarks.refit {' '.join(words)}"
    return execute("refit", invocation, lambda config: run(config, command=command, **options), reads_only=True)


if __name__ == "__main__":
    sys.exit(main())
