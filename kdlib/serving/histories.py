"""Requests → histories, by the rules by which Spark makes them from the same events (`kdlib.features`).

Sessions come first, then repeats become one interaction, then items that are not in the vocabulary are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from kdlib.config.data import EVENT_TYPES
from kdlib.data.histories import Histories
from kdlib.data.windows import Marks
from kdlib.serving.made_with import MadeWith
from kdlib.serving.requests import Event, Request, RequestError
from kdlib.store.days import SECONDS_A_DAY

_TYPE_INDEX = {name: number for number, name in enumerate(EVENT_TYPES)}


@dataclass(frozen=True)
class Step:
    """An interaction, before the vocabulary is looked at."""

    item: str
    event_type: int
    """Index into EVENT_TYPES."""
    time: int
    """Microseconds since 1970."""
    session: int


def steps_of(request: Request, made: MadeWith, *, now: int) -> list[Step]:
    """The interactions of a request, oldest first.

    Events with times are put into the order of a run, and copies are dropped. Events without times keep their order, and
    happen now.

    Args:
      request: what a client asks.
      made: the settings of the run.
      now: microseconds since 1970.

    Raises:
      RequestError: the run does not know an event type.
    """
    rows = [_row(event, number, made) for number, event in enumerate(request.events)]
    if rows and rows[0][0] is not None:
        rows = sorted(set(rows))
    moments = [now if time is None else time for time, *_ in rows]
    days = [_day(moment, made.time_zone) for moment in moments]
    if made.session_gap_seconds is None:
        names = [session or f"none-{day}" for (*_, session), day in zip(rows, days, strict=True)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        sessions = [numbers[name] for name in names]
    else:
        opens = np.diff(moments, prepend=moments[:1]) > made.session_gap_seconds * 1_000_000
        sessions = np.cumsum(opens).tolist()
    found: list[Step] = []
    last = None
    for (_, item, event_type, _), moment, day, session in zip(rows, moments, days, sessions, strict=True):
        if made.collapse_repeats and last == (item, session, day):
            event_type = max(found[-1].event_type, event_type)
            found[-1] = Step(item, event_type, found[-1].time, session)
        else:
            found.append(Step(item, event_type, moment, session))
        last = (item, session, day)
    return found


def _row(event: Event, number: int, made: MadeWith) -> tuple[int | None, str, int, str]:
    """An event as a row that sorts as the events of a user do in a run: time, item, type, session id."""
    name = made.usual_type if event.event_type is None else made.event_types.get(event.event_type)
    if name is None:
        raise RequestError(
            400,
            f"session.{number}.event_type must be one of {', '.join(made.event_types)}, found {event.event_type!r}."
            " Leave it out for an event of the usual type",
        )
    return event.time, event.item, _TYPE_INDEX[name], event.session or ""


def _day(moment: int, time_zone: str) -> int:
    """The local date of a moment, as a number of days since a day that depends on the time zone.

    `days_of` would list all days from the first event to the last, and a client chooses these.
    """
    seconds = moment // 1_000_000
    if time_zone == "UTC":
        return seconds // SECONDS_A_DAY
    return datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(time_zone)).toordinal()


def histories_of(
    people: Sequence[Sequence[Step]],
    index_of: Mapping[str, int],
    *,
    user_ids: Sequence[str | None],
    user_values: np.ndarray,
) -> tuple[Histories, list[list[str]]]:
    """The histories of some people, and the items of each that the vocabulary lacks.

    Args:
      people: the interactions of each person.
      index_of: item id → index in the vocabulary.
      user_ids: of the people.
      user_values: int8 [people, features].
    """
    unknown = [list(dict.fromkeys(step.item for step in steps if step.item not in index_of)) for steps in people]
    known = [
        (owner, index_of[step.item], step.event_type, step.time, step.session)
        for owner, steps in enumerate(people)
        for step in steps
        if step.item in index_of
    ]
    owners, items, types, times, sessions = np.array(known, np.int64).reshape(-1, 5).T
    return Histories(user_ids, items, Marks(owners, sessions, types, times, user_values[owners])), unknown
