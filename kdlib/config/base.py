"""What all sections of a config share: the frozen base model, common types, and the text of an error."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[int, Field(gt=0)]

Seed = Annotated[int, Field(ge=0)]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A section of the run config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


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
