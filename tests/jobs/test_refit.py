"""The stage `refit` without an engine: what it trains, from which targets, and which stages take its student."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import refit
from jobs.pipeline import STAGES, stage_named
from jobs.refit import as_judged
from jobs.runtime import runner, students
from jobs.runtime.names import FEATURES, judged_models, models_of, served_student
from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.config.run import RunConfig
from kdlib.config.settings import settings_of
from kdlib.errors import ModelError, TrainingError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions
from kdlib.training.specs import TrainingRun
from tests import stages

DS = "2024-05-01"
EPOCHS = [{"epoch": number, "learning_rate": 0.01 / number, "positions": 9.0} for number in (1, 2, 3)]
JUDGED = {"validation": {"epoch": 2}, "epochs": EPOCHS, "options": {"dim": 16, "hidden": 32}}


def config_for(folder: Path, *, again: bool = True, joint: bool = False, **changes: Any) -> RunConfig:
    document = {
        "name": "small",
        "ds": DS,
        "output_dir": str(folder),
        "input": {"simulate": {}},
        "teachers": [{"name": "teacher"}],
        "student": {"refit": again},
        "distillation": {"mode": "joint" if joint else "offline"},
    }
    return RunConfig.model_validate(document | changes)


def test_it_lasts_as_long_as_the_judged_training() -> None:
    """The refit has the epochs up to the judged student's best one, their learning rates, and its width."""
    model = ModelConfig(kind="gru", dim=64, hidden=128, dropout=0.3)
    run = TrainingRun("refit", "x", model, TrainConfig(epochs=9, batch_size=8), seed=1, statistics="y")
    found = as_judged(run, JUDGED)
    assert (found.train.epochs, found.learning_rates) == (2, (0.01, 0.005))
    assert found.model == ModelConfig(kind="gru", dim=16, hidden=32, dropout=0.3)
    assert found.train.batch_size == 8


def test_a_judged_student_without_learning_rates_is_refused() -> None:
    """A student that an earlier version trained cannot be repeated. The error says what to run."""
    run = TrainingRun("refit", "x", ModelConfig(), TrainConfig(), seed=1, statistics="y")
    with pytest.raises(ModelError, match=r"does not say at which learning rates.* Run `distilrec distill` first"):
        as_judged(run, JUDGED | {"epochs": [{"epoch": 1}, {"epoch": 2}]})


def test_what_a_refit_changes() -> None:
    """The setting makes nothing stale that was made and judged before. Lists come from the new student."""

    def parts_with(*, again: bool) -> dict[str, Any]:
        config = config_for(Path("o"), again=again, recommend={"lists": {"similar_items": 3, "buy_again": 3}})
        found = [part for stage in STAGES if stage.when(config) for part in stage.parts_of(config)]
        return {
            name: (part.needs, settings_of(config, part.settings), part.values) for part in found for name in part.makes
        }

    plain, refitted = parts_with(again=False), parts_with(again=True)
    changed = {name for name in refitted if plain.get(name) != refitted[name]}
    assert changed == {"models/refit", "recommendations", "similar_items", "reports"}
    for name in ("recommendations", "similar_items"):
        assert "models/refit" in refitted[name][0]
        assert "models/student" not in refitted[name][0]
    config = config_for(Path("o"))
    assert served_student(config) == "models/refit"
    assert [name for name in models_of(config) if name not in judged_models(config)] == ["models/refit"]
    assert "models/refit" in stage_named("promote").parts_of(config)[0].needs
    assert "models/refit" not in stage_named("evaluate").parts_of(config)[0].needs


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainingRun, dict[str, Any]]]:
    """What the stage trains, in place of Ray."""
    calls: list[tuple[TrainingRun, dict[str, Any]]] = []

    def fit(config: RunConfig, stage: str, runs: list[TrainingRun], **options: Any) -> None:
        calls.append((runs[0], options))
        if len(calls) == 1:
            raise TrainingError("killed")
        _save(Path(runs[0].export), **options["facts"])

    monkeypatch.setattr(refit, "fit", fit)
    monkeypatch.setattr(runner, "start_ray", lambda config: nullcontext())
    return calls


