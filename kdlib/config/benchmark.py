"""The config of a benchmark: a run config and its variants ("arms"), each with another student, distillation or teacher."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from kdlib.config.base import Name, Positive, Section, first_fault
from kdlib.config.load import config_file, load_config, read_mapping
from kdlib.config.models import StudentConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
RESERVED = ("markov", "popularity", "best_reachable", "teacher_single", "teacher_ensemble")
Range = dict[Literal["uniform", "log_uniform"], tuple[float, float]]


class ArmConfig(Section):
    """One variant of the student. It is trained once for each seed."""

    teacher: Literal["ensemble", "none", "permuted", "uniform", "popularity", "self"] = "ensemble"
    """Whom the student learns from. `ensemble`: the run's teachers. `none`: the data alone. `self`: the same student, trained
    without a teacher on the same seed. The others are the stand-ins of `kdlib.training.stand_ins`."""
    like: Name | None = None
    """Another arm to start from: its student and distillation, and what the tuning chose for it."""
    student: dict[str, Any] = Field(default_factory=dict)
    """Keys of the run's `student` that differ."""
    distillation: dict[str, Any] = Field(default_factory=dict)
    """Keys of the run's `distillation` that differ."""
    seeds: Seeds | None = None
    """Seeds of the training. Default: the benchmark's."""
    plain: Name | None = None
    """The arm without a teacher to compare with. Default: the first one with the same student model and titles."""


class TuningConfig(Section):
    """Random search (Bergstra & Bengio 2012). Every arm has the same trials, and validation NDCG@10 chooses among them."""

    trials: Positive
    """Trials of each arm."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the random settings and of the trials' training."""
    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    """The arms to tune."""
    space: Annotated[dict[str, list[Any] | Range], Field(min_length=1)]
    """Key below `student` or `distillation` → a list of values, or `{uniform: [low, high]}`, or `{log_uniform: [low, high]}`."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "TuningConfig":
        for key, choices in self.space.items():
            if key.split(".")[0] not in ("student", "distillation") or "." not in key:
                raise ValueError(f"tuning.space: a key must be below student or distillation, found {key}")
            if isinstance(choices, list):
                if not choices:
                    raise ValueError(f"tuning.space.{key}: the list of values is empty")
            elif len(choices) != 1:
                raise ValueError(f"tuning.space.{key}: needs one of uniform and log_uniform, found {sorted(choices)}")
            else:
                (kind, (low, high)), *_ = choices.items()
                if low >= high or (kind == "log_uniform" and low <= 0):
                    raise ValueError(f"tuning.space.{key}: {kind} needs low < high, above 0 for log_uniform")
        return self


class BenchmarkConfig(Section):
    """Variants of a run's student, compared on the same data."""

    name: Name
    """Name of the benchmark."""
    run: str
    """Path of the run config, relative to this file. It has the data, features, teachers and training of all arms, and the
    student that they change."""
    seeds: Seeds = (1, 2, 3)
    """Seeds that each arm is trained with."""
    arms: Annotated[dict[Name, ArmConfig], Field(min_length=1)]
    """The variants, by name."""
    main: Name = "student"
    """The arm that the others' sizes are compared with. The result `gap_closed` is its share of the gap to the teachers."""
    results: Annotated[str, Field(pattern=r"\.json$")]
    """Path of the JSON file to write, relative to the working folder."""
    peers: dict[Name, str] = Field(default_factory=dict)
    """Results of other software on the same split, shown beside the arms: name → path of a JSON file, relative to the working
    folder. The file has `users`, `items`, `figures` (`ndcg10` and `hr10`) and `intervals`."""
    speed_users: Positive = 2_000
    """Number of test users whose top-k is timed."""
    tuning: TuningConfig | None = None
    """Search for good settings before the arms are trained. Default: none."""

    @model_validator(mode="after")
    def _names_are_free(self) -> "BenchmarkConfig":
        if taken := [name for name in (*self.arms, *self.peers) if name in RESERVED]:
            raise ValueError(f"{taken} are names of baselines and teachers in the results. Rename them")
        if taken := sorted(self.arms.keys() & self.peers.keys()):
            raise ValueError(f"peers: {taken} are names of arms. Rename them")
        if self.main not in self.arms:
            raise ValueError(f"main: expected one of the arms {list(self.arms)}, found {self.main}")
        return self


@dataclass(frozen=True)
class Arm:
    """An arm ready to train."""

    name: str
    teacher: str
    seeds: tuple[int, ...]
    config: RunConfig
    """The run config with the arm's student and distillation."""
    plain: str | None
    """The arm without a teacher that this arm is compared with."""

    @property
    def student(self) -> StudentConfig:
        """The student as this arm trains it."""
        student = self.config.student
        return student.without_teachers() if self.teacher == "none" else student


