"""Published teachers as the stages find them: folds, shares, and cached targets of the right form."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import distill, train_teacher
from jobs.pipeline import stage_named
from jobs.runtime import runner, students
from jobs.runtime.names import FEATURES, teacher_models
from jobs.runtime.published import published, versions
from jobs.runtime.runner import made_by
from jobs.runtime.teachers import ensemble, teacher_folders, teacher_weights
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, ModelError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions
from kdlib.training.specs import TrainingRun
from tests import stages

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


def _save(folder: Path, **facts: Any) -> None:
    model = SequenceModel(num_items=3, kind="gru", dim=4)
    own = {"vocabulary_hash": "mine", "vocabulary_items": 3, "vocabulary_version": "1"}
    own["validation"] = {"accuracy@1": 0.0, "recall@10": 0.0, "ndcg@10": 0.0}
    save_model(folder, model, model.state_dict(), own | facts)


def _publish(config: RunConfig, name: str, **facts: Any) -> None:
    staging = partitions.new_staging(config.root, name, DS)
    _save(staging, **facts)
    partitions.publish(staging, config.root, name, DS, fingerprint="x")


def _publish_models(config: RunConfig, folds: int = 2) -> None:
    """Publish the models of both teachers."""
    _publish(config, "models/plain")
    for fold in range(2):
        _publish(config, f"models/crossed_fold{fold}", fold=fold, folds=folds)


def _publish_features(config: RunConfig) -> None:
    for name in FEATURES:
        staging = partitions.new_staging(config.root, name, DS)
        pq.write_table(pa.table({"item_index": [0], "item_id": ["a"]}), staging / "part-00000.parquet")
        partitions.publish(staging, config.root, name, DS, fingerprint="x")


def _publish_targets(config: RunConfig) -> None:
    """Publish cached targets as `cache-teacher` does with this config, from what is published now."""
    stage = stage_named("cache-teacher")
    [part] = stage.parts_of(config)
    staging = partitions.new_staging(config.root, "teacher_targets", DS)
    inputs = versions(config, *part.needs)
    details = {"teachers": {"plain": 0.25, "crossed": 0.75}}
    made = made_by(config, stage, part, inputs)
    partitions.publish(
        staging, config.root, "teacher_targets", DS, fingerprint="x", details=details, inputs=inputs, made_by=made
    )


def test_a_cross_fitted_teacher_has_a_folder_a_fold_and_shares_its_weight(tmp_path: Path) -> None:
    """The folders have the folds' order. In an ensemble each model has an equal part of the teacher's weight."""
    config = _config(tmp_path)
    _publish_models(config)
    folders = teacher_folders(config, published(config, *teacher_models(config)), "mine")
    names = [["models/plain"], ["models/crossed_fold0", "models/crossed_fold1"]]
    assert folders == [[partitions.current(config.root, name, DS) for name in of_teacher] for of_teacher in names]
    members = ensemble(folders, [0.4, 0.6])
    assert [weight for _, weight in members] == [0.4, 0.3, 0.3]
    assert [folder for folder, _ in members] == [str(folder) for of_teacher in folders for folder in of_teacher]


def test_a_model_of_other_folds_is_refused(tmp_path: Path) -> None:
    """A model of other folds has seen the users that it would teach. The error says so."""
    config = _config(tmp_path)
    _publish_models(config, folds=3)
    with pytest.raises(ModelError, match=r"without fold 0 of 2, found fold 0 of 3.*`distilrec train-teacher`"):
        teacher_folders(config, published(config, *teacher_models(config)), "mine")


def test_targets_of_another_form_are_refused(tmp_path: Path) -> None:
    """`distill` refuses targets that were sampled at another temperature or in another number."""
    config = _config(tmp_path)
    _publish_features(config)
    _publish_models(config)
    _publish_targets(config)
    assert teacher_weights(config, published(config, "teacher_targets")) == [0.25, 0.75]
    for change in ({"temperature": 3.0}, {"samples": 32}):
        [key] = change
        with pytest.raises(InputError, match=rf"teacher_targets .*distillation\.{key}.*`distilrec cache-teacher`"):
            stages.run("distill", _config(tmp_path, distillation={"targets": "sampled"} | change))


def test_hidden_states_fit_every_temperature(tmp_path: Path) -> None:
    """The settings of sampled targets are no part of what hidden states depend on. The form of the targets is."""
    stage = stage_named("cache-teacher")

    def settings(**distillation: Any) -> dict[str, Any]:
        config = _config(tmp_path, teachers=[{"name": "plain"}], distillation=distillation)
        [part] = stage.parts_of(config)
        return made_by(config, stage, part, {})["settings"]

    assert settings() == settings(temperature=3.0) == settings(samples=32)
    assert settings() != settings(targets="sampled") != settings(targets="sampled", temperature=3.0)


def test_targets_of_earlier_models_are_refused(tmp_path: Path) -> None:
    """Hidden states of an earlier model do not fit the head of a new one. The error says what to run."""
    config = _config(tmp_path)
    _publish_features(config)
    _publish_models(config)
    _publish_targets(config)
    _publish(config, "models/crossed_fold1", fold=1, folds=2, seed=2)
    with pytest.raises(InputError, match=r"made from models/crossed_fold1 .*`distilrec cache-teacher` first"):
        stages.run("distill", config)


def test_each_fold_is_trained_without_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers without folds train together on all users. Each model of a cross-fitted teacher trains alone, without its
    fold."""
    fitted: list[tuple[list[str], Any]] = []

    def fit(config: RunConfig, stage: str, runs: list[TrainingRun], **options: Any) -> None:
        fitted.append(([run.name for run in runs], options["without_fold"]))
        for run in runs:
            _save(Path(run.export))

    monkeypatch.setattr(train_teacher, "fit", fit)
    monkeypatch.setattr(runner, "start_ray", lambda config: nullcontext())
    teachers = [{"name": "crossed", "folds": 2}, {"name": "plain"}, {"name": "second"}]
    config = _config(tmp_path, teachers=teachers)
    _publish_features(config)
    made = stages.run("train-teacher", config)
    assert fitted == [(["plain", "second"], None), (["crossed_fold0"], (0, 2)), (["crossed_fold1"], (1, 2))]
    assert set(made) == {"models/plain", "models/second", "models/crossed_fold0", "models/crossed_fold1"}
    fitted.clear()
    stages.run("train-teacher", config)
    assert not fitted, "all up to date"
    more = [{"name": "added"}, *teachers[1:], {"name": "crossed", "folds": 3}]
    stages.run("train-teacher", _config(tmp_path, teachers=more))
    assert [names for names, _ in fitted] == [["added"], *([f"crossed_fold{fold}"] for fold in range(3))]
    fitted.clear()
    teachers[2]["weight"] = 3.0
    stages.run("train-teacher", _config(tmp_path, teachers=teachers[1:]))
    assert not fitted, "a share is no reason to train"


