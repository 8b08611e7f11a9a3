"""What all sections of a config share: the frozen base model, common types, and the text of an error.

Keys and passwords in a URL are refused, because paths stand in logs, errors and manifests.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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


NO_CREDENTIALS = (
    "a URL may have no user or key before an @, and no options after a ?. Give credentials and endpoint in the environment"
    " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, …)"
)
"""What a URL may not hold, and what to do, for an error's text."""

_SCHEME = r"(?<![\w+.-])[A-Za-z][A-Za-z0-9+.-]*:/+"
_CONTAINER = r"(?:abfs|wasb)s?://[^/:@?\s]+@(?![^\s'\"]*@)"
"""Azure writes `container@account`, which is no key."""
_USER = re.compile(rf"(?!{_CONTAINER})({_SCHEME})[^\s'\"]*@")
_OPTIONS = re.compile(rf"({_SCHEME}[^\s'\"]*?)\?[A-Za-z_][\w.%-]*=[^\s'\"]*")
"""A `?` that no name and `=` follow stands for one character of a file's name."""


def holds_credentials(text: str) -> bool:
    """Whether a text is a URL that may hold keys: with anything before an @, or with options after a ?."""
    url = re.sub(r"[\s'\"]", "_", text.strip())
    return bool(_USER.match(url) or _OPTIONS.match(url))


def without_credentials(text: str) -> str:
    """The text with `…` in place of what may be keys in its URLs: `s3://…@bucket/folder`."""
    return _OPTIONS.sub(r"\1?…", _USER.sub(r"\1…@", text))


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
