"""Which students are trained, which of them together, and by which teachers. No cluster is started."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.benchmark import targets, training
from jobs.benchmark.students import students_of, train_students
from jobs.runtime import runner
from jobs.runtime.names import FEATURES
from jobs.runtime.published import features
from kdlib.config.benchmark import load_benchmark
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store import partitions, tables
from kdlib.training.specs import TrainingRun
from tests.jobs.benchmark.test_benchmark import write_benchmark
from tests.jobs.conftest import DS

ARMS: dict[str, Any] = {
    "student_plain": {"teacher": "none"},
    "student": {},
    "permuted": {"teacher": "permuted", "seeds": [1]},
    "self": {"teacher": "self", "seeds": [2]},
}


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[TrainingRun]]:
    """The runs of each call of `fit`. A stand-in for `fit` writes models with random weights."""
    called: list[list[TrainingRun]] = []

    def fit(config: Any, stage: str, runs: list[TrainingRun], *, train_files: list[str], **_: Any) -> None:
        called.append(runs)
        if "broken" in [run.name.split("_")[0] for run in runs]:
            raise RuntimeError("worker died")
        assert train_files
        for run in runs:
            torch.manual_seed(len(called) + run.seed)
            model = SequenceModel(num_items=5, kind="gru", dim=4)
            save_model(Path(run.export), model, model.state_dict(), {})

    def write_targets(*arguments: Any) -> None:
        row = {
            "user_id": "u",
            "start": 0,
            "items": [0, 0],
            "context": [0],
            "target_types": [0],
            "hidden": b"0",
            "scales": [1.0],
        }
        table = pa.Table.from_pylist([row], schema=tables.TEACHER_TARGETS.schema)
        pq.write_table(table, arguments[-1] / "part.parquet")

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(targets, "write_targets", write_targets)
    monkeypatch.setattr(runner, "start_ray", lambda _: nullcontext())
    return called


def _put(root: Path, name: str) -> None:
    """Publish a stand-in for an earlier stage's output, once."""
    if partitions.read_manifest(root, name, DS) is not None:
        return
    staging = partitions.new_staging(root, name, DS)
    details: dict[str, Any] = {}
    if name.startswith("models/"):
        model = SequenceModel(num_items=1, kind="gru", dim=4)
        facts = {"vocabulary_hash": vocabulary_hash(["a"]), "vocabulary_items": 1, "vocabulary_version": "1"}
        save_model(staging, model, model.state_dict(), facts)
    else:
        pq.write_table(pa.table({"item_index": [0], "item_id": ["a"]}), staging / "part-00000.parquet")
        details = {"teachers": {"first": 0.5, "second": 0.5}}
    partitions.publish(staging, root, name, DS, fingerprint="x", details=details)


def _train(folder: Path, **changes: Any) -> Path:
    """Train a benchmark's arms on stand-ins for the earlier stages' outputs. Returns the output folder."""
    benchmark = load_benchmark(write_benchmark(folder, arms=ARMS | changes))
    root = benchmark.run.root
    for name in (*FEATURES, "teacher_targets", "models/first", "models/second"):
        _put(root, name)
    train_students(benchmark.run, features(benchmark.run), students_of(benchmark.arms().values()))
    return root


def test_arms_train_together_and_the_self_taught_after_their_teacher(
    tmp_path: Path, fits: list[list[TrainingRun]]
) -> None:
    """One fit trains every arm that needs no other arm's model. The self-taught arm follows, with the plain model as teacher."""
    root = _train(tmp_path)
    first, second = ({run.name: run for run in runs} for runs in fits)
    assert first.keys() == {"student_plain_s1", "student_plain_s2", "student_s1", "student_s2", "permuted_s1"}
    assert second.keys() == {"self_s2"}
    assert second["self_s2"].cached == [(str(partitions.current(root, "models/bench_student_plain_s2", DS)), 1.0)]
    teachers = [str(partitions.current(root, f"models/{name}", DS)) for name in ("first", "second")]
    assert [folder for folder, _ in first["student_s1"].cached] == teachers
    assert (first["student_plain_s1"].cached, first["student_plain_s1"].kl_weight) == ([], 0.0)
    assert {name: run.stand_in for name, run in first.items() if run.stand_in} == {"permuted_s1": "permuted"}
    assert first["permuted_s1"].cached == first["student_s1"].cached
    assert first["permuted_s1"].kl_weight == first["student_s1"].kl_weight > 0


def test_what_is_up_to_date_is_not_trained_again(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """The same arms again train nothing. A new arm, seed or setting trains only the students that it concerns."""
    _train(tmp_path)
    del fits[:]
    _train(tmp_path)
    assert fits == []
    _train(
        tmp_path,
        more={"student": {"model": {"dim": 4}}, "seeds": [1]},
        permuted={"teacher": "permuted", "seeds": [1, 2]},
    )
    assert [sorted(run.name for run in runs) for runs in fits] == [["more_s1", "permuted_s2"]]
    _train(tmp_path, student={"distillation": {"temperature": 1.0}})
    assert sorted(run.name for run in fits[-1]) == ["student_s1", "student_s2"]


def test_a_failed_fit_leaves_nothing_half_published(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """The error reaches the caller. No model of the group is published and no staging folder is left."""
    with pytest.raises(RuntimeError, match="worker died"):
        _train(tmp_path, broken={})
    root = tmp_path / "output"
    assert partitions.read_manifest(root, "models/bench_student_s1", DS) is None
    assert list((root / partitions.STAGING).iterdir()) == []


def test_a_control_without_states_leaves_the_hidden_match_out(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """Uniform and popularity stand-ins have no hidden states, so their students do not match any, whatever the settings."""
    match = {"distillation": {"hidden_weight": 0.5}}
    _train(tmp_path, student=match, uniform=match | {"teacher": "uniform"}, shares=match | {"teacher": "popularity"})
    weights = {run.name: run.hidden_weight for run in fits[0]}
    assert (weights["student_s1"], weights["uniform_s1"], weights["shares_s1"]) == (0.5, 0.0, 0.0)


def test_a_control_does_not_start_from_the_teachers(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """A control measures what the teachers' knowledge is worth, so its item table starts at random."""
    start = {"distillation": {"item_start": "teachers"}}
    _train(tmp_path, student=start, student_plain={"teacher": "none"} | start, permuted=start | {"teacher": "permuted"})
    starts = {run.name: run.item_start for run in fits[0]}
    assert (starts["student_s1"], starts["permuted_s1"], starts["student_plain_s1"]) == ("teachers", "random", "random")
