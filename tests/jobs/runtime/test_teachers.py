"""Published teachers as the jobs find them: folds, shares, and cached targets of the right form."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from jobs import train_teacher
from jobs.runtime import ray_train
from jobs.runtime.published import target_settings, teacher_weights, versions
from jobs.runtime.ray_train import TrainingRun, _states_a_position
from jobs.runtime.teachers import ensemble, teacher_folders
from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, InputError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions

DS = "2024-05-01"


def _config(folder: Path, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "small",
            "ds": DS,
            "output_dir": str(folder),
            "input": {"simulate": {}},
            "teachers": [{"name": "plain"}, {"name": "crossed", "folds": 2}],
            "distillation": {"targets": "sampled"},
        }
        | changes
    )


def _publish(config: RunConfig, name: str, **facts: Any) -> None:
    staging = partitions.new_staging(config.root, name, DS)
    model = SequenceModel(num_items=3, kind="gru", dim=4)
    own = {"vocabulary_hash": "mine", "vocabulary_items": 3, "vocabulary_version": "1"}
    save_model(staging, model, model.state_dict(), own | facts)
    partitions.publish(staging, config.root, name, DS, fingerprint="x")


def test_a_cross_fitted_teacher_has_a_folder_a_fold_and_shares_its_weight(tmp_path: Path) -> None:
    """Its models stand in the folds' order; in an ensemble each has an equal part of its weight."""
    config = _config(tmp_path)
    _publish(config, "models/plain")
    for fold in range(2):
        _publish(config, f"models/crossed_fold{fold}", fold=fold, folds=2)
    folders = teacher_folders(config, "mine")
    names = [["models/plain"], ["models/crossed_fold0", "models/crossed_fold1"]]
    assert folders == [[partitions.current(config.root, name, DS) for name in of_teacher] for of_teacher in names]
    members = ensemble(folders, [0.4, 0.6])
    assert [weight for _, weight in members] == [0.4, 0.3, 0.3]
    assert [folder for folder, _ in members] == [str(folder) for of_teacher in folders for folder in of_teacher]


def test_a_model_of_other_folds_is_refused(tmp_path: Path) -> None:
    """A model that saw the users it would teach, for it was trained with other folds, is an error that says so."""
    config = _config(tmp_path)
    _publish(config, "models/plain")
    for fold in range(2):
        _publish(config, f"models/crossed_fold{fold}", fold=fold, folds=3)
    with pytest.raises(ModelError, match="without fold 0 of 2, found fold 0 of 3: run `distilrec train-teacher`"):
        teacher_folders(config, "mine")


def test_targets_of_another_form_are_refused(tmp_path: Path) -> None:
    """Draws at another temperature, or hidden states, are not what the loss would take them for."""
    config = _config(tmp_path)
    staging = partitions.new_staging(config.root, "teacher_targets", DS)
    details = {"teachers": {"plain": 0.25, "crossed": 0.75}, "settings": target_settings(config)}
    partitions.publish(staging, config.root, "teacher_targets", DS, fingerprint="x", details=details)
    assert teacher_weights(config) == [0.25, 0.75]
    for change in ({"temperature": 3.0}, {"samples": 32}):
        with pytest.raises(ConfigError, match=r"config asks for .*run `distilrec cache-teacher`"):
            teacher_weights(_config(tmp_path, distillation={"targets": "sampled"} | change))


def test_draws_are_one_state_a_position() -> None:
    """The worker reads one number a position with sampled targets, and one a teacher with hidden states."""
    run: dict[str, Any] = {"export": "", "model": ModelConfig(), "train": TrainConfig(), "seed": 1, "statistics": ""}
    teachers = [("a", 0.5), ("b", 0.5)]
    assert _states_a_position([TrainingRun(name="control", **run), TrainingRun(name="s", cached=teachers, **run)]) == 2
    assert _states_a_position([TrainingRun(name="s", cached=teachers, targets="sampled", **run)]) == 1
    assert _states_a_position([TrainingRun(name="control", **run)]) == 0


def test_each_fold_is_trained_without_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers without folds train together on all users; each model of a cross-fitted one by itself, without its fold."""
    fitted: list[tuple[list[str], Any]] = []

    def fit(config: RunConfig, stage: str, runs: list[TrainingRun], **options: Any) -> None:
        fitted.append(([run.name for run in runs], options["without_fold"]))
        for run in runs:
            Path(run.export, "model.json").write_text("{}")

    table = pa.table({"item_index": [0], "item_id": ["a"]})
    source = SimpleNamespace(
        histories=tmp_path,
        statistics=tmp_path,
        vocabulary=table,
        versions={},
        vocabulary_facts=lambda: {},
        item_ids=list,
    )
    monkeypatch.setattr(ray_train, "fit", fit)
    monkeypatch.setattr(train_teacher, "features", lambda config: source)
    monkeypatch.setattr(train_teacher, "describe_models", lambda config, names: "")
    monkeypatch.setattr(train_teacher, "start_ray", lambda config: nullcontext())
    teachers = [{"name": "crossed", "folds": 2}, {"name": "plain"}, {"name": "second"}]
    config = _config(tmp_path, teachers=teachers)
    made = train_teacher.run(config)
    assert fitted == [(["plain", "second"], None), (["crossed_fold0"], (0, 2)), (["crossed_fold1"], (1, 2))]
    assert set(made) == {"models/plain", "models/second", "models/crossed_fold0", "models/crossed_fold1"}
    fitted.clear()
    train_teacher.run(config)
    assert not fitted, "all up to date"
    train_teacher.run(_config(tmp_path, teachers=[{"name": "added"}, *teachers[1:], {"name": "crossed", "folds": 3}]))
    assert [names for names, _ in fitted] == [["added"], *([f"crossed_fold{fold}"] for fold in range(3))]
    fitted.clear()
    teachers[2]["weight"] = 3.0
    train_teacher.run(_config(tmp_path, teachers=teachers[1:]))
    assert not fitted, "a share in the mixture is no reason to train"


def test_targets_of_earlier_models_are_refused(tmp_path: Path) -> None:
    """Old hidden states under a new head would be nobody's knowledge: the message says what to run."""
    config = _config(tmp_path)
    _publish(config, "models/plain")
    for fold in range(2):
        _publish(config, f"models/crossed_fold{fold}", fold=fold, folds=2)
    names = ["models/plain", "models/crossed_fold0", "models/crossed_fold1"]
    staging = partitions.new_staging(config.root, "teacher_targets", DS)
    details = {"teachers": {"plain": 0.5, "crossed": 0.5}, "settings": target_settings(config)}
    inputs = versions(config, *names)
    partitions.publish(staging, config.root, "teacher_targets", DS, fingerprint="x", details=details, inputs=inputs)
    assert teacher_weights(config) == [0.5, 0.5]
    _publish(config, "models/crossed_fold1", fold=1, folds=2, seed=2)
    with pytest.raises(InputError, match=r"made from models/crossed_fold1 .*run `distilrec cache-teacher` first"):
        teacher_weights(config)
