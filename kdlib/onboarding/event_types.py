"""What a row of the events counts as: its type, and which rows are left out."""

from collections.abc import Iterable
from dataclasses import replace

from kdlib.onboarding.arrow import pc
from kdlib.onboarding.columns import (
    MOST_TYPES,
    Doubt,
    best_column,
    counts_of,
    is_coded,
    num_distinct,
    numbers_of,
    share,
    share_matching,
)
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.words import event_type_of, role_score, type_of_file

_CODES = {"1": "view", "2": "favourite", "3": "cart", "4": "purchase"}


def with_types(mapping: EventsMapping) -> EventsMapping:
    """The mapping with event types, or with the one type of all events."""
    source, doubts = mapping.source, [*mapping.doubts]
    if not mapping.event_type:
        ours, why = _type_of_all(mapping)
        rating = best_column(source, "rating", taken=[mapping.item], least=3)
        if rating and ours != "purchase":
            text = f"every rating counts as a view. To keep what people liked, set where: {sql_name(rating)} >= 4"
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
        where.append(sql_none_of(mapping.event_type, left_out))
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


def with_rows_that_count(mapping: EventsMapping) -> EventsMapping:
    """The mapping with filters for returns and cancellations."""
    source, where = mapping.source, [*mapping.where]
    if quantity := best_column(source, "quantity", taken=[mapping.item]):
        numbers = numbers_of(source.columns[quantity])
        lowest = pc.min(numbers).as_py() if len(numbers) else 1
        if lowest < 0 or (lowest == 0 and role_score(quantity, "quantity") >= 3):
            comma = pc.any(pc.match_substring(source.columns[quantity], ",")).as_py()
            where.append(f"{sql_name(quantity)} not like '-%'" if comma else f"{sql_name(quantity)} > 0")
    basket = best_column(source, "basket", least=3)
    if basket:
        values = source.columns[basket].drop_null()
        cancelled = pc.sum(pc.match_substring_regex(values, r"^C\d+$")).as_py() or 0
        if cancelled and cancelled < len(values) / 2 and share_matching(values, r"^C?\d+$") > 0.9:
            where.append(f"{sql_name(basket)} not like 'C%'")
    for name, values in source.columns.items():
        if name == mapping.event_type or role_score(name, "status") < 2 or num_distinct(values) > MOST_TYPES:
            continue
        if undone := [value for value, _ in counts_of(values) if event_type_of(value) == ""]:
            where.append(sql_none_of(name, undone, keep_nulls=values.null_count > 0))
    return replace(mapping, where=tuple(dict.fromkeys(where)))


def sql_none_of(name: str, values: Iterable[str], *, keep_nulls: bool = False) -> str:
    """A condition that leaves some values out. Without `keep_nulls`, it leaves rows without a value out, too."""
    column = f"coalesce({sql_name(name)}, '')" if keep_nulls else sql_name(name)
    return f"{column} not in ({', '.join(map(_sql_text, values))})"


def sql_name(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else "`" + name.replace("`", "``") + "`"


def _sql_text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
