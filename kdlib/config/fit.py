"""Whether the settings of different sections of a run config fit together. The first check that fails is the error."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from kdlib.config.base import first_fault
from kdlib.config.data import FeatureKind
from kdlib.config.models import StudentConfig, TeacherConfig

if TYPE_CHECKING:
    from kdlib.config.run import RunConfig

TAKEN = (
    "student",
    "control",
    "refit",
    "popularity",
    "markov",
    "ensemble",
    "best_reachable",
    "last_night",
    "search_student",
    "search_encoder",
)
"""Names that a teacher may not have: metrics and model folders use them for other models."""


def check_fit(config: "RunConfig") -> None:
    """Raise ValueError where two settings exclude each other."""
    _output_is_a_folder_or_a_store(config)
    _teachers_have_names_of_their_own(config)
    _input_serves_something(config)
    _simulated_days_are_utc(config)
    _joint_training_is_possible(config)
    _teachers_have_no_codes(config)
    _warm_start_is_possible(config)
    _item_start_is_possible(config)
    _size_is_of_the_recipe(config)
    _size_can_be_chosen(config)
    _codes_have_teachers(config)
    _item_dropout_has_content(config)
    _batches_divide_among_workers(config)
    _targets_fit_the_teachers(config)
    _text_batches_divide_among_workers(config)
    _text_has_titles(config)
    _codes_stand_without_text(config)
    _policy_reads_features(config)
    _models_read_features(config)
    _models_read_user_features(config)


def _output_is_a_folder_or_a_store(config: "RunConfig") -> None:
    name = r"([\w.=+@-]|\$\{\w+\})+"
    plain = config.store and re.fullmatch(rf"(s3|gs|abfss)://{name}(/{name})+", config.store)
    if config.store and (not plain or ".." in config.store.split("/")):
        raise ValueError(
            f"output_dir {config.output_dir} is neither a folder nor a folder of an object store: expected /folder,"
            " s3://bucket/folder, gs://bucket/folder or abfss://container@account.dfs.core.windows.net/folder"
        )


def _teachers_have_names_of_their_own(config: "RunConfig") -> None:
    names = [teacher.name for teacher in config.teachers]
    if len(set(names)) < len(names) or set(TAKEN) & set(names):
        raise ValueError(f"teachers need distinct names other than {', '.join(TAKEN)}, found {names}")


def _input_serves_something(config: "RunConfig") -> None:
    if not config.input.has_events and config.search is None:
        raise ValueError(
            "input has only a catalogue, which is enough for search alone: add events, or the section search"
        )


def _simulated_days_are_utc(config: "RunConfig") -> None:
    if config.input.simulate and config.features.time_zone != "UTC":
        raise ValueError(
            f"features.time_zone {config.features.time_zone} needs input.events, because the simulated shop has days in"
            " UTC: leave time_zone out"
        )


def _joint_training_is_possible(config: "RunConfig") -> None:
    if config.distillation.mode != "joint":
        return
    if config.distillation.weights != "given":
        raise ValueError(
            f"distillation.weights {config.distillation.weights} needs trained teachers: set"
            " distillation.mode to offline"
        )
    if config.training.warm_start:
        raise ValueError(
            "training.warm_start needs distillation.mode offline, because a joint teacher starts from random weights"
        )
    if len(config.teachers) > 1:
        raise ValueError(f"distillation.mode joint trains one teacher, found {len(config.teachers)}")


def _teachers_have_no_codes(config: "RunConfig") -> None:
    if coded := [teacher.name for teacher in config.teachers if teacher.model.codes]:
        raise ValueError(
            f"only student.model may have codes, which are learnt from the teachers' item vectors: remove codes"
            f" from {coded}"
        )


def _warm_start_is_possible(config: "RunConfig") -> None:
    if config.training.warm_start and config.features.split.kind == "leave_one_out":
        raise ValueError(
            "training.warm_start needs features.split.kind time. With leave_one_out an interaction that trained"
            " the last run may validate this run: leave warm_start out, or split by time"
        )


def _item_start_is_possible(config: "RunConfig") -> None:
    if config.distillation.item_start != "teachers":
        return
    if config.distillation.mode == "joint" or not any(teacher.is_trained for teacher in config.teachers):
        raise ValueError(
            "distillation.item_start teachers needs trained teachers with item tables: set distillation.mode to"
            " offline, and add a teacher without rules and without a function"
        )
    if config.student.model.codes:
        raise ValueError(
            "distillation.item_start teachers needs an item table, but student.model.codes replaces it. Leave"
            " item_start out: codes are learnt from the teachers already"
        )
    if not config.student.model.tied:
        raise ValueError(
            "distillation.item_start teachers needs student.model.tied: true, so that the table which starts from"
            " the teachers is the one that scores"
        )


def _size_is_of_the_recipe(config: "RunConfig") -> None:
    if config.student.size in ("small", "base", "large"):
        raise ValueError(
            f"student.size {config.student.size} is a size of the default recipe: leave teachers, distillation and"
            " student.model out, or set student.model.dim and no size"
        )


def _size_can_be_chosen(config: "RunConfig") -> None:
    if config.student.size == "given":
        return
    for name, is_set in (
        ("distillation.mode joint", config.distillation.mode == "joint"),
        ("student.model.codes", config.student.model.codes is not None),
        ("training.warm_start", config.training.warm_start is not None),
    ):
        if is_set:
            raise ValueError(
                f"student.size auto trains several students from finished teachers, which does not go with {name}:"
                " remove it, or set student.size to given"
            )


def _codes_have_teachers(config: "RunConfig") -> None:
    if config.student.model.codes and config.distillation.mode == "joint":
        raise ValueError("student.model.codes are learnt from trained teachers: set distillation.mode to offline")


def readers(config: "RunConfig") -> Iterator[tuple[str, TeacherConfig | StudentConfig]]:
    """Teachers and student, each with its name."""
    yield from ((teacher.name, teacher) for teacher in config.teachers)
    yield "student", config.student


def _item_dropout_has_content(config: "RunConfig") -> None:
    for where, reader in readers(config):
        if reader.model.item_dropout and not (reader.text or reader.features):
            raise ValueError(
                f"{where}: model.item_dropout {reader.model.item_dropout:g} needs titles or features, because a"
                " dropped item is known by them alone: add text or features, or leave item_dropout out"
            )


def _models_read_features(config: "RunConfig") -> None:
    known = config.input.item_features
    for where, reader in readers(config):
        if len(set(reader.features)) < len(reader.features):
            raise ValueError(f"{where}.features must be distinct, found {', '.join(reader.features)}")
        if unknown := [name for name in reader.features if name not in known]:
            raise ValueError(
                f"{where}.features: there is no feature {unknown[0]!r}, found {', '.join(known) or 'none'} in"
                " input.catalogue.features. Add the column there, with its kind"
            )
        if reader.features and reader.model.codes:
            raise ValueError(
                f"{where}.features need an item table to be folded into, and model.codes replaces it: leave one out"
            )


def _models_read_user_features(config: "RunConfig") -> None:
    known = config.input.users.features if config.input.users else {}
    for where, reader in readers(config):
        if len(set(reader.user_features)) < len(reader.user_features):
            raise ValueError(f"{where}.user_features must be distinct, found {', '.join(reader.user_features)}")
        for name in reader.user_features:
            _is_a_feature(f"{where}.user_features", name, "code", known, "input.users.features")


def _batches_divide_among_workers(config: "RunConfig") -> None:
    trained = [(teacher.name, teacher.train) for teacher in config.teachers]
    trained += [("student", config.student.train), ("student.control", config.student.without_teachers().train)]
    for where, overrides in trained:
        try:
            settings = config.training.resolve(overrides)
        except ValidationError as error:
            raise ValueError(f"{where}.train: {first_fault(error)}") from None
        _divides(config, where, settings.batch_size)


def _text_batches_divide_among_workers(config: "RunConfig") -> None:
    readers = [(teacher.name, teacher.text) for teacher in config.teachers]
    readers += [("student", config.student.text), ("search", config.search.text if config.search else None)]
    for where, text in readers:
        if text and text.adapt:
            _divides(config, f"{where}.text.adapt", text.adapt.batch_size)
    if config.search:
        _divides(config, "search", config.search.batch_size)


def _divides(config: "RunConfig", where: str, batch_size: int) -> None:
    if batch_size % config.training.workers:
        raise ValueError(
            f"{where}: batch_size {batch_size} is not a multiple of training.workers {config.training.workers}"
        )


def _targets_fit_the_teachers(config: "RunConfig") -> None:
    sampled = config.distillation.targets == "sampled"
    folded = [teacher.name for teacher in config.teachers if teacher.folds > 1]
    if folded and not sampled:
        raise ValueError(
            f"teachers {folded} have folds, so that users have different heads: set distillation.targets to sampled"
        )
    stateless = {
        "rules": [teacher.name for teacher in config.teachers if teacher.rules],
        "a function": [teacher.name for teacher in config.teachers if teacher.function],
    }
    for what, names in stateless.items():
        if names and not sampled:
            raise ValueError(
                f"teachers {names} have {what}, without hidden states: set distillation.targets to sampled"
            )
    if config.student.model.codes and not any(teacher.is_trained for teacher in config.teachers):
        raise ValueError(
            "student.model.codes are learnt from the teachers' item vectors, which functions and rules do not have:"
            " add a teacher that is trained"
        )
    models = [name for teacher in config.teachers for name in teacher.models]
    if len(set(models)) < len(models):
        raise ValueError(f"a teacher has the name of another teacher's fold: {models}")


def _text_has_titles(config: "RunConfig") -> None:
    reads_text = config.student.text or any(teacher.text for teacher in config.teachers)
    if config.input.catalogue is None and config.input.events is not None and reads_text:
        raise ValueError("a model with text needs input.catalogue with titles")


def _codes_stand_without_text(config: "RunConfig") -> None:
    if config.student.text and config.student.model.codes:
        raise ValueError(
            "student.text needs an item table to be folded into, and student.model.codes replaces it: leave one out"
        )


def _policy_reads_features(config: "RunConfig") -> None:
    policy = config.recommend.policy
    if policy is None:
        return
    known, where = config.input.item_features, "input.catalogue.features"
    for place, rules in policy.all_rules().items():
        for setting, feature, wanted in rules.features():
            _is_a_feature(f"{place}.{setting}", feature, wanted, known, where)
        for pin in rules.pins:
            if pin.place > config.recommend.k:
                raise ValueError(f"{place}.pins: {pin.item} has place {pin.place} of recommend.k {config.recommend.k}")
    if policy.segments:
        users = config.input.users.features if config.input.users else {}
        name = policy.segments.feature
        _is_a_feature("recommend.policy.segments.feature", name, "value", users, "input.users.features")


def _is_a_feature(setting: str, feature: str, wanted: str, known: Mapping[str, FeatureKind], where: str) -> None:
    kinds = {
        "number": ("number",),
        "values": ("category", "categories"),
        "value": ("category",),
        "code": ("category", "number"),
    }[wanted]
    if feature not in known:
        raise ValueError(
            f"{setting}: there is no feature {feature!r}, found {', '.join(known) or 'none'} in {where}."
            f" Add the column there, with its kind ({' or '.join(kinds)})"
        )
    if known[feature] not in kinds:
        raise ValueError(f"{setting} needs a feature of kind {' or '.join(kinds)}, but {feature} is {known[feature]}")
