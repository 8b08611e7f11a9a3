"""Rank each test target under every model of a benchmark's published selection."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.selection import read_selection
from jobs.pipeline import STAGES
from jobs.runtime.names import FEATURES
from jobs.runtime.oracle import BEST, knows_the_truth, truth_of
from jobs.runtime.published import features_of
from jobs.runtime.rank_targets import histories_to_test, rank_targets, rows_to_test
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Details, Job, Part, Stage
from kdlib.config.benchmark import Benchmark
from kdlib.data.windows import list_matrix
from kdlib.inference.speed import users_per_second
from kdlib.metrics.comparison import TEACHER, K
from kdlib.metrics.expected import PREFIX, expected_metrics
from kdlib.models.files import serves
from kdlib.store.partitions import Manifest

EXPECTED = {f"{PREFIX}ndcg@{K}": "expected_ndcg", f"{PREFIX}hr@{K}": "expected_hr"}
"""Metric → prefix of its columns in the table of ranks."""


def rank_selected(benchmark: Benchmark) -> Manifest:
    """Publish `benchmark_ranks/<name>`: each test target's rank under every model of the published selection."""
    name = benchmark.config.name
    table, needs = f"benchmark_ranks/{name}", (*FEATURES, f"benchmark_selection/{name}")
    values = {"speed_users": benchmark.config.speed_users}
    part = Part((table,), needs, ("evaluation.max_users", "recommend.k"), values, subject=benchmark)
    stage = Stage(
        "benchmark-ranks",
        "ray",
        "rank the test users' items under all selected models",
        parts=lambda config: [part],
        module="jobs.benchmark.ranks",
    )
    return run_stage(benchmark.run, stage, pipeline=STAGES)[table]


def build(job: Job) -> Details:
    """Write the ranks, and time the models."""
    benchmark, config, source = job.part.subject, job.config, features_of(job.inputs)
    [table] = job.outputs
    chosen = read_selection(config, benchmark.config.name)
    students = {label: entry["folder"] for label, entry in chosen["students"].items()}
    teachers = {f"teacher/{name}": entry["folder"] for name, entry in chosen["teachers"].items()}
    compared = {label: [(folder, 1.0)] for label, folder in (students | teachers).items()}
    compared[TEACHER] = [(entry["folder"], entry["weight"]) for entry in chosen["teachers"].values()]
    everyone = knows_the_truth(config)
    histories = histories_to_test(config, source, everyone=everyone)
    found = rank_targets(config, source, histories, compared, top=K if everyone else 0, everyone=everyone)
    rows = rows_to_test(config, histories, everyone=everyone)
    assert found["user_id"].to_pylist() == rows.user_ids.tolist(), "both are sorted by user"
    columns = {"user_id": found["user_id"], "target": rows.targets, "length": np.diff(rows.offsets)}
    columns |= {f"rank/{name}": found[f"rank/{name}"] for name in named(found, "rank/")}
    if everyone:
        lists = {name: list_matrix(found[f"top/{name}"], K) for name in named(found, "top/")}
        truth = truth_of(config, histories, source.item_ids(), rows, lists, top=K)
        columns[f"rank/{BEST}"] = truth.ranks
        for name, probabilities in truth.probabilities.items():
            expected = expected_metrics(probabilities, (K,))
            columns |= {f"{column}/{name}": expected[metric] for metric, column in EXPECTED.items()}
    pq.write_table(pa.table(columns), job.output / "part-00000.parquet")
    one_each = {entry["arm"]: entry["folder"] for entry in reversed(chosen["students"].values())} | {
        name: folder for name, folder in teachers.items() if serves(Path(folder))
    }
    speed = users_per_second(one_each, rows, users=benchmark.config.speed_users, k=config.recommend.k)
    judged = int((rows.targets >= 0).sum())
    return {table: {"users": judged, "repeats_left_out": rows.repeats, "users_per_second": speed}}


def named(found: pa.Table, prefix: str) -> list[str]:
    """The models of the columns that begin with a prefix."""
    return [name.removeprefix(prefix) for name in found.column_names if name.startswith(prefix)]
