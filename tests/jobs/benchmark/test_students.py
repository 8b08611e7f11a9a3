"""Which students are trained, together and by whom, without a cluster."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.benchmark import students
from jobs.benchmark.students import students_of, train_students
from jobs.runtime import ray_train
from jobs.runtime.published import Features
from jobs.runtime.ray_train import TrainingRun
from kdlib.config.benchmark import load_benchmark
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions, tables
from tests.jobs.benchmark.test_benchmark import _write
from tests.jobs.test_nightly import DS

ARMS: dict[str, Any] = {
    "student_plain": {"teacher": "none"},
    "student": {},
    "permuted": {"teacher": "permuted", "seeds": [1]},
    "self": {"teacher": "self", "seeds": [2]},
}


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[TrainingRun]]:
    """What `fit` was called with; in its place models with random weights are written."""
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
        pq.write_table(tables.TEACHER_TARGETS.schema.empty_table(), arguments[-1] / "part.parquet")

    monkeypatch.setattr(ray_train, "fit", fit)
    monkeypatch.setattr(students, "write_targets", write_targets)
    monkeypatch.setattr(students, "teacher_folders", lambda *_: [[Path("first")], [Path("second")]])
    monkeypatch.setattr(students, "teacher_weights", lambda config: [teacher.weight for teacher in config.teachers])
    monkeypatch.setattr(tables, "check_files", lambda *_: 0)
    return called


def _train(folder: Path, **changes: Any) -> Path:
    """Train a benchmark's arms over stand-ins for everything published before; returns the root of the outputs."""
    benchmark = load_benchmark(_write(folder, arms=ARMS | changes))
    root = benchmark.run.root
    for name in ("teacher_targets", "models/first", "models/second", "item_statistics"):
        if partitions.read_manifest(root, name, DS) is None:
            staging = partitions.new_staging(root, name, DS)
            pq.write_table(pa.table({"item_index": [0], "item_id": ["a"]}), staging / "part-00000.parquet")
            partitions.publish(staging, root, name, DS, fingerprint="x")
    here = partitions.current(root, "item_statistics", DS)
    source = Features(here, here, here, {"histories": "1", "item_vocabulary": "1", "item_statistics": "1"})
    train_students(benchmark.run, source, students_of(benchmark.arms().values()))
    return root


def test_arms_train_together_and_the_self_taught_after_their_teacher(
    tmp_path: Path, fits: list[list[TrainingRun]]
) -> None:
    """One fit holds every arm that needs no other's model; a self-taught one follows, with the plain model as teacher."""
    root = _train(tmp_path)
    first, second = ({run.name: run for run in runs} for runs in fits)
    assert first.keys() == {"student_plain_s1", "student_plain_s2", "student_s1", "student_s2", "permuted_s1"}
    assert second.keys() == {"self_s2"}
    assert second["self_s2"].cached == [(str(partitions.current(root, "models/bench_student_plain_s2", DS)), 1.0)]
    assert [folder for folder, _ in first["student_s1"].cached] == ["first", "second"]
    assert (first["student_plain_s1"].cached, first["student_plain_s1"].kl_weight) == ([], 0.0)
    assert {name: run.stand_in for name, run in first.items() if run.stand_in} == {"permuted_s1": "permuted"}
    assert first["permuted_s1"].cached == first["student_s1"].cached
    assert first["permuted_s1"].kl_weight == first["student_s1"].kl_weight > 0


def test_what_is_up_to_date_is_not_trained_again(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """The same again trains nothing; a new arm or seed trains alone; new settings train that arm alone."""
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
    """The error reaches the caller, no model of the group is published and no staging folder is left."""
    with pytest.raises(RuntimeError, match="worker died"):
        _train(tmp_path, broken={})
    root = tmp_path / "output"
    assert partitions.read_manifest(root, "models/bench_student_s1", DS) is None
    assert list((root / partitions.STAGING).iterdir()) == []


def test_a_control_without_states_leaves_the_hidden_match_out(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """Where uniform or popularity stand in for the teachers there is no hidden state to match, whatever the settings."""
    match = {"distillation": {"hidden_weight": 0.5}}
    _train(tmp_path, student=match, uniform=match | {"teacher": "uniform"}, shares=match | {"teacher": "popularity"})
    weights = {run.name: run.hidden_weight for run in fits[0]}
    assert (weights["student_s1"], weights["uniform_s1"], weights["shares_s1"]) == (0.5, 0.0, 0.0)


def test_a_control_does_not_start_from_the_teachers(tmp_path: Path, fits: list[list[TrainingRun]]) -> None:
    """What stands in for the teachers' knowledge is to show its worth, so that the item table starts from nothing."""
    start = {"distillation": {"item_start": "teachers"}}
    _train(tmp_path, student=start, student_plain={"teacher": "none"} | start, permuted=start | {"teacher": "permuted"})
    starts = {run.name: run.item_start for run in fits[0]}
    assert (starts["student_s1"], starts["permuted_s1"], starts["student_plain_s1"]) == ("teachers", "random", "random")
