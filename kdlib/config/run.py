"""The run config: one YAML file, read into frozen models. An unknown key or an impossible value is an error.

Each default of the project is stated once, in this package. Library functions take plain values, never these models.
Paths may hold environment variables (`${SHOP_DATA}/events`). A variable that is not set is an error that names it.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from kdlib.config.base import OPERATIONAL, Name, Section, Seed, first_fault
from kdlib.config.data import DAY, FeatureKind, InputConfig
from kdlib.config.features import FeaturesConfig, PrivacyConfig
from kdlib.config.models import DistillationConfig, ObjectiveConfig, StudentConfig, TeacherConfig, TrainingConfig
from kdlib.config.operations import (
    DeliveryConfig,
    EvaluationConfig,
    GatesConfig,
    RayConfig,
    RecommendConfig,
    RetentionConfig,
    SearchConfig,
    SparkConfig,
    TelemetryConfig,
)
from kdlib.errors import ConfigError

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


class RunConfig(Section):
    """All settings of a run."""

    name: Name
    """Name of the run config, for logs, checkpoints and monitoring."""
    ds: date | None = None
    """The run's day, `YYYY-MM-DD`; `--ds` overrides it. No job reads the clock."""
    output_dir: Annotated[str, Field(min_length=1)]
    """The output folder: all tables, models, reports and logs. A folder on storage that all nodes share, or a folder of an
    object store: `s3://bucket/folder`, `gs://…`, `abfss://…`. Of a store, each machine keeps a working copy below
    `$DISTILREC_CACHE` (`~/.cache/distilrec` if that is not set)."""
    seed: Seed = 1
    """Seed of all random choices except the simulator's, which has a seed of its own."""
    budget_minutes: Annotated[float, Field(gt=0)] | None = None
    """Most minutes for the stages after `build-features`. Models then train for fewer epochs, and the default recipe takes
    smaller teachers and no control. The training of text encoders and of product search is not shortened."""
    input: InputConfig
    features: FeaturesConfig = FeaturesConfig()
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = (TeacherConfig(name="teacher"),)
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    recommend: RecommendConfig = RecommendConfig()
    search: SearchConfig | None = None
    """If given, the run also publishes `search_rankings`."""
    privacy: PrivacyConfig = PrivacyConfig()
    gates: Annotated[GatesConfig, OPERATIONAL] = GatesConfig()
    retention: Annotated[RetentionConfig, OPERATIONAL] = RetentionConfig()
    delivery: Annotated[DeliveryConfig | None, OPERATIONAL] = None
    """If given, the tables in use are copied to a place where others read them."""
    telemetry: Annotated[TelemetryConfig | None, OPERATIONAL] = None
    spark: Annotated[SparkConfig, OPERATIONAL] = SparkConfig()
    ray: Annotated[RayConfig, OPERATIONAL] = RayConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        """Settings of different sections fit together. The first check that fails is the error."""
        self._output_is_a_folder_or_a_store()
        self._teachers_have_names_of_their_own()
        self._input_serves_something()
        self._simulated_days_are_utc()
        self._joint_training_is_possible()
        self._teachers_have_no_codes()
        self._warm_start_is_possible()
        self._item_start_is_possible()
        self._size_is_of_the_recipe()
        self._size_can_be_chosen()
        self._codes_have_teachers()
        self._item_dropout_has_content()
        self._batches_divide_among_workers()
        self._targets_fit_the_teachers()
        self._text_batches_divide_among_workers()
        self._text_has_titles()
        self._codes_stand_without_text()
        self._policy_reads_features()
        self._models_read_features()
        self._models_read_user_features()
        return self

    def _output_is_a_folder_or_a_store(self) -> None:
        if self.store and not re.match(r"(s3|gs|abfss)://([\w.@-]|\$\{\w+\})+/.", self.store):
            raise ValueError(
                f"output_dir {self.output_dir} is neither a folder nor a folder of an object store: expected /folder,"
                " s3://bucket/folder, gs://bucket/folder or abfss://container@account.dfs.core.windows.net/folder"
            )

    def _teachers_have_names_of_their_own(self) -> None:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names) or set(TAKEN) & set(names):
            raise ValueError(f"teachers need distinct names other than {', '.join(TAKEN)}, found {names}")

    def _input_serves_something(self) -> None:
        if not self.input.has_events and self.search is None:
            raise ValueError(
                "input has only a catalogue, which is enough for search alone: add events, or the section search"
            )

    def _simulated_days_are_utc(self) -> None:
        if self.input.simulate and self.features.time_zone != "UTC":
            raise ValueError(
                f"features.time_zone {self.features.time_zone} needs input.events, because the simulated shop has days in"
                " UTC: leave time_zone out"
            )

    def _joint_training_is_possible(self) -> None:
        if self.distillation.mode != "joint":
            return
        if self.distillation.weights != "given":
            raise ValueError(
                f"distillation.weights {self.distillation.weights} needs trained teachers: set"
                " distillation.mode to offline"
            )
        if self.training.warm_start:
            raise ValueError(
                "training.warm_start needs distillation.mode offline, because a joint teacher starts from random"
                " weights"
            )
        if len(self.teachers) > 1:
            raise ValueError(f"distillation.mode joint trains one teacher, found {len(self.teachers)}")

    def _teachers_have_no_codes(self) -> None:
        if coded := [teacher.name for teacher in self.teachers if teacher.model.codes]:
            raise ValueError(
                f"only student.model may have codes, which are learnt from the teachers' item vectors: remove codes"
                f" from {coded}"
            )

    def _warm_start_is_possible(self) -> None:
        if self.training.warm_start and self.features.split.kind == "leave_one_out":
            raise ValueError(
                "training.warm_start needs features.split.kind time. With leave_one_out an interaction that trained"
                " the last run may validate this run: leave warm_start out, or split by time"
            )

    def _item_start_is_possible(self) -> None:
        if self.distillation.item_start != "teachers":
            return
        if self.distillation.mode == "joint" or not any(teacher.is_trained for teacher in self.teachers):
            raise ValueError(
                "distillation.item_start teachers needs trained teachers with item tables: set distillation.mode to"
                " offline, and add a teacher without rules and without a function"
            )
        if self.student.model.codes:
            raise ValueError(
                "distillation.item_start teachers needs an item table, but student.model.codes replaces it. Leave"
                " item_start out: codes are learnt from the teachers already"
            )
        if not self.student.model.tied:
            raise ValueError(
                "distillation.item_start teachers needs student.model.tied: true, so that the table which starts from"
                " the teachers is the one that scores"
            )

    def _size_is_of_the_recipe(self) -> None:
        if self.student.size in ("small", "base", "large"):
            raise ValueError(
                f"student.size {self.student.size} is a size of the default recipe: leave teachers, distillation and"
                " student.model out, or set student.model.dim and no size"
            )

    def _size_can_be_chosen(self) -> None:
        if self.student.size == "given":
            return
        for name, is_set in (
            ("distillation.mode joint", self.distillation.mode == "joint"),
            ("student.model.codes", self.student.model.codes is not None),
            ("training.warm_start", self.training.warm_start is not None),
        ):
            if is_set:
                raise ValueError(
                    f"student.size auto trains several students from finished teachers, which does not go with {name}:"
                    " remove it, or set student.size to given"
                )

    def _codes_have_teachers(self) -> None:
        if self.student.model.codes and self.distillation.mode == "joint":
            raise ValueError("student.model.codes are learnt from trained teachers: set distillation.mode to offline")

    def _readers(self) -> Iterator[tuple[str, TeacherConfig | StudentConfig]]:
        """Teachers and student, each with its name."""
        yield from ((teacher.name, teacher) for teacher in self.teachers)
        yield "student", self.student

    def _item_dropout_has_content(self) -> None:
        for where, reader in self._readers():
            if reader.model.item_dropout and not (reader.text or reader.features):
                raise ValueError(
                    f"{where}: model.item_dropout {reader.model.item_dropout:g} needs titles or features, because a"
                    " dropped item is known by them alone: add text or features, or leave item_dropout out"
                )

    def _models_read_features(self) -> None:
        known = self.input.item_features
        for where, reader in self._readers():
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

    def _models_read_user_features(self) -> None:
        known = self.input.users.features if self.input.users else {}
        for where, reader in self._readers():
            if len(set(reader.user_features)) < len(reader.user_features):
                raise ValueError(f"{where}.user_features must be distinct, found {', '.join(reader.user_features)}")
            for name in reader.user_features:
                self._is_a_feature(f"{where}.user_features", name, "code", known, "input.users.features")

    def _batches_divide_among_workers(self) -> None:
        trained = [(teacher.name, teacher.train) for teacher in self.teachers]
        trained += [("student", self.student.train), ("student.control", self.student.without_teachers().train)]
        for where, overrides in trained:
            try:
                settings = self.training.resolve(overrides)
            except ValidationError as error:
                raise ValueError(f"{where}.train: {first_fault(error)}") from None
            self._divides(where, settings.batch_size)

    def _text_batches_divide_among_workers(self) -> None:
        readers = [(teacher.name, teacher.text) for teacher in self.teachers]
        readers += [("student", self.student.text), ("search", self.search.text if self.search else None)]
        for where, text in readers:
            if text and text.adapt:
                self._divides(f"{where}.text.adapt", text.adapt.batch_size)
        if self.search:
            self._divides("search", self.search.batch_size)

    def _divides(self, where: str, batch_size: int) -> None:
        if batch_size % self.training.workers:
            raise ValueError(
                f"{where}: batch_size {batch_size} is not a multiple of training.workers {self.training.workers}"
            )

    def _targets_fit_the_teachers(self) -> None:
        sampled = self.distillation.targets == "sampled"
        folded = [teacher.name for teacher in self.teachers if teacher.folds > 1]
        if folded and not sampled:
            raise ValueError(
                f"teachers {folded} have folds, so that users have different heads: set distillation.targets to sampled"
            )
        stateless = {
            "rules": [teacher.name for teacher in self.teachers if teacher.rules],
            "a function": [teacher.name for teacher in self.teachers if teacher.function],
        }
        for what, names in stateless.items():
            if names and not sampled:
                raise ValueError(
                    f"teachers {names} have {what}, without hidden states: set distillation.targets to sampled"
                )
        if self.student.model.codes and not any(teacher.is_trained for teacher in self.teachers):
            raise ValueError(
                "student.model.codes are learnt from the teachers' item vectors, which functions and rules do not have:"
                " add a teacher that is trained"
            )
        models = [name for teacher in self.teachers for name in teacher.models]
        if len(set(models)) < len(models):
            raise ValueError(f"a teacher has the name of another teacher's fold: {models}")

    def _text_has_titles(self) -> None:
        reads_text = self.student.text or any(teacher.text for teacher in self.teachers)
        if self.input.catalogue is None and self.input.events is not None and reads_text:
            raise ValueError("a model with text needs input.catalogue with titles")

    def _codes_stand_without_text(self) -> None:
        if self.student.text and self.student.model.codes:
            raise ValueError(
                "student.text needs an item table to be folded into, and student.model.codes replaces it: leave one out"
            )

    def _policy_reads_features(self) -> None:
        policy = self.recommend.policy
        if policy is None:
            return
        known, where = self.input.item_features, "input.catalogue.features"
        for place, rules in policy.all_rules().items():
            for setting, feature, wanted in rules.features():
                self._is_a_feature(f"{place}.{setting}", feature, wanted, known, where)
            for pin in rules.pins:
                if pin.place > self.recommend.k:
                    raise ValueError(
                        f"{place}.pins: {pin.item} has place {pin.place} of recommend.k {self.recommend.k}"
                    )
        if policy.segments:
            users = self.input.users.features if self.input.users else {}
            name = policy.segments.feature
            self._is_a_feature("recommend.policy.segments.feature", name, "value", users, "input.users.features")

    @staticmethod
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
            raise ValueError(
                f"{setting} needs a feature of kind {' or '.join(kinds)}, but {feature} is {known[feature]}"
            )

    @property
    def store(self) -> str | None:
        """The URL of an output folder in an object store; None for a folder on a disk."""
        return self.output_dir.rstrip("/") if "://" in self.output_dir else None

    def place(self, *names: str) -> str:
        """The output folder, or a partition of the run's date in it, for a person: a path or a URL."""
        home = self.store or str(self.root)
        return "/".join([home, *names, f"ds={self.day}"]) if names else home

    @property
    def root(self) -> Path:
        """The output folder, or its working copy if it is in an object store (`kdlib.store.mirror`).

        The path is absolute, because workers have working folders of their own. It is the same on every machine.

        Raises:
          ConfigError: Spark would read a character of the path as a pattern.
        """
        folder = Path(self.output_dir).expanduser().absolute()
        if self.store:
            place = Path(os.environ.get("DISTILREC_CACHE", "~/.cache/distilrec")).expanduser().resolve()
            plain = re.sub(r"[^\w.-]+", "_", self.store.partition("://")[2])[-60:]
            folder = place / f"{plain}.{hashlib.sha256(self.store.encode()).hexdigest()[:8]}"
        named = re.sub(r"\$\{\w+\}", "", str(folder))  # variables that another machine will fill in
        if signs := "".join(sorted({*named} & {*"*?[]{}"})):
            raise ConfigError(
                f"output_dir is {folder}: Spark reads {signs} in a path as a pattern. Give a path without them"
            )
        return folder

    @property
    def user_features(self) -> dict[str, FeatureKind]:
        """Feature of the users that a model reads → kind, in the order of the names."""
        read = {name for _, reader in self._readers() for name in reader.user_features}
        return {name: self.input.users.features[name] for name in sorted(read)} if self.input.users else {}

    @property
    def arrives_by_day(self) -> bool:
        """Whether the events lie in files by their day of arrival: a run then reads the new days only."""
        events, simulate = self.input.events, self.input.simulate
        return bool(simulate.first_day) if simulate else events is not None and DAY in events.path

    @property
    def last_day(self) -> date:
        """`ds`, the last day of the data; ConfigError where there is none."""
        if self.ds is None:
            raise ConfigError("no date: give --ds YYYY-MM-DD or set ds in the run config")
        return self.ds

    @property
    def day(self) -> str:
        """`ds` as text, `YYYY-MM-DD`."""
        return self.last_day.isoformat()