def _save(folder: Path, **facts: Any) -> None:
    model = SequenceModel(num_items=1, kind="gru", dim=16, hidden=32)
    own = {"vocabulary_hash": "mine", "vocabulary_items": 1, "vocabulary_version": "1"}
    save_model(
        folder, model, model.state_dict(), own | {name: JUDGED[name] for name in ("validation", "epochs")} | facts
    )


def _publish(config: RunConfig, *, joint: bool = False) -> None:
    """The features, and the models and targets that the stage reads."""
    details = {"teachers": {"teacher": 1.0}}
    for name in (*FEATURES, "models/teacher", "teacher_targets", "models/student"):
        staging = partitions.new_staging(config.root, name, DS)
        if name.startswith("models/"):
            _save(staging)
        else:
            pq.write_table(pa.table({"item_index": [0], "item_id": ["a"]}), staging / "part-00000.parquet")
        partitions.publish(staging, config.root, name, DS, fingerprint="x", details=details)


def test_a_killed_refit_keeps_its_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: list[tuple[TrainingRun, dict[str, Any]]]
) -> None:
    """The teachers make targets at all positions once; a second attempt finds them. Training starts where the judged one did."""
    config, written, started = config_for(tmp_path), list[Path](), list[str]()

    def write_targets(config: RunConfig, source: Any, folders: Any, weights: Any, target: Path, *, whole: bool) -> None:
        assert (folders, weights, whole) == (["recounted"], [1.0], True)
        pq.write_table(pa.table({"x": [1]}), target / "part.parquet")
        written.append(target)

    def earlier_model(config: RunConfig, name: str, *_: Any) -> None:
        started.append(name)

    monkeypatch.setattr(refit, "write_targets", write_targets)
    monkeypatch.setattr(refit, "recounted", lambda *_: ["recounted"])
    monkeypatch.setattr(students, "earlier_model", earlier_model)
    for module in (refit, students):
        monkeypatch.setattr(module, "teacher_folders", lambda *_: [[tmp_path / "t"]])
    _publish(config)
    with pytest.raises(TrainingError, match="killed"):
        stages.run("refit", config)
    made = stages.run("refit", config)
    assert set(made) == {"models/refit"}
    assert len(written) == 1
    assert set(started) == {"student"}, "no run starts from a model that has seen what it holds out"
    (first, before), (second, options) = fitted
    assert (first.learning_rates, first.cached) == (second.learning_rates, second.cached)
    assert second.cached == [(str(tmp_path / "t"), 1.0)]
    assert before["train_files"] == options["train_files"]
    assert [Path(file).name for file in options["train_files"]] == ["part.parquet"]
    assert (options["whole"], options["from_histories"]) == (True, False)
    judged = json.loads((partitions.current(config.root, "models/student", DS) / "model.json").read_text())
    facts = json.loads((partitions.current(config.root, "models/refit", DS) / "model.json").read_text())
    assert (facts["refit"], facts["judged"]) == (True, judged["version"])


def test_in_joint_mode_the_teacher_learns_along(
    tmp_path: Path, fitted: list[tuple[TrainingRun, dict[str, Any]]]
) -> None:
    """Teacher and student learn from the whole histories. The teacher is not published again."""
    config = config_for(tmp_path, joint=True)
    _publish(config)
    with pytest.raises(TrainingError, match="killed"):
        stages.run("refit", config)
    [(run, options)] = fitted
    assert (run.teacher, run.teacher_export) == (config.teachers[0].model, None)
    assert (options["whole"], options["from_histories"]) == (True, True)
    assert options["train_files"] == [
        str(partitions.current(config.root, "histories", DS) / name) for name in _files(config)
    ]


def _files(config: RunConfig) -> list[str]:
    return [file["path"] for file in partitions.manifest_of(config.root, "histories", DS).files]


def test_without_the_setting_the_stage_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stage says which setting asks for it."""
    assert stages.run("refit", config_for(tmp_path, again=False)) == {}
    assert "refit: skipped, the judged student makes the lists (student.refit is not set)" in capsys.readouterr().out
