"""The run config: one YAML file, read into frozen models; an unknown key or an impossible value is an error.

Every default of the project stands in this package, once. Library functions take plain values, never these models.
Paths may hold environment variables (`${SHOP_DATA}/events`); an unset one is an error that names it.
"""

import re
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from kdlib.config.base import Name, Section, Seed, first_fault
from kdlib.config.data import DAY, FeaturesConfig, InputConfig, PrivacyConfig
from kdlib.config.models import DistillationConfig, StudentConfig, TeacherConfig, TrainingConfig
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
    "popularity",
    "markov",
    "ensemble",
    "best_reachable",
    "last_night",
    "search_student",
    "search_encoder",
)

"""What the metrics and the folder of the models call others than teachers."""


class RunConfig(Section):
    name: Name
    ds: date | None = None
    """The day the run stands for; `--ds` overrides it. No job reads the clock."""
    output_dir: Annotated[str, Field(min_length=1)]
    seed: Seed = 1
    input: InputConfig
    features: FeaturesConfig = FeaturesConfig()
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = (TeacherConfig(name="teacher"),)
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    recommend: RecommendConfig = RecommendConfig()
    search: SearchConfig | None = None
    """With it a night publishes `search_rankings` too."""
    privacy: PrivacyConfig = PrivacyConfig()
    gates: GatesConfig = GatesConfig()
    retention: RetentionConfig = RetentionConfig()
    delivery: DeliveryConfig | None = None
    """With it the tables in use are copied to where others read them."""
    telemetry: TelemetryConfig | None = None
    spark: SparkConfig = SparkConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names) or set(TAKEN) & set(names):
            raise ValueError(f"teachers need distinct names other than {', '.join(TAKEN)}, found {names}")
        if not self.input.has_events and self.search is None:
            raise ValueError("input has a catalogue alone, which serves search only: add events, or the section search")
        if self.distillation.mode == "joint" and self.distillation.weights != "given":
            raise ValueError(
                f"distillation.weights {self.distillation.weights} needs finished teachers: distillation.mode offline"
            )
        if self.distillation.mode == "joint" and self.training.warm_start:
            raise ValueError("training.warm_start needs distillation.mode offline: a joint teacher starts from nothing")
        if self.distillation.mode == "joint" and len(names) > 1:
            raise ValueError(f"distillation.mode joint trains one teacher, found {len(names)}")
        if coded := [teacher.name for teacher in self.teachers if teacher.model.codes]:
            raise ValueError(
                f"codes are learnt from the teachers' item vectors: only student.model has them, not {coded}"
            )
        if self.training.warm_start and self.features.split.kind == "leave_one_out":
            raise ValueError(
                "training.warm_start needs features.split.kind time: with leave_one_out, what a user of two interactions"
                " trained last night validates tonight; leave warm_start out, or split by time"
            )
        self._start_is_possible()
        if self.student.model.codes and self.distillation.mode == "joint":
            raise ValueError("student.model.codes need finished teachers to learn from: distillation.mode offline")
        for where, reader in [(teacher.name, teacher) for teacher in self.teachers] + [("student", self.student)]:
            if reader.model.item_dropout and not reader.text:
                raise ValueError(
                    f"{where}: model.item_dropout {reader.model.item_dropout:g} leaves items to their titles, which only a model"
                    " with text reads: add text, or leave item_dropout out"
                )
        trained = [(t.name, t.train) for t in self.teachers]
        trained += [("student", self.student.train), ("student.control", self.student.without_teachers().train)]
        for where, overrides in trained:
            try:
                settings = self.training.resolve(overrides)
            except ValidationError as error:
                raise ValueError(f"{where}.train: {first_fault(error)}") from None
            if settings.batch_size % self.training.workers:
                raise ValueError(
                    f"{where}: batch_size {settings.batch_size} is not a multiple of training.workers {self.training.workers}"
                )
        self._teachers_fit_their_targets()
        for where, text in [(teacher.name, teacher.text) for teacher in self.teachers] + [
            ("student", self.student.text),
            ("search", self.search and self.search.text),
        ]:
            adapt = text and text.adapt
            if adapt and adapt.batch_size % self.training.workers:
                raise ValueError(
                    f"{where}.text.adapt: batch_size {adapt.batch_size} is not a multiple of training.workers {self.training.workers}"
                )
        if self.search and self.search.batch_size % self.training.workers:
            raise ValueError(
                f"search: batch_size {self.search.batch_size} is not a multiple of training.workers {self.training.workers}"
            )
        reads_text = self.student.text or any(t.text for t in self.teachers)
        if self.input.catalogue is None and self.input.events is not None and reads_text:
            raise ValueError("a model with text needs input.catalogue with titles")
        if self.student.text and self.student.model.codes:
            raise ValueError(
                "student.text is folded into an item table, which a student with model.codes does not have"
            )
        return self

    def _start_is_possible(self) -> None:
        if self.distillation.item_start != "teachers":
            return
        if self.distillation.mode == "joint" or all(teacher.rules for teacher in self.teachers):
            raise ValueError(
                "distillation.item_start teachers needs finished teachers with item tables: distillation.mode offline, and a"
                " teacher without rules"
            )
        if self.student.model.codes:
            raise ValueError(
                "distillation.item_start teachers needs an item table, but student.model.codes replaces it. Leave item_start out:"
                " codes are learnt from the teachers already"
            )
        if not self.student.model.tied:
            raise ValueError(
                "distillation.item_start teachers needs student.model.tied: true. The table that starts from the teachers' is the"
                " one that scores"
            )

    def _teachers_fit_their_targets(self) -> None:
        sampled = self.distillation.targets == "sampled"
        if (folded := [teacher.name for teacher in self.teachers if teacher.folds > 1]) and not sampled:
            raise ValueError(
                f"teachers {folded} have folds, so their heads differ from user to user: distillation.targets sampled"
            )
        if (counted := [teacher.name for teacher in self.teachers if teacher.rules]) and not sampled:
            raise ValueError(
                f"teachers {counted} have rules, which have no hidden states: distillation.targets sampled"
            )
        if self.student.model.codes and len(counted) == len(self.teachers):
            raise ValueError("student.model.codes are learnt from teachers' item vectors, which rules do not have")
        models = [name for teacher in self.teachers for name in teacher.models]
        if len(set(models)) < len(models):
            raise ValueError(f"a teacher has the name of another one's fold: {models}")
        if sampled and self.training.resolve(self.student.train).loss not in ("cross_entropy", "sampled_softmax"):
            raise ValueError(
                "distillation.targets sampled needs the student's train.loss cross_entropy or sampled_softmax"
            )

    @property
    def root(self) -> Path:
        """The folder of all outputs, absolute: workers have working folders of their own.

        Raises:
          ConfigError: a sign in its name that Spark would read as a pattern.
        """
        folder = Path(self.output_dir).expanduser().absolute()
        named = re.sub(r"\$\{\w+\}", "", str(folder))  # another machine's variables
        if signs := "".join(sorted({*named} & {*"*?[]{}"})):
            raise ConfigError(
                f"output_dir is {folder}: Spark takes {signs} in a folder's name for a pattern; give one without"
            )
        return folder

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
