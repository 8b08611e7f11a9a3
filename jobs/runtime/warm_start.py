"""Which earlier model a run's model starts from, with `training.warm_start`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kdlib.config.models import TrainConfig
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.models.files import MODEL_FILE
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.models.warm import shape_of
from kdlib.release import promotions
from kdlib.release.promotions import Promotion
from kdlib.store import partitions


class Start(NamedTuple):
    """A model of the last promoted run."""

    folder: Path
    version: str
    """`<date>.<version>`."""
    warm_nights: int
    """How many runs in a row have started from an earlier model, this run included."""


def earlier_model(
    config: RunConfig, name: str, model: dict[str, Any], item_ids: Callable[[], list[str]], *, folds: int = 1
) -> Start | None:
    """The earlier model that `models/<name>` starts from; None where it is trained from scratch.

    A refitted student is never a start: it has seen the interactions that the next run may hold out.

    A model is trained from scratch:
    - without `training.warm_start`, on a first run, and every `fresh_every` runs. If gates keep that model back, or a
      rollback withdraws it, the next one comes `fresh_every` runs later: most likely it would be kept back, too.
    - if its settings or the first items of the vocabulary have changed
    - if the split or the folds have changed, because the earlier model may have seen what is held out now
    - if it is a student with codes, which starts from its teachers' item vectors anyway

    Args:
      config: the run config.
      name: of the model, `student`.
      model: its settings, as JSON.
      item_ids: gives this run's item ids, in index order.
      folds: number of folds of a cross-fitted teacher.

    Raises:
      InputError: files of the earlier model are gone or cut off.
    """
    settings = config.training.warm_start
    if settings is None or model["codes"] is not None:
        return None
    last = last_model(config, name)
    if last is None:
        return None
    night, folder, facts = last
    known = facts["num_items"]
    warm_nights = facts.get("warm_nights", 0) + 1
    same = shape_of(facts["options"]) == shape_of(model | {"max_length": config.training.max_length})
    same = same and vocabulary_hash(item_ids()[:known]) == facts["vocabulary_hash"]
    same = same and facts.get("split") == config.features.split.model_dump(mode="json")
    same = same and facts.get("folds", 1) == folds
    due = warm_nights % settings.fresh_every == 0 and not _fresh_since(config, name, night.ds)
    if not same or due:
        return None
    return Start(folder, f"{night.ds}.{night.versions[f'models/{name}']}", warm_nights)


def _fresh_since(config: RunConfig, name: str, ds: str) -> bool:
    """Whether a run after the date `ds` and before this one has trained the model from scratch."""
    table, day = f"models/{name}", config.day
    while (day := partitions.latest(config.root, table, before=day)) and day > ds:
        facts = partitions.current(config.root, table, day) / MODEL_FILE
        if facts.exists() and not json.loads(facts.read_text()).get("warm_nights", 0):
            return True
    return False


def last_model(config: RunConfig, name: str) -> tuple[Promotion, Path, dict[str, Any]] | None:
    """The last earlier promoted run that has `models/<name>`, the model's folder, its metadata; None without one.

    Raises:
      InputError: files of the model are gone or cut off.
    """
    night = promotions.last_night(config.root, before=config.day, holding=f"models/{name}")
    if night is None:
        return None
    if damaged := partitions.damaged(config.root, promotions.manifest_of(config.root, night, f"models/{name}")):
        raise InputError(
            f"models/{name} of {night.ds}, which this run starts from, is damaged: {damaged[0]} is gone or cut off. Put it"
            f" back from a copy. If that run is in use, you can make it again: `distilrec nightly --ds {night.ds}` with"
            " the same run config"
        )
    folder = promotions.folder_of(config.root, night, f"models/{name}")
    return night, folder, json.loads((folder / MODEL_FILE).read_text())


def run_options(start: Start | None) -> dict[str, Any]:
    """The fields of a `TrainingRun` that say where the training starts."""
    return {} if start is None else {"start": str(start.folder), "warm_nights": start.warm_nights}


def warm_training(config: RunConfig, train: TrainConfig, start: Start | None) -> TrainConfig:
    """The training settings of a model that starts from `start`."""
    if start is None:
        return train
    settings = config.training.warm_start
    assert settings is not None
    epochs, rate = min(settings.epochs, train.epochs), train.learning_rate * settings.learning_rate_fraction
    return train.model_copy(update={"epochs": epochs, "learning_rate": rate})
