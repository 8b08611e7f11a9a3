"""A request for a list: the JSON body, checked before anything is computed."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlib.config.base import first_fault
from kdlib.privacy.pseudonyms import BLANKS

MOST_BYTES = 65_536
MOST_EVENTS = 1_000
MOST_ID_CHARACTERS = 256
"""As in `kdlib.features.columns`: no event of a run has a longer id."""
AHEAD_SECONDS = 300
"""How far a time may lie in the future, because clocks differ."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_ECHOED = 300
_EXAMPLE = (
    '{"session": [{"item": "sku-1", "event_type": "view", "time": "2026-12-01T10:00:00Z"}], "user": "u1", "k": 10}'
)


class RequestError(Exception):
    """A request that cannot be answered. The text says what was expected, what was found, where, and what to do.

    Args:
      status: the HTTP status.
      text: for the person who wrote the client.
      headers: of the answer.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, dict(headers or {})


@dataclass(frozen=True)
class Event:
    """An event of a session."""

    item: str
    event_type: str | None
    """The shop's name of the type, or ours. None: the usual type."""
    time: int | None
    """Microseconds since 1970. None: now."""
    session: str | None
    """The shop's own session id."""


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    events: tuple[Event, ...]
    """In the order of the request. Either all have a time or none has."""
    user: str | None
    k: int | None
    """None: as long as the nightly list."""


Id = Annotated[str, Field(min_length=1, max_length=MOST_ID_CHARACTERS)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Event(_Strict):
    item: Id
    event_type: Id | None = None
    time: Any = None
    session: Id | None = None


class _Body(_Strict):
    session: Annotated[list[_Event], Field(max_length=MOST_EVENTS)]
    user: Id | None = None
    k: Annotated[int, Field(ge=1)] | None = None


def parse(body: bytes, *, now: int) -> Request:
    """The request in a body.

    Args:
      body: at most `MOST_BYTES`.
      now: microseconds since 1970.

    Raises:
      RequestError: the body is no JSON, lacks a key, has an unknown one, or a value that cannot be.
    """
    try:
        found = _Body.model_validate(_json(body))
    except ValidationError as error:
        raise _bad(_cut(first_fault(error))) from None
    times = [_microseconds(event.time, f"session.{n}.time", now) for n, event in enumerate(found.session)]
    if len({time is None for time in times}) > 1:
        raise _bad(
            f"session.{times.index(None)}.time is missing, and other events have a time. Give each event a time, or none"
        )
    events = (
        Event(event.item.strip(BLANKS), event.event_type, time, event.session)
        for event, time in zip(found.session, times, strict=True)
    )
    return Request(tuple(events), found.user, found.k)


def _bad(text: str) -> RequestError:
    return RequestError(400, f"{text}. Expected a body like {_EXAMPLE}")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_ECHOED else f"{text[:_MOST_ECHOED]}…"


def _json(body: bytes) -> Any:
    """The JSON in a body, more strictly than Python reads it: no key stands twice, no NaN, no infinity."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _bad(f"the body must be UTF-8, found the byte 0x{body[error.start]:02x} at {error.start}") from None
    except RecursionError:
        raise _bad("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _bad(f"the body must be JSON, found at character {error.pos}: {error.msg}") from None
    except ValueError:  # an integer of more digits than Python reads
        raise _bad("the body holds a number with thousands of digits") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _bad(f"the key {_cut(repr(twice))} stands twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise _bad(f"{name} is no JSON number")


def _microseconds(value: Any, where: str, now: int) -> int | None:
    """A time of the request in microseconds since 1970; None where none is given."""
    if value is None:
        return None
    found = None
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is not None and at.tzinfo is None:
            raise _bad(f"{where}: {value!r} has no offset. Write 2026-12-01T10:00:00Z, or …+01:00")
        found = None if at is None else (at - _EPOCH) // timedelta(microseconds=1)
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        found = round(max(min(value, 1e12), -1.0) * 1_000_000)
    if found is None:
        raise _bad(f"{where} must be an ISO 8601 time with an offset, or seconds since 1970, found {_cut(repr(value))}")
    if not 0 <= found <= now + AHEAD_SECONDS * 1_000_000:
        raise _bad(
            f"{where}: {_cut(repr(value))} is before 1970 or in the future. A number counts seconds, not milliseconds"
        )
    return found
