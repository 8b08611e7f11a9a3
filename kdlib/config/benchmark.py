"""The config of a benchmark: a run config, and arms that each change its student, its distillation or its teacher."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from kdlib.config.base import Name, Positive, Section, first_fault
from kdlib.config.load import load_config, read_mapping
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
RESERVED = ("markov", "popularity", "best_reachable", "teacher_single", "teacher_ensemble")
Range = dict[Literal["uniform", "log_uniform"], tuple[float, float]]


class ArmConfig(Section):
    """One recipe of a student, trained once a seed."""

    teacher: Literal["ensemble", "none", "permuted", "uniform", "popularity", "self"] = "ensemble"
    """`ensemble`: the run's teachers. `none`: the data alone. `self`: the finished arm of the same student without a
    teacher, same seed. The others are the stand-ins of `kdlib.training.stand_ins`."""
    like: Name | None = None
    """Start from another arm's student and distillation, what the tuning chose for it included."""
    student: dict[str, Any] = Field(default_factory=dict)
    """Put over the run's `student`, key by key."""
    distillation: dict[str, Any] = Field(default_factory=dict)
    seeds: Seeds | None = None
    """The benchmark's when not given."""
    plain: Name | None = None
    """The arm without a teacher to compare with; when not given, the first one with the same student model and titles."""


class TuningConfig(Section):
    """Random search (Bergstra & Bengio 2012) with as many trials for each arm, chosen by validation NDCG@10."""

    trials: Positive
    seed: Annotated[int, Field(ge=0)] = 1
    """Of the draws and of the trials' training."""
    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    space: Annotated[dict[str, list[Any] | Range], Field(min_length=1)]
    """`student.…` or `distillation.…` → a list to choose from, or `{uniform: [low, high]}` or `{log_uniform: …}`."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "TuningConfig":
        for key, choices in self.space.items():
            if key.split(".")[0] not in ("student", "distillation") or "." not in key:
                raise ValueError(f"tuning.space: {key} is not below student or distillation")
            if isinstance(choices, list):
                if not choices:
                    raise ValueError(f"tuning.space.{key}: an empty list, nothing to choose from")
            elif len(choices) != 1:
                raise ValueError(f"tuning.space.{key}: needs one of uniform and log_uniform, found {sorted(choices)}")
            else:
                (kind, (low, high)), *_ = choices.items()
                if low >= high or (kind == "log_uniform" and low <= 0):
                    raise ValueError(f"tuning.space.{key}: {kind} needs low < high, above 0 for log_uniform")
        return self


class BenchmarkConfig(Section):
    name: Name
    run: str
    """The run config, relative to this file: data, features, teachers, training, and the student arms start from."""
    seeds: Seeds = (1, 2, 3)
    arms: Annotated[dict[Name, ArmConfig], Field(min_length=1)]
    main: Name = "student"
    """The arm whose size the others' are compared with, and whose share of the closed gap is called `gap_closed`."""
    results: Annotated[str, Field(pattern=r"\.json$")]
    """The JSON to write, relative to the working folder."""
    peers: dict[Name, str] = Field(default_factory=dict)
    """Other software's results on the same split, shown beside: name → JSON with `users`, `items`, `figures` (`ndcg10` and
    `hr10`) and `intervals`, relative to the working folder."""
    speed_users: Positive = 2_000
    """Test users whose top-k is timed."""
    tuning: TuningConfig | None = None

    @model_validator(mode="after")
    def _names_are_free(self) -> "BenchmarkConfig":
        if taken := [name for name in (*self.arms, *self.peers) if name in RESERVED]:
            raise ValueError(f"{taken} would take the names of baselines and teachers in the results; rename them")
        if taken := sorted(self.arms.keys() & self.peers.keys()):
            raise ValueError(f"peers: {taken} are the names of arms; rename them")
        if self.main not in self.arms:
            raise ValueError(f"main: {self.main} is none of the arms {list(self.arms)}")
        return self