@pytest.mark.parametrize(
    ("share", "widths", "warned"), [(0.9, [8, 16, "control 16"], False), (1.0, [8, 16, 32, "control 32"], True)]
)
def test_the_narrowest_student_that_keeps_enough_is_published(
    share: float,
    widths: list[Any],
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`student.size: auto` trains rising widths until one keeps its share of the teachers' NDCG@10, else up to the widest. The
    control has the width of the student that is published."""
    reached, fitted = {8: 0.07, 16: 0.092, 32: 0.099}, list[Any]()

    def fit(config: RunConfig, stage: str, runs: list[TrainingRun], **options: Any) -> None:
        [run] = runs
        fitted.append(run.model.dim if run.name == "student" else f"control {run.model.dim}")
        scores = {"accuracy@1": 0.0, "recall@10": 0.0, "ndcg@10": reached[run.model.dim]}
        _save(Path(run.export), validation=scores)

    monkeypatch.setattr(distill, "fit", fit)
    monkeypatch.setattr(students, "teacher_folders", lambda config, inputs, expected_hash: [])
    monkeypatch.setattr(students, "ensemble", lambda folders, weights: [])
    monkeypatch.setattr(distill, "teachers_ndcg", lambda config, source, models: 0.1)
    monkeypatch.setattr(runner, "start_ray", lambda config: nullcontext())
    student = {"size": "auto", "size_share": share, "model": {"dim": 32, "hidden": 64}}
    config = _config(tmp_path, student=student)
    _publish_features(config)
    _publish_models(config)
    _publish_targets(config)
    made = stages.run("distill", config)
    assert fitted == widths
    assert set(made) == {"models/student", "models/control"}
    manifest = partitions.manifest_of(config.root, "models/student", DS)
    tried = [width for width in widths if isinstance(width, int)]
    assert manifest.details["sizes"] == {"teachers": 0.1} | {f"d{width}": reached[width] for width in tried}
    printed = capsys.readouterr()
    assert "student of width 16: 92% of the teachers' validation NDCG@10, 0.1000" in printed.out
    assert ("no student keeps 100%" in printed.out + printed.err) == warned
