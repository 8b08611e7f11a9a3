"""Settings by their path, `training.max_length`, as the stages declare what their results depend on."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from pydantic import BaseModel

from kdlib.config.base import Operational

LEFT_OUT = "-"
"""A declared path that begins with it is left out of what the other paths name."""


def settings_of(config: BaseModel, paths: Iterable[str]) -> dict[str, Any]:
    """The declared settings, flat: path of each value → value, JSON-ready; without operational ones.

    Args:
      config: the run config.
      paths: `seed`, `training`, `-training.defaults`. An item of a list is addressed by its `name`, all items by `*`.
    """
    paths = tuple(paths)
    named = {path for path in paths if not path.startswith(LEFT_OUT)}
    dropped = tuple(path.removeprefix(LEFT_OUT) for path in paths if path.startswith(LEFT_OUT))
    found: dict[str, Any] = {}
    for path in sorted(named):
        for place, value in _reached(config, path.split("."), ()):
            found |= flat(value, place)
    return {path: value for path, value in found.items() if not any(_below(path, one) for one in dropped)}


def flat(value: Any, path: str) -> dict[str, Any]:
    """A value as path → plain values; sections, mappings and named list items add to the path. Operational fields are left out."""
    if isinstance(value, BaseModel):
        value = {
            name: getattr(value, name)
            for name, field in type(value).model_fields.items()
            if not any(isinstance(mark, Operational) for mark in field.metadata)
        }
    elif isinstance(value, list | tuple) and value and all(isinstance(one, BaseModel) for one in value):
        value = {_name_of(one, number): one for number, one in enumerate(value)}
    if isinstance(value, dict) and value:
        parts = {str(name): inner for name, inner in value.items()}
        return {k: v for name, inner in parts.items() for k, v in flat(inner, f"{path}.{name}").items()}
    return {path: _plain(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def _reached(value: Any, path: list[str], place: tuple[str, ...]) -> list[tuple[str, Any]]:
    """(path, value) of all places that a path names."""
    if not path:
        return [(".".join(place), value)]
    first, *rest = path
    if isinstance(value, tuple):
        items = {_name_of(one, number): one for number, one in enumerate(value)}
        chosen = items if first == "*" else {first: items[first]}
        return [found for name, one in chosen.items() for found in _reached(one, rest, (*place, name))]
    if value is None:  # an optional section that is not there
        return [(".".join((*place, first, *rest)), None)]
    return _reached(getattr(value, first), rest, (*place, first))


def _name_of(item: Any, number: int) -> str:
    return getattr(item, "name", str(number))


def _below(path: str, above: str) -> bool:
    parts, wanted = path.split("."), above.split(".")
    return len(parts) >= len(wanted) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=False))
