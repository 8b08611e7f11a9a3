"""When a run's model starts from the last promoted model, and when it is trained from scratch."""

import shutil
from pathlib import Path

import pytest

from jobs import evaluate
from jobs.runtime.stage import Part
from jobs.runtime.warm_start import earlier_model, warm_training
from kdlib.config.features import SplitConfig
from kdlib.config.models import TrainConfig
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.models.files import save_model
from kdlib.models.sequence import SequenceModel
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.release import promotions
from kdlib.store import partitions

IDS = [f"i{number}" for number in range(6)]
SHAPE = {"kind": "gru", "dim": 8}


def config_for(root: Path, ds: str = "2026-11-22", **warm_start) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "small",
            "ds": ds,
            "output_dir": str(root),
            "input": {"simulate": {}},
            "student": {"model": SHAPE},
            "training": {"warm_start": warm_start},
        }
    )


def put_student(root: Path, ds: str, *, warm_nights: int = 0) -> str:
    staging, model = partitions.new_staging(root, "models/student", ds), SequenceModel(num_items=4, **SHAPE)
    split = SplitConfig().model_dump(mode="json")
    facts = {"vocabulary_hash": vocabulary_hash(IDS[:4]), "warm_nights": warm_nights, "split": split}
    save_model(staging, model, model.state_dict(), facts)
    return partitions.publish(staging, root, "models/student", ds, fingerprint="f").version


def put_promoted(root: Path, *, warm_nights: int = 0) -> str:
    versions = {"models/student": put_student(root, "2026-11-21", warm_nights=warm_nights)}
    for name in {*promotions.LINKED} - {"models/student"}:
        staging = partitions.new_staging(root, name, "2026-11-21")
        (staging / "x").touch()
        versions[name] = partitions.publish(staging, root, name, "2026-11-21", fingerprint="f").version
    promotions.promote(root, "2026-11-21", versions)
    return versions["models/student"]


def start_of(config: RunConfig, ids=IDS, name="student", folds=1, **changes):
    return earlier_model(config, name, config.student.model.model_dump(mode="json") | changes, lambda: ids, folds=folds)


def test_a_run_starts_from_the_promoted_model(tmp_path):
    """The start has the folder and version of the last promoted model, and counts one warm run more."""
    version = put_promoted(tmp_path, warm_nights=3)
    start = start_of(config_for(tmp_path))
    assert start is not None
    assert (start.version, start.warm_nights) == (f"2026-11-21.{version}", 4)
    assert (start.folder / "model.json").exists()


@pytest.mark.parametrize(
    "why",
    [
        "off",
        "first run",
        "no such model",
        "other shape",
        "other items",
        "codes",
        "time for a fresh one",
        "split",
        "folds",
    ],
)
def test_what_does_not_fit_is_trained_from_scratch(tmp_path, monkeypatch, why):
    """Each reason alone is enough for a training from scratch."""
    if why == "codes":  # the earlier model has codes too, so that no other reason applies
        monkeypatch.setitem(SHAPE, "codes", {"kind": "residual", "count": 2, "size": 4})
    config = config_for(tmp_path)
    if why == "off":
        config = config.model_copy(update={"training": config.training.model_copy(update={"warm_start": None})})
    if why != "first run":
        put_promoted(tmp_path, warm_nights=6 if why == "time for a fresh one" else 0)
    if why == "split":  # with another split, the earlier model may have seen the test items
        features = config.features.model_copy(update={"split": SplitConfig(kind="leave_one_out")})
        config = config.model_copy(update={"features": features})
    found = {
        "folds": lambda: start_of(config, folds=2),
        "no such model": lambda: start_of(config, name="control"),
        "other shape": lambda: start_of(config, dim=16),
        "other items": lambda: start_of(config, ids=IDS[::-1]),
    }.get(why, lambda: start_of(config))()
    assert found is None


@pytest.mark.parametrize("kept_back", [False, True])
def test_a_fresh_model_that_was_kept_back_is_not_tried_the_next_day_again(tmp_path, kept_back):
    """After a fresh model that was not promoted, runs start warm again until `fresh_every` further runs are over."""
    put_promoted(tmp_path, warm_nights=6)
    put_student(tmp_path, "2026-11-22", warm_nights=0 if kept_back else 7)
    start = start_of(config_for(tmp_path, "2026-11-23"))
    assert (start and start.warm_nights) == (7 if kept_back else None)
    assert start_of(config_for(tmp_path, "2026-11-22")) is None  # its own date again: fresh as before


@pytest.mark.parametrize(("warm_nights", "fresh"), [(7, False), (12, False), (13, True)])
def test_the_next_fresh_model_comes_as_many_runs_later(tmp_path, warm_nights, fresh):
    """If gates kept the seventh run's fresh model back, the fourteenth run tries again."""
    put_promoted(tmp_path, warm_nights=warm_nights)
    assert (start_of(config_for(tmp_path)) is None) == fresh


@pytest.mark.parametrize("gone", ["a file", "all"])
def test_an_earlier_model_that_is_gone_is_said(tmp_path, gone):
    """Training and evaluation both refuse a damaged earlier model. They do not start without it."""
    version = put_promoted(tmp_path)
    folder = partitions.version_folder(tmp_path, "models/student", "2026-11-21", version)
    if gone == "all":
        shutil.rmtree(folder.parent)
    else:
        (folder / "model.json").unlink()
    said = "no usable manifest at" if gone == "all" else r"models/student of 2026-11-21.*model\.json is gone or cut off"
    for look in (start_of, lambda config: evaluate.find(config, Part(("metrics",)), {})):
        with pytest.raises(InputError, match=said):
            look(config_for(tmp_path))


def test_a_warm_model_learns_shorter_and_more_slowly(tmp_path):
    """Epochs and learning rate follow `warm_start`; a model from scratch keeps its own."""
    put_promoted(tmp_path)
    config = config_for(tmp_path, epochs=2, learning_rate_fraction=0.5)
    train = TrainConfig(epochs=8, learning_rate=0.01)
    assert warm_training(config, train, None) == train
    shorter = train.model_copy(update={"epochs": 2, "learning_rate": 0.005})
    assert warm_training(config, train, start_of(config)) == shorter