@dataclass(frozen=True)
class Arm:
    """An arm ready to train: the run config with its own student and distillation."""

    name: str
    teacher: str
    seeds: tuple[int, ...]
    config: RunConfig
    plain: str | None
    """The arm without a teacher that it is compared with."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark config and what it refers to."""

    config: BenchmarkConfig
    run: RunConfig
    run_path: Path
    run_overrides: tuple[str, ...]
    selected: tuple[str, ...] | None = None
    """Only these arms."""

    def arms(self, found: dict[str, dict[str, Any]] | None = None) -> dict[str, Arm]:
        """All arms, or the selected ones.

        Args:
          found: arm → `student.…` and `distillation.…` keys with the values that the tuning chose.

        Raises:
          ConfigError: an arm's settings are wrong, or it refers to an arm that is not there.
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
                    f"arm {arm.name} is taught by itself, so it needs an arm without a teacher, of the same student and"
                    f" with its seeds {list(arm.seeds)}: add one with teacher: none, and select it too"
                )
        return made

    def arm_config(self, name: str, found: dict[str, dict[str, Any]]) -> RunConfig:
        """The run config as an arm changes it."""
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
                f"arm {name}: a benchmark's students learn from finished teachers: distillation.mode offline"
            )
        return config

    def _lineage(self, name: str) -> list[str]:
        """The arms that an arm starts from, first the one that is like no other, and itself."""
        chain = [name]
        while (before := self.config.arms[chain[0]].like) is not None:
            if before not in self.config.arms or before in chain:
                raise ConfigError(f"arm {chain[0]} is like {before}, which is no other arm: {list(self.config.arms)}")
            chain.insert(0, before)
        return chain

    def _plain(self, name: str, configs: dict[str, RunConfig]) -> str | None:
        named = self.config.arms[name].plain
        without = [other for other, arm in self.config.arms.items() if arm.teacher == "none"]
        if named is not None and named not in without:
            raise ConfigError(f"arm {name}: plain is {named}, which is no arm with teacher: none; there are {without}")
        return named or next((other for other in without if _same_model(configs[other], configs[name])), None)


def _same_model(one: RunConfig, other: RunConfig) -> bool:
    """Whether two students have the same shape and read the same titles; dropout may be tuned."""
    left, right = ((c.student.model.model_copy(update={"dropout": 0.0}), c.student.text) for c in (one, other))
    return left == right


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both have a key that is no mapping in both, the second's value holds."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merge(below[key], value) if both else value
    return merged


def _without_overruled(data: dict[str, Any], student: dict[str, Any]) -> dict[str, Any]:
    """The config without the `student.control` settings that a layer above sets for the student itself."""
    control = dict(data["student"]["control"])
    if "dropout" in student.get("model", {}):
        control["dropout"] = None
    control["train"] = {key: value for key, value in control["train"].items() if key not in student.get("train", {})}
    return data | {"student": data["student"] | {"control": control}}


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def draw_trials(tuning: TuningConfig) -> list[dict[str, Any]]:
    """The settings of each trial, the same for every arm; the draw depends on the search's seed alone."""
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
    """Read a benchmark config and the run config it names.

    Args:
      path: a YAML file.
      overrides: `key=value` texts; those that begin with `run.` go to the run config.
      ds: the run's date, `YYYY-MM-DD`; wins over the run config's.
      arms: only these.

    Raises:
      ConfigError: a file is missing or wrong, an arm is unknown or wrong, or the run distils jointly.
    """
    to_run = tuple(text.removeprefix("run.") for text in overrides if text.startswith("run."))
    data = read_mapping(path, overrides=tuple(text for text in overrides if not text.startswith("run.")))
    try:
        config = BenchmarkConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"the benchmark config {path} is wrong: {first_fault(error)}") from None
    run_path = Path(path).parent / config.run
    run = load_config(run_path, overrides=to_run, ds=ds)
    named = {"--arms": arms or (), "tuning.arms": config.tuning.arms if config.tuning else ()}
    for where, names in named.items():
        if unknown := [name for name in names if name not in config.arms]:
            raise ConfigError(f"{where} names {unknown}, but the benchmark has the arms {list(config.arms)}")
    if own := [name for name in named["tuning.arms"] if config.arms[name].teacher == "self"]:
        raise ConfigError(
            f"tuning.arms: {own} are taught by themselves, which has to wait for the tuning; leave them out"
        )
    benchmark = Benchmark(config, run, run_path, to_run, arms)
    benchmark.arms()
    for trial in draw_trials(config.tuning) if config.tuning else []:
        benchmark.arms(dict.fromkeys(named["tuning.arms"], trial))
    return benchmark
