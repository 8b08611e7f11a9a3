"""The mapping of a shop's events: which column is what, which rows count."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kdlib.errors import InputError
from kdlib.onboarding.checks import checked, columns_of, odd_times
from kdlib.onboarding.columns import (
    FEW_ROWS,
    Doubt,
    best_column,
    day_number,
    examples,
    follows,
    id_column,
    no_ids_of,
    num_distinct,
    order_column,
    share,
    share_matching,
    time_column,
    type_column,
    with_names,
)
from kdlib.onboarding.event_types import sql_none_of, with_rows_that_count, with_types
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.sample import Source
from kdlib.onboarding.times import TimeForm, time_form
from kdlib.onboarding.words import role_score

_CLOCK = r"^\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?$"


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
        return checked(EventsMapping(source, user="user", item="item"))
    given, doubts = given or {}, list[Doubt]()
    if missing := [name for name in given.values() if name not in source.columns]:
        raise InputError(f"{source.path} has no column {missing[0]!r}. {columns_of(source)}")
    if not given:
        source, doubts = with_names(source)
    taken = [*given.values()]
    found_time = time_column(source, taken=[name for role, name in given.items() if role != "time"])
    if "time" in given:
        if (form := time_form(source.columns[given["time"]])) is None:
            raise odd_times(source, given["time"])
        found_time = given["time"], form
    type_ = type_column(source, taken=[*taken, found_time and found_time[0]])
    taken += [found_time and found_time[0], type_]
    user = given.get("user") or id_column(source, "user", taken=taken, least=2)
    session = given.get("session") or id_column(source, "session", taken=[*taken, user], least=2)
    item = given.get("item") or id_column(source, "item", taken=[*taken, user, session])
    mapping = EventsMapping(source, user, session, item, type_, doubts=tuple(doubts))
    mapping = _with_people(mapping, given, taken=[*taken, item])
    mapping = _with_time(mapping, found_time)
    return checked(with_rows_that_count(with_types(_with_doubts(mapping, given))))


def _with_people(mapping: EventsMapping, given: Mapping[str, str], *, taken: Sequence[str | None]) -> EventsMapping:
    """The mapping with the column that a run takes as the user, and without rows of nobody."""
    source, user, session = mapping.source, mapping.user, mapping.session
    doubts, where = [*mapping.doubts], [*mapping.where]
    basket = best_column(source, "basket", taken=[*taken, user, session], least=3)
    if user:
        rows = source.num_rows
        empty = rows - len(source.columns[user].drop_null())
        nobody = no_ids_of(source.columns[user])
        unset = sum(nobody.values())
        mostly_empty = "user" not in given and empty + unset > 0.5 * rows
        other = id_column(source, "user", taken=[*taken, user, session], least=3)
        if mostly_empty and other and source.columns[other].null_count < 0.5 * rows:
            text = f"{user} has no user in {share(empty + unset, rows)} of the rows, so {other} is the user"
            doubts.append(Doubt("input.events.user", text))
            user = other
        elif mostly_empty and (session or basket):
            doubts.append(
                Doubt(
                    "input.events.session",
                    f"{user} has no user in {share(empty + unset, rows)} of the rows, so each {session or basket} counts"
                    f" as a user. To use {user} instead, set user: {user}; rows without one are then quarantined",
                )
            )
            user = None
        elif unset:
            where.append(sql_none_of(user, nobody))
    single = session and num_distinct(source.columns[session]) == source.num_rows > FEW_ROWS
    if single and user and "session" not in given:
        session = None  # every row has its own: it is no session
    if not user and not session and basket:
        session = basket
        doubts.append(
            Doubt("input.events.session", f"no column names users, so each {basket} counts as a user of its own")
        )
    if mapping.item and (nothing := no_ids_of(source.columns[mapping.item])):
        where.append(sql_none_of(mapping.item, nothing))
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
        clock = next((other for other in source.columns if share_matching(source.columns[other], _CLOCK) > 0.9), None)
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
        return replace(mapping, doubts=tuple(doubts))
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
