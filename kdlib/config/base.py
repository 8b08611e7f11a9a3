"""What all sections of a config share: the frozen base model, common types, and the text of an error.

Keys and passwords in a URL are refused, because paths stand in logs, errors and manifests.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdlib.config.credentials import NO_CREDENTIALS, holds_credentials

Positive = Annotated[int, Field(gt=0)]

Seed = Annotated[int, Field(ge=0)]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A section of the run config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _holds_no_credentials(cls, data: Any) -> Any:
        """Before any other check, whose error would show the value."""
        if found := next((where for where, text in _texts(data) if holds_credentials(text)), None):
            raise ValueError(f"{found} holds credentials: {NO_CREDENTIALS}")
        return data


def _texts(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a mapping, each with its place: `input.events.path`."""
    if isinstance(data, str):
        yield where, data
    elif isinstance(data, dict | list | tuple):
        for name, inner in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _texts(inner, f"{where}.{name}" if where else str(name))


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, as a sentence that names the key, and the number of other faults."""
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


class Operational:
    """Marks a setting that changes how a run works, and never its results: retries, memory, the number of actors.

    Stages are not made again when such a setting changes: `Annotated[int, OPERATIONAL]`.
    """


OPERATIONAL = Operational()
