"""Read a run config from YAML, with overrides and environment variables."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kdlib.config import recipe
from kdlib.config.base import first_fault
from kdlib.config.costs import Scale
from kdlib.config.credentials import without_credentials
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError

MOST_VALUES = 20_000
"""How many values a run config may have once its aliases are filled in. A few lines of aliases can stand for billions."""

SHIPPED = Path(__file__).parents[2] / "cluster" / "runs"
"""The run configs that distilrec brings, in the source folder and in the wheel alike."""


def config_file(path: str | Path) -> Path:
    """The file that a path names: a file that exists, else the shipped run config of that name.

    Args:
      path: any path. `laptop.yaml` and `cluster/runs/laptop.yaml` also name the shipped one, in any working folder.
    """
    path = Path(path)
    shipped = SHIPPED / path.name
    is_shipped = path.parent in (Path(), Path("cluster/runs")) and shipped.is_file()
    return shipped if is_shipped and not path.exists() else path


def load_config(
    path: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    ds: str | None = None,
    expand: bool = True,
    scale_of: Callable[[RunConfig], Scale | None] = lambda _: None,
) -> RunConfig:
    """Read a run config. The default recipe (`kdlib.config.recipe`) fills in the models that it leaves out.

    Args:
      path: a YAML file, as `config_file` takes it.
      overrides: texts `section.key=value`. The value is read as YAML; a list item is addressed by its number, from 0.
      ds: the run's date, `YYYY-MM-DD`. It overrides the file's.
      expand: fill in environment variables. False: leave them for another machine to fill in.
      scale_of: size of the data of a run, for the default recipe; None before its features are built.

    Raises:
      ConfigError: the file is missing or is not YAML, or a key is unknown, missing or out of range.
    """
    data = read_mapping(path, overrides=overrides)
    if ds is not None:
        data["ds"] = ds
    data = expanded(data) if expand else data
    try:
        if not recipe.applies(data):
            return RunConfig.model_validate(data)
        config = RunConfig.model_validate(recipe.with_recipe(data))
        scale = scale_of(config)
        return config if scale is None else RunConfig.model_validate(recipe.with_recipe(data, scale))
    except ValidationError as error:
        given = ds is not None and error.errors()[0]["loc"] == ("ds",)
        where = "--ds" if given else f"the run config {path}"
        raise ConfigError(f"{where} is wrong: {first_fault(error)}") from None


def read_mapping(path: str | Path, *, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with overrides applied.

    Args:
      path: as for `load_config`.
      overrides: as for `load_config`.

    Raises:
      ConfigError: the file is missing, is not UTF-8, YAML or a mapping, or an override is wrong.
    """
    try:
        data = yaml.load(config_file(path).read_text(), _UniqueKeys)
    except OSError as error:
        shipped = ", ".join(sorted(one.name for one in SHIPPED.glob("*.yaml")))
        raise ConfigError(
            f"cannot read the run config {path}: {error.strerror}. Check the path, or name a run config that"
            f" distilrec brings: {shipped}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the run config {path} is not UTF-8 text: {error}. Save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the run config {path} is not valid YAML: {_fault(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"the run config {path} must be a mapping of sections, found {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    return data


def _fault(error: Exception) -> str:
    """What is wrong and where. PyYAML's own text shows the line, which may hold keys."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return "it is nested too deeply. Write it flat" if isinstance(error, RecursionError) else str(error)


class _UniqueKeys(yaml.SafeLoader):
    """A key that stands twice in a mapping is an error, as YAML demands. PyYAML alone silently takes the last one.

    Aliases that stand for more than `MOST_VALUES` values, or for themselves, are an error, too.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        _count_values(node, {})
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here a mapping has only the keys that are written in it. Keys from `<<` come later and may repeat them.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines and key.value != "<<":
                raise yaml.YAMLError(f"the key {key.value} stands in line {lines[name]} and again in line {line}")
            lines[name] = line
        return node


def _count_values(node: yaml.Node | None, counts: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for, with its aliases filled in. YAMLError for too many.

    Args:
      node: a scalar, a sequence or a mapping; an alias is the node that it names.
      counts: the counts of other nodes; None while the node is being counted.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if node not in counts:
        counts[node] = None
        inner = (one for item in node.value for one in (item if isinstance(item, tuple) else (item,)))
        counts[node] = 1 + sum(_count_values(one, counts) for one in inner)
    count, line = counts[node], node.start_mark.line + 1
    if count is None:
        raise yaml.YAMLError(f"the value in line {line} holds an alias of itself. Remove the alias")
    if count > MOST_VALUES:
        raise yaml.YAMLError(
            f"the value in line {line} has more than {MOST_VALUES:,} values once its aliases are filled in. Use fewer"
            " aliases"
        )
    return count


def _apply(data: dict, override: str) -> None:
    key, equals, text = override.partition("=")
    shown = without_credentials(override)
    if not equals or not key:
        raise ConfigError(f"--set takes section.key=value, found {shown!r}")
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
        node[int(last) if isinstance(node, list) else last] = yaml.load(text, _UniqueKeys)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ConfigError(f"--set {shown!r}: no such place in the run config. Check the keys before the =") from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"--set {shown!r}: the text after the = is not a YAML value") from None


def expanded(value: Any) -> Any:
    """A value with the environment variables in all its texts filled in.

    Raises:
      ConfigError: a variable is not set.
    """
    if isinstance(value, dict):
        return {key: expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [expanded(inner) for inner in value]
    if isinstance(value, str) and "$" in value:
        text = os.path.expandvars(value)
        if missing := re.findall(r"\$\{?(\w+)\}?", text):
            raise ConfigError(
                f"the run config uses ${{{missing[0]}}} in {without_credentials(value)!r}, but that environment variable is not set."
                " Set it, or write the value itself"
            )
        return text
    return value
