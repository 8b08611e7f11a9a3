"""What a run needs of the events: a mapping that lacks it is an error."""

import re

from kdlib.errors import InputError
from kdlib.onboarding.columns import FEW_ROWS, best_column, examples, num_distinct, share_matching
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.sample import Source
from kdlib.onboarding.words import role_score

_MOST_NAMED = 30
"""An error lists at most this many columns."""
_EXCEL = r"^[3-6]\d{4}(?:[.,]\d+)?$"
"""Excel's days since 1900, from 1982 to 2091."""


def checked(mapping: EventsMapping) -> EventsMapping:
    """The mapping, unless something that a run needs is missing."""
    source = mapping.source
    there = columns_of(source)
    wanted = (("item", mapping.item, "item=NAME"), ("user or the session", mapping.people, "user=NAME"))
    for what, name, option in wanted:
        if name is None:
            _check_flat(mapping)
            raise InputError(
                f"{source.path} has no column for the {what} by its name. {there}. If one of them is, give init its name:"
                f" --column {option}"
            )
    if mapping.time is None and source.form.format != "sequences":
        _check_flat(mapping)
        if odd := best_column(source, "time", taken=[mapping.user, mapping.item]):
            raise odd_times(source, odd)
        raise InputError(
            f"{source.path} has no column with times. {there}. Add the time of each event as 2025-12-01 13:45:00; if only"
            " the order is known, write one line a user, `user item item …`, oldest first"
        )
    for what, name in (("item", mapping.item), ("user" if mapping.user else "session", mapping.people)):
        assert name
        distinct = num_distinct(source.columns[name])
        if distinct == 1:
            raise InputError(
                f"{source.path}: all rows have the same {what} ({name} {examples(source.columns[name])}), so nothing can"
                f" be learnt. Is {name} the right column, and is the export whole?"
            )
        if distinct == source.num_rows > FEW_ROWS:
            raise InputError(
                f"{source.path}: each of the {distinct:,} rows has another {what} ({name}, for example"
                f" {examples(source.columns[name])}), so no {what} is seen twice and nothing can be learnt. Give a file"
                f" in which a column holds the {what}"
            )
    return mapping


def odd_times(source: Source, name: str) -> InputError:
    """The error for a column whose times have no known form."""
    is_excel = share_matching(source.columns[name], _EXCEL) > 0.9
    todo = "format the cells as dates before you save the CSV" if is_excel else "write them as 2025-12-01 13:45:00"
    return InputError(
        f"{source.path}: {name} holds {examples(source.columns[name])}, which no known form of a time fits. If these are"
        f" {'Excel days since 1900' if is_excel else 'times'}, {todo}"
    )


def columns_of(source: Source) -> str:
    """The names of the columns in a sentence, without the full stop."""
    names = [*source.columns, *source.nested]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"Its columns are {', '.join(names[:_MOST_NAMED]) or 'none'}{more}"


def _check_flat(mapping: EventsMapping) -> None:
    """Raise InputError where a missing role is probably inside the objects of a column."""
    source = mapping.source
    roles = {"item": mapping.item, "user": mapping.people, "time": mapping.time_column}
    missing = [role for role, name in roles.items() if name is None]
    inside = {
        path: [key for key in keys if any(role_score(key, role) >= 2 for role in missing)]
        for path, keys in source.nested.items()
    }
    for path, keys in inside.items():
        if keys:
            field = re.sub(r"^\(| \| fromjson\)$|\[\]\?$", "", path)
            raise InputError(
                f"{source.path} holds {', '.join(keys)} inside {field}, and a run reads flat rows, one an event. Write them"
                f" out: `jq -c 'del({field}) + {path}' {source.name} > flat.jsonl`, and give flat.jsonl to init"
            )
    if source.nested:
        raise InputError(
            f"{source.path} has no plain column for the {' and the '.join(missing)}: {', '.join(source.nested)} hold lists,"
            " objects or bytes, which a run cannot read. Write one row an item, with plain values"
        )
