"""One whole small benchmark through the command line."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kdlib.store import partitions
from tests.jobs.benchmark.test_benchmark import RUN, write_benchmark
from tests.jobs.conftest import DS
from tests.whole_nights import run


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_whole_benchmark_and_again(night_to_change: tuple[Path, Path, str], tmp_path: Path) -> None:
    """One command trains teachers and arms, writes the record, measures and writes results, on the features of a run. The same
    command again trains nothing and gives the same figures."""
    _, root, _ = night_to_change
    path = write_benchmark(
        tmp_path,
        run={
            "output_dir": str(root),
            "training": RUN["training"] | {"workers": 1},
            "teachers": [*RUN["teachers"], {"name": "rules", "rules": {"history_decay": 0.8}}],
            "distillation": {"targets": "sampled", "temperature": 1.0, "samples": 16, "weights": "validation_ndcg"},
        },
        tuning={"trials": 2, "arms": ["student_plain"], "space": {"student.train.learning_rate": [0.003, 0.01]}},
        speed_users=50,
    )
    printed = run(path, command="benchmark")
    results = json.loads((tmp_path / "results.json").read_text())
    figures, intervals = results["figures"], results["intervals"]
    for name in ("student", "student_plain", "permuted", "teacher_single", "teacher_ensemble", "markov", "popularity"):
        low, high = intervals[f"{name}_ndcg10"]
        assert 0 <= low <= figures[f"{name}_ndcg10"] <= high <= 1
        assert figures[f"{name}_ndcg10"] <= figures[f"{name}_hr10"]
    assert figures["student_minus_student_plain_ndcg10"] == pytest.approx(
        figures["student_ndcg10"] - figures["student_plain_ndcg10"], abs=2e-5
    )
    assert sorted(results["per_seed"]) == [
        "permuted_s1",
        "student_plain_s1",
        "student_plain_s2",
        "student_s1",
        "student_s2",
    ]
    assert figures["student_ndcg10"] == pytest.approx(
        sum(results["per_seed"][f"student_s{seed}"]["ndcg10"] for seed in (1, 2)) / 2, abs=2e-5
    )
    validated = {name: teacher["validation"]["ndcg@10"] for name, teacher in results["teachers"].items()}
    learnt = (validated["first"] + validated["second"]) / 2
    best = ["rules"] if validated["rules"] > learnt else ["first", "second"]
    assert results["selection"]["best_teacher_kind"] == best
    assert sum(teacher["weight"] for teacher in results["teachers"].values()) == pytest.approx(1.0)
    assert results["teachers"]["rules"]["users_per_second"] is None
    assert results["teachers"]["rules"]["ndcg10"] > figures["popularity_ndcg10"]
    assert results["selection"]["tuning"]["chosen"].keys() == {"student_plain"}
    # the tuning's best trial is the student of its seed: it is not trained a second time
    published = {
        name
        for name in ("s1", "s2", "t0", "t1")
        if partitions.read_manifest(root, f"models/bench_student_plain_{name}", DS)
    }
    assert published == {"s2", "t0", "t1"}
    assert results["models"]["student"]["users_per_second"] > 0
    assert sum(part["users"] for part in results["buckets"]["history_length"].values()) == results["test_users"]
    assert re.search(r"student_plain +0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", printed), printed
    ranks = pq.read_table(partitions.current(root, "benchmark_ranks/tiny_quality", DS))
    assert ranks["rank/student_s1"] != ranks["rank/permuted_s1"]
    printed = run(path, command="benchmark")
    assert "epoch" not in printed, printed
    assert printed.count("up to date") >= 7, printed
    again = json.loads((tmp_path / "results.json").read_text())
    assert again == results