@dataclass(frozen=True)
class Benchmark:
    """A benchmark config and the run config that it names."""

    config: BenchmarkConfig
    run: RunConfig
    run_path: Path
    run_overrides: tuple[str, ...]
    selected: tuple[str, ...] | None = None
    """The arms to run. None: all."""

    def arms(self, found: dict[str, dict[str, Any]] | None = None) -> dict[str, Arm]:
        """The selected arms by name.

        Args:
          found: arm → keys below `student` and `distillation`, with the values that the tuning chose.

        Raises:
          ConfigError: an arm has wrong settings, or refers to an arm that does not exist.
        """
        configs = {name: self.arm_config(name, found or {}) for name in self.config.arms}
        made = {}
        for name, arm in self.config.arms.items():
            if self.selected is None or name in self.selected:
                plain = None if arm.teacher == "none" else self._plain(name, configs)
                made[name] = Arm(name, arm.teacher, arm.seeds or self.config.seeds, configs[name], plain)
        for arm in made.values():
            if arm.teacher == "self" and (arm.plain not in made or set(arm.seeds) - set(made[arm.plain].seeds)):
                raise ConfigError(
                    f"arm {arm.name} has teacher: self. It needs an arm with teacher: none, the same student and the seeds"
                    f" {list(arm.seeds)}: add one, and select it too"
                )
        return made

    def arm_config(self, name: str, found: dict[str, dict[str, Any]]) -> RunConfig:
        """The run config with the changes of an arm and of the arms that it is like."""
        data = self.run.model_dump(mode="json")
        for part in self._lineage(name):
            arm = self.config.arms[part]
            layers = [{"student": arm.student, "distillation": arm.distillation}]
            layers += [_nested(key, value) for key, value in found.get(part, {}).items()]
            for layer in layers:
                data = merge(_without_overruled(data, layer.get("student", {})), layer)
        try:
            config = RunConfig.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"the benchmark's arm {name} is wrong: {first_fault(error)}") from None
        if config.distillation.mode == "joint":
            raise ConfigError(
                f"arm {name}: a benchmark needs distillation.mode offline, because its arms share finished teachers;"
                " found joint"
            )
        return config

    def _lineage(self, name: str) -> list[str]:
        """The arms that an arm is built from, in order: the one that is like no other first, the arm itself last."""
        chain = [name]
        while (before := self.config.arms[chain[0]].like) is not None:
            if before not in self.config.arms or before in chain:
                raise ConfigError(f"arm {chain[0]}: like needs another one of {list(self.config.arms)}, found {before}")
            chain.insert(0, before)
        return chain

    def _plain(self, name: str, configs: dict[str, RunConfig]) -> str | None:
        named = self.config.arms[name].plain
        without = [other for other, arm in self.config.arms.items() if arm.teacher == "none"]
        if named is not None and named not in without:
            raise ConfigError(f"arm {name}: plain needs an arm with teacher: none, one of {without}; found {named}")
        return named or next((other for other in without if _same_model(configs[other], configs[name])), None)


def _same_model(one: RunConfig, other: RunConfig) -> bool:
    """Whether two students have the same shape and read the same titles and features. Their dropout may differ, for it may be tuned."""
    left, right = (
        (c.student.model.model_copy(update={"dropout": 0.0}), c.student.text, c.student.features) for c in (one, other)
    )
    return left == right


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one. Where both have a key, `above` wins, unless both values are mappings: these are merged."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merge(below[key], value) if both else value
    return merged


def _without_overruled(data: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """The config without those `student.control` settings that a layer above sets for the student itself."""
    control = dict(data["student"]["control"])
    if "dropout" in student.get("model", {}):
        control["dropout"] = None
    control["train"] = {key: value for key, value in control["train"].items() if key not in student.get("train", {})}
    return data | {"student": data["student"] | {"control": control}}


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`a.b.c` and a value as `{"a": {"b": {"c": value}}}`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def draw_trials(tuning: TuningConfig) -> list[dict[str, Any]]:
    """Random settings of each trial, the same for every arm. They depend only on the seed of the tuning."""
    generator = np.random.default_rng(tuning.seed)
    trials = []
    for _ in range(tuning.trials):
        drawn: dict[str, Any] = {}
        for key, choices in tuning.space.items():
            if isinstance(choices, list):
                drawn[key] = choices[int(generator.integers(len(choices)))]
            else:
                ((kind, (low, high)),) = choices.items()
                if kind == "log_uniform":
                    drawn[key] = math.exp(generator.uniform(math.log(low), math.log(high)))
                else:
                    drawn[key] = float(generator.uniform(low, high))
        trials.append(drawn)
    return trials


def load_benchmark(
    path: str | Path, *, overrides: tuple[str, ...] = (), ds: str | None = None, arms: tuple[str, ...] | None = None
) -> Benchmark:
    """Read a benchmark config and the run config that it names.

    Args:
      path: a YAML file.
      overrides: `key=value` texts. Those that begin with `run.` change the run config.
      ds: the run's date, `YYYY-MM-DD`. It overrides the run config's.
      arms: the arms to run. None: all.

    Raises:
      ConfigError: a file is missing or wrong, an arm is unknown or wrong, or an arm has distillation.mode joint.
    """
    to_run = tuple(text.removeprefix("run.") for text in overrides if text.startswith("run."))
    data = read_mapping(path, overrides=tuple(text for text in overrides if not text.startswith("run.")))
    try:
        config = BenchmarkConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"the benchmark config {path} is wrong: {first_fault(error)}") from None
    run_path = config_file(path).parent / config.run
    run = load_config(run_path, overrides=to_run, ds=ds)
    named = {"--arms": arms or (), "tuning.arms": config.tuning.arms if config.tuning else ()}
    for where, names in named.items():
        if unknown := [name for name in names if name not in config.arms]:
            raise ConfigError(f"{where}: expected some of the arms {list(config.arms)}, found {unknown}")
    if own := [name for name in named["tuning.arms"] if config.arms[name].teacher == "self"]:
        raise ConfigError(
            f"tuning.arms: {own} have teacher: self, which needs the tuning of other arms first. Remove them from tuning.arms"
        )
    benchmark = Benchmark(config, run, run_path, to_run, arms)
    benchmark.arms()
    for trial in draw_trials(config.tuning) if config.tuning else []:
        benchmark.arms(dict.fromkeys(named["tuning.arms"], trial))
    return benchmark
