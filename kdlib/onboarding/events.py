"""The mapping of a shop's events: which column is what, which rows count."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from kdlib.errors import InputError
from kdlib.onboarding.arrow import pc
from kdlib.onboarding.columns import (
    MOST_TYPES,
    Doubt,
    best_column,
    counts_of,
    day_number,
    examples,
    follows,
    id_column,
    is_coded,
    no_ids_of,
    num_distinct,
    numbers_of,
    order_column,
    share,
    time_column,
    type_column,
    with_names,
)
from kdlib.onboarding.sample import Source
from kdlib.onboarding.times import TimeForm, time_form
from kdlib.onboarding.words import event_type_of, role_score, type_of_file

_CODES = {"1": "view", "2": "favourite", "3": "cart", "4": "purchase"}
ROLES = ("user", "session", "item", "time")
"""The roles of columns that a person may name."""
_FEW_ROWS = 20
"""With fewer rows, it is no sign that all ids differ."""
_MOST_NAMED = 30
"""An error lists at most this many columns."""
_EXCEL = r"^[3-6]\d{4}(?:[.,]\d+)?$"
_CLOCK = r"^\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?$"


@dataclass(frozen=True)
class EventsMapping:
    """How the events of a source are read."""

    source: Source
    user: str | None = None
    session: str | None = None
    item: str | None = None
    event_type: str | None = None
    event_id: str | None = None
    time_column: str | None = None
    time: TimeForm | None = None
    day_columns: tuple[str, ...] = ()
    order_column: str | None = None
    order_unit: str = "seconds"
    event_types: dict[str, str] = field(default_factory=dict)
    only_type: str | None = None
    where: tuple[str, ...] = ()
    """Conditions in Spark SQL; all must be true."""
    doubts: tuple[Doubt, ...] = ()

    @property
    def has_times(self) -> bool:
        """Whether the events have times or days of their own, not only an order."""
        return self.time is not None and self.time.format != "day_numbers"

    @property
    def people(self) -> str | None:
        """The column that a run takes as the user."""
        return self.user or self.session


def map_events(source: Source, given: Mapping[str, str] | None = None) -> EventsMapping:
    """The mapping of a source's events.

    Args:
      source: a sample.
      given: role, one of `ROLES` → the column that a person has named; the other columns are guessed. For a file without
        a header, the columns are `column_1`, `column_2`, …

    Raises:
      InputError: the source has no column for the item, the user or the time, or its ids tell nothing.
    """
    if source.form.format == "sequences":
        return _checked(EventsMapping(source, user="user", item="item"))
    given, doubts = given or {}, list[Doubt]()
    if missing := [name for name in given.values() if name not in source.columns]:
        raise InputError(f"{source.path} has no column {missing[0]!r}. {_columns_of(source)}")
    if not given:
        source, doubts = with_names(source)
    taken = [*given.values()]
    found_time = time_column(source, taken=[name for role, name in given.items() if role != "time"])
    if "time" in given:
        form = time_form(source.columns[given["time"]])
        found_time = (given["time"], form) if form else None
    type_ = type_column(source, taken=[*taken, found_time and found_time[0]])
    taken += [found_time and found_time[0], type_]
    user = given.get("user") or id_column(source, "user", taken=taken, least=2)
    session = given.get("session") or id_column(source, "session", taken=[*taken, user], least=2)
    item = given.get("item") or id_column(source, "item", taken=[*taken, user, session])
    mapping = EventsMapping(source, user, session, item, type_, doubts=tuple(doubts))
    mapping = _with_people(mapping, taken=[*taken, item])
    mapping = _with_time(mapping, found_time)
    return _checked(_with_rows_that_count(_with_types(_with_doubts(mapping, given))))


def _with_people(mapping: EventsMapping, *, taken: Sequence[str | None]) -> EventsMapping:
    source, user, session = mapping.source, mapping.user, mapping.session
    doubts, where = [*mapping.doubts], [*mapping.where]
    basket = best_column(source, "basket", taken=[*taken, user, session], least=3)
    if user:
        rows = source.num_rows
        empty = rows - len(source.columns[user].drop_null())
        nobody = no_ids_of(source.columns[user])
        unset = sum(nobody.values())
        other = id_column(source, "user", taken=[*taken, user, session], least=3)
        if other and empty + unset > 0.5 * rows > source.columns[other].null_count:
            text = f"{user} has no user in {share(empty + unset, rows)} of the rows, so {other} is the user"
            doubts.append(Doubt("input.events.user", text))
            user = other
        elif empty + unset > 0.5 * rows and (session or basket):
            doubts.append(
                Doubt(
                    "input.events.session",
                    f"{user} has no user in {share(empty + unset, rows)} of the rows, so each {session or basket} counts"
                    f" as a user. To use {user} instead, set user: {user}; rows without one are then quarantined",
                )
            )
            user = None
        elif unset:
            where.append(_sql_none_of(user, nobody))
    if session and num_distinct(source.columns[session]) == source.num_rows > _FEW_ROWS and user:
        session = None  # every row has its own: it is no session
    if not user and not session and basket:
        session = basket
        doubts.append(
            Doubt("input.events.session", f"no column names users, so each {basket} counts as a user of its own")
        )
    if mapping.item and (nothing := no_ids_of(source.columns[mapping.item])):
        where.append(_sql_none_of(mapping.item, nothing))
    return replace(mapping, user=user, session=session, where=tuple(where), doubts=tuple(doubts))


def _with_time(mapping: EventsMapping, found: tuple[str, TimeForm] | None) -> EventsMapping:
    """The mapping with its time: a column, or days and a running number within the day."""
    source = mapping.source
    taken = [mapping.user, mapping.session, mapping.item, mapping.event_type, found and found[0]]
    order, unit = order_column(source, taken)
    parts = tuple(
        next((name for name in source.columns if name.lower() == part), "") for part in ("year", "month", "day")
    )
    if order and all(parts) and (found is None or found[1].days_only):
        form = TimeForm("day_and_order", days_only=True)
        return replace(mapping, day_columns=parts, order_column=order, order_unit=unit, time=form)
    if found is None and (number := day_number(source, [*taken, order]) or order):
        doubt = Doubt(
            "input.events.time",
            f"no column holds dates, so {number} gives the order: its number n counts as the n-th day after 1970-01-01",
        )
        return replace(
            mapping,
            day_columns=(number,),
            order_column=order or number,
            order_unit=unit,
            time=TimeForm("day_numbers", days_only=True),
            doubts=(*mapping.doubts, doubt),
        )
    if found is None:
        return mapping
    name, form = found
    if order and form.days_only and form.format == "iso":
        form = replace(form, format="day_and_order")
        return replace(mapping, day_columns=(name,), order_column=order, order_unit=unit, time=form)
    doubts = []
    if form.other_pattern:
        doubts.append(
            Doubt(
                "input.events.time",
                f"{name} fits {form.pattern} and {form.other_pattern} alike, for example {examples(source.columns[name])}."
                f" If the month comes first, set pattern: {form.other_pattern!r}",
            )
        )
    elif form.share < 0.999:
        doubts.append(
            Doubt(
                "input.events.time", f"{share(form.share, 1)} of the values in {name} parse; the others are quarantined"
            )
        )
    if form.days_only:
        clock = next((other for other in source.columns if _share_matching(source.columns[other], _CLOCK) > 0.9), None)
        doubts.append(
            Doubt(
                "input.events.time",
                f"{name} holds days without a time of day. The items of a user's day are ordered by their ids. "
                + (
                    f"The time of day is in {clock}: write both into one column of the export, and run init again"
                    if clock
                    else "If the export can hold the time of day, add it"
                ),
            )
        )
    return replace(mapping, time_column=name, time=form, doubts=(*mapping.doubts, *doubts))


def _with_doubts(mapping: EventsMapping, given: Mapping[str, str]) -> EventsMapping:
    """Say which columns have gaps, and which were taken by a part of their name, or by their values alone."""
    source, doubts = mapping.source, [*mapping.doubts]
    for role, name in (("user" if mapping.user else "session", mapping.people), ("item", mapping.item)):
        if name and (empty := source.columns[name].null_count) > 0.01 * source.num_rows:
            text = f"{name} is empty in {share(empty, source.num_rows)} of the rows, and a run leaves these out"
            doubts.append(Doubt(f"input.events.{role}", text))
    if not source.form.first_line_names and source.form.format == "csv":
        return mapping
    for role in ("user", "session", "item"):
        name = getattr(mapping, role)
        if (
            role not in given
            and name
            and role_score(name, role) < 3
            and not any(doubt.setting.endswith(role) for doubt in doubts)
        ):
            values = source.columns[name]
            doubts.append(
                Doubt(
                    f"input.events.{role}",
                    f"{name} is the {role} by a part of its name; it has {num_distinct(values):,} values in the sample,"
                    f" for example {examples(values)}",
                )
            )
    for name in source.columns if mapping.item and "item" not in given else ():
        is_item = role_score(name, "item") >= 2 and not role_score(name, "category")
        if is_item and num_distinct(source.columns[name]) > 1 and follows(source, name, mapping.item or ""):
            text = (
                f"one {name} has several {mapping.item}. If these are sizes or colours of one product, set item: {name}"
            )
            doubts.append(Doubt("input.events.item", text))
    if "time" not in given and mapping.time_column and (score := role_score(mapping.time_column, "time")) < 3:
        why = "a part of its name" if score else "its values alone"
        doubts.append(Doubt("input.events.time", f"{mapping.time_column} is the time by {why}"))
    return replace(mapping, doubts=tuple(doubts))


def _with_types(mapping: EventsMapping) -> EventsMapping:
    """The mapping with event types, or with the one type of all events."""
    source, doubts = mapping.source, [*mapping.doubts]
    if not mapping.event_type:
        ours, why = _type_of_all(mapping)
        rating = best_column(source, "rating", taken=[mapping.item], least=3)
        if rating and ours != "purchase":
            text = f"every rating counts as a view. To keep what people liked, set where: {_sql_name(rating)} >= 4"
            doubts.append(Doubt("input.events.where", text))
        unknown = {
            name: counts_of(source.columns[name])
            for name in source.columns
            if role_score(name, "event_type") >= 2
            and 1 < num_distinct(source.columns[name]) <= MOST_TYPES
            and name not in (mapping.user, mapping.session, mapping.item, mapping.time_column)
        }
        for name, types in unknown.items():
            told = ", ".join(f"{value} ({share(number, source.num_rows)})" for value, number in types[:10])
            text = (
                f"{name} may hold event types, but init does not know most of its values: {told}. So every row counts as a"
                f" {ours or 'view'}. To tell them apart, set event_type: {name} and event_types: {{value: view, …}}"
            )
            doubts.append(Doubt("input.events.event_type", text))
        if not (ours or rating or unknown or type_of_file(source.name)):
            text = "nothing tells what a row is, so every row counts as a view. For orders, set only_type: purchase"
            doubts.append(Doubt("input.events.only_type", text))
        if ours == "purchase":
            doubts.append(Doubt("input.events.only_type", f"every row counts as a purchase, because {why}"))
        return replace(mapping, only_type=ours, doubts=tuple(doubts))
    types = counts_of(source.columns[mapping.event_type])
    found = {value: event_type_of(value) for value, _ in types}
    if is_coded(mapping.event_type, [value for value, _ in types]):
        found = {value: _CODES[value] for value, _ in types}
        doubts.append(
            Doubt(
                "input.events.event_types",
                f"{mapping.event_type} holds numbers. They are read as Tianchi's: 1 view, 2 favourite, 3 cart, 4"
                f" purchase; rows: {', '.join(f'{value} {number:,}' for value, number in types)}",
            )
        )
    event_types = {value: ours for value, ours in found.items() if ours}
    where = [*mapping.where]
    if left_out := [value for value, ours in found.items() if not ours]:
        where.append(_sql_none_of(mapping.event_type, left_out))
        numbers = dict(types)
        doubts.append(
            Doubt(
                "input.events.event_types",
                "these types are left out: "
                + ", ".join(f"{value} ({share(numbers[value], source.num_rows)} of the rows)" for value in left_out)
                + ". To use one, add it to event_types and take it out of where",
            )
        )
    return replace(mapping, event_types=event_types, where=tuple(where), doubts=tuple(doubts))


def _type_of_all(mapping: EventsMapping) -> tuple[str | None, str]:
    """The type of all events of a source without event types, and why; None: views."""
    source = mapping.source
    if named := type_of_file(source.name):
        return (named if named == "purchase" else None), f"the file is called {source.name}"
    taken = [mapping.user, mapping.item]
    for role, least in (("quantity", 2), ("basket", 3)):
        if name := best_column(source, role, taken=taken, least=least):
            return "purchase", f"the column {name} is of order lines"
    return None, ""


def _with_rows_that_count(mapping: EventsMapping) -> EventsMapping:
    """The mapping with filters for returns and cancellations."""
    source, where = mapping.source, [*mapping.where]
    if quantity := best_column(source, "quantity", taken=[mapping.item]):
        numbers = numbers_of(source.columns[quantity])
        if len(numbers) and pc.min(numbers).as_py() <= 0:
            comma = pc.any(pc.match_substring(source.columns[quantity], ",")).as_py()
            where.append(f"{_sql_name(quantity)} not like '-%'" if comma else f"{_sql_name(quantity)} > 0")
    basket = best_column(source, "basket", least=3)
    if basket:
        values = source.columns[basket].drop_null()
        cancelled = pc.sum(pc.match_substring_regex(values, r"^C\d+$")).as_py() or 0
        if cancelled and cancelled < len(values) / 2 and _share_matching(values, r"^C?\d+$") > 0.9:
            where.append(f"{_sql_name(basket)} not like 'C%'")
    for name, values in source.columns.items():
        if name == mapping.event_type or role_score(name, "status") < 2 or num_distinct(values) > MOST_TYPES:
            continue
        if undone := [value for value, _ in counts_of(values) if event_type_of(value) == ""]:
            where.append(_sql_none_of(name, undone, keep_nulls=values.null_count > 0))
    return replace(mapping, where=tuple(dict.fromkeys(where)))


def _share_matching(values: pa.Array, form: str) -> float:
    return (pc.sum(pc.match_substring_regex(values, form)).as_py() or 0) / max(1, len(values))


def _checked(mapping: EventsMapping) -> EventsMapping:
    """The mapping, unless something that a run needs is missing."""
    source = mapping.source
    there = _columns_of(source)
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
        odd = best_column(source, "time", taken=[mapping.user, mapping.item])
        but = f" {odd} holds {examples(source.columns[odd])}, which no known form of a time fits." if odd else ""
        if odd and _share_matching(source.columns[odd], _EXCEL) > 0.9:
            but += " They look like Excel's days since 1900: format the cells as dates before you save the CSV."
        raise InputError(
            f"{source.path} has no column with times.{but} {there}. Write the time of each event into the export as"
            " 2025-12-01 13:45:00. If only the order is known, write one line a user, `user item item …`, oldest first"
        )
    for what, name in (("item", mapping.item), ("user" if mapping.user else "session", mapping.people)):
        assert name
        distinct = num_distinct(source.columns[name])
        if distinct == 1:
            raise InputError(
                f"{source.path}: all rows have the same {what} ({name} {examples(source.columns[name])}), so nothing can"
                f" be learnt. Is {name} the right column, and is the export whole?"
            )
        if distinct == source.num_rows > _FEW_ROWS:
            raise InputError(
                f"{source.path}: each of the {distinct:,} rows has another {what} ({name}, for example"
                f" {examples(source.columns[name])}), so no {what} is seen twice and nothing can be learnt. Give a file"
                f" in which a column holds the {what}"
            )
    return mapping


def _columns_of(source: Source) -> str:
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
            raise InputError(
                f"{source.path} holds {', '.join(keys)} inside the objects of {path}, and a run reads flat rows, one an"
                f" event. Write them out: `jq -c '. + {path}' {source.name} > flat.jsonl`, and give flat.jsonl to init"
            )
    if source.nested:
        raise InputError(
            f"{source.path} has no plain column for the {' and the '.join(missing)}: {', '.join(source.nested)} hold lists,"
            " objects or bytes, which a run cannot read. Write one row an item, with plain values"
        )


def _sql_none_of(name: str, values: Iterable[str], *, keep_nulls: bool = False) -> str:
    """A condition that leaves some values out. Without `keep_nulls`, it leaves rows without a value out, too."""
    column = f"coalesce({_sql_name(name)}, '')" if keep_nulls else _sql_name(name)
    return f"{column} not in ({', '.join(map(_sql_text, values))})"


def _sql_name(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else "`" + name.replace("`", "``") + "`"


def _sql_text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
