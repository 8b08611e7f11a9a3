"""The run config: one YAML file, read into frozen models. An unknown key or an impossible value is an error.

Each default of the project is stated once, in this package. Library functions take plain values, never these models.
Paths may hold environment variables (`${SHOP_DATA}/events`). A variable that is not set is an error that names it.
"""

import hashlib
import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from kdlib.config.base import OPERATIONAL, Name, Section, Seed
from kdlib.config.data import DAY, FeatureKind, InputConfig
from kdlib.config.experiment import ExperimentConfig
from kdlib.config.features import FeaturesConfig, PrivacyConfig
from kdlib.config.fit import check_fit, readers
from kdlib.config.models import DistillationConfig, ObjectiveConfig, StudentConfig, TeacherConfig, TrainingConfig
from kdlib.config.operations import (
    DeliveryConfig,
    EvaluationConfig,
    ExportConfig,
    GatesConfig,
    RayConfig,
    RecommendConfig,
    RetentionConfig,
    SearchConfig,
    ServeConfig,
    SparkConfig,
    TelemetryConfig,
    TrackingConfig,
)
from kdlib.errors import ConfigError


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
    experiment: ExperimentConfig | None = None
    """If given, the recommendations name each user's variant of an A/B test."""
    export: ExportConfig | None = None
    """If given, the run also publishes `export`, the student for other systems."""
    search: SearchConfig | None = None
    """If given, the run also publishes `search_rankings`."""
    privacy: PrivacyConfig = PrivacyConfig()
    gates: Annotated[GatesConfig, OPERATIONAL] = GatesConfig()
    retention: Annotated[RetentionConfig, OPERATIONAL] = RetentionConfig()
    delivery: Annotated[DeliveryConfig | None, OPERATIONAL] = None
    """If given, the tables in use are copied to a place where others read them."""
    telemetry: Annotated[TelemetryConfig | None, OPERATIONAL] = None
    serve: Annotated[ServeConfig, OPERATIONAL] = ServeConfig()
    tracking: Annotated[TrackingConfig, OPERATIONAL] = TrackingConfig()
    spark: Annotated[SparkConfig, OPERATIONAL] = SparkConfig()
    ray: Annotated[RayConfig, OPERATIONAL] = RayConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        """Settings of different sections fit together. The first check that fails is the error."""
        check_fit(self)
        return self

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
        read = {name for _, reader in readers(self) for name in reader.user_features}
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
