"""The mapping of a shop's catalogue: its item ids must be those of the events."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from kdlib.config.data import NO, YES
from kdlib.onboarding.arrow import pc
from kdlib.onboarding.columns import Doubt, best_column, counts_of, examples, num_distinct, share
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.sample import Source
from kdlib.onboarding.words import role_score

_LEAST_OVERLAP = 0.05
"""A catalogue that lists fewer of the events' items is not taken for theirs."""
_SURE = 0.5


@dataclass(frozen=True)
class CatalogueMapping:
    """How the catalogue is read."""

    source: Source
    item: str
    title: str | None = None
    category: str | None = None
    available: str | None = None
    description: str | None = None
    listed: float = 1.0
    """Share of the events' items of the sample that the sample of the catalogue lists."""
    doubts: tuple[Doubt, ...] = ()


def choose_catalogue(
    events: EventsMapping, others: Sequence[Source], *, more_events: Collection[str] = ()
) -> tuple[CatalogueMapping | None, list[Doubt]]:
    """The catalogue among the other sources, else the events' own titles, and what to check.

    None: no source lists the events' items.

    Args:
      events: the mapping of the events.
      others: the other sources.
      more_events: paths of sources that could be events, too.
    """
    assert events.item
    items = pc.unique(events.source.columns[events.item].drop_null())
    found, doubts = [], []
    for source in others:
        mapping = _mapping(source, items, events.item)
        once = mapping and num_distinct(mapping.source.columns[mapping.item]) > 0.9 * source.num_rows
        if mapping and (once or source.path not in more_events):
            found.append(mapping)
        elif source.path in more_events:
            doubts.append(
                Doubt(
                    "input.events.path",
                    f"{source.name} also looks like events, and is left out: a run reads events of one form. To read"
                    " both, write them alike into one folder",
                )
            )
        else:
            doubts.append(
                Doubt(
                    "input.catalogue",
                    f"{source.name} is left out: no column lists the items of the events, such as"
                    f" {examples(events.source.columns[events.item])}, once each. If it is the catalogue, write the ids"
                    " alike, and one row an item",
                )
            )
    found.sort(key=lambda one: (one.title is not None, one.listed, one.available is not None), reverse=True)
    doubts += [
        Doubt(
            "input.catalogue",
            f"{other.source.name} also lists the items, and is left out: one file holds the catalogue. To use its"
            f" columns too, join it to {found[0].source.name} by {other.item}",
        )
        for other in found[1:]
    ]
    return (found[0] if found else _own_titles(events)), doubts


def _mapping(source: Source, items: pa.Array, name_in_events: str) -> CatalogueMapping | None:
    """The source as a catalogue; None where none of its columns lists the items, once or nearly.

    A column that is called like the events' item is the only one that may.
    """
    listed = {
        name: pc.sum(pc.is_in(items, pc.unique(values.drop_null()))).as_py() / len(items)
        for name, values in source.columns.items()
        if name == name_in_events or name_in_events not in source.columns
        if num_distinct(values) > 0.4 * source.num_rows
    }
    if not listed:
        return None
    item = max(listed, key=lambda name: (round(listed[name], 1), role_score(name, "item"), listed[name]))
    if listed[item] < _LEAST_OVERLAP:
        return None
    if source.form.first_line_names or source.form.format != "csv":
        mapping = _texts(source, item)
    else:
        mapping = _unnamed_texts(source, item)
    doubts = [*mapping.doubts]
    if listed[item] < _SURE:
        doubts.append(
            Doubt(
                "input.catalogue.item",
                f"{item} lists {share(listed[item], 1)} of the events' items in the sample. Check that it is the"
                " catalogue of this shop and that it is whole",
            )
        )
    return replace(mapping, listed=listed[item], doubts=tuple(doubts))


def _texts(source: Source, item: str) -> CatalogueMapping:
    """The columns with title, category, availability and description, by their names."""
    title = best_column(source, "title", taken=[item], least=2, least_distinct=2)
    title = title or best_column(source, "title", taken=[item], least_distinct=2)
    category = best_column(source, "category", taken=[item, title], least=2, least_distinct=2)
    description = best_column(source, "description", taken=[item, title, category], least=2, least_distinct=2)
    available = best_column(source, "available", taken=[item, title, category, description], least=3)
    doubts = []
    if not title:
        text = f"no column of {source.name} looks like a title: set title if one is. Its columns are {', '.join(source.columns)}"
        doubts.append(Doubt("input.catalogue.title", text))
    elif role_score(title, "title") < 3:
        doubts.append(
            Doubt(
                "input.catalogue.title",
                f"{title} is the title by a part of its name, for example {examples(source.columns[title])}",
            )
        )
    if available and (odd := _unclear(source.columns[available])):
        doubts.append(
            Doubt(
                "input.catalogue.available",
                f"{available} is not used, so all listed products are available: its value {odd!r} is neither yes"
                f" ({', '.join(YES)}) nor no ({', '.join(NO)}) nor a number in stock",
            )
        )
        available = None
    return CatalogueMapping(source, item, title, category, available, description, doubts=tuple(doubts))


def _unnamed_texts(source: Source, item: str) -> CatalogueMapping:
    """The title of a file without a header: the column with the longest different texts."""
    lengths = {
        name: pc.mean(pc.utf8_length(values)).as_py() or 0
        for name, values in source.columns.items()
        if name != item and num_distinct(values) > 0.5 * source.num_rows
    }
    title = max(lengths, key=lambda name: lengths[name], default=None)
    names = tuple({item: "item_id", title: "title"}.get(name, name) for name in source.form.names)
    columns = dict(zip(names, (source.columns[name] for name in source.form.names), strict=True))
    source = replace(source, form=replace(source.form, names=names), columns=columns)
    told = ", ".join(f"{name} ({examples(columns[name], 1)})" for name in names)
    doubt = Doubt("input.catalogue.columns", f"{source.name} has no header, so the columns are named by values: {told}")
    return CatalogueMapping(source, "item_id", "title" if title else None, doubts=(doubt,))


def _unclear(values: pa.Array) -> str | None:
    """A value that a run does not understand as an availability; None: there is none."""
    for value, _ in counts_of(values):
        try:
            float(value)
        except ValueError:
            if value.lower() not in (*YES, *NO):
                return value
    return None


def _own_titles(events: EventsMapping) -> CatalogueMapping | None:
    """The events' files as a catalogue, where each row has its item's title; None where they have none."""
    source, item = events.source, events.item
    if source.form.format not in ("csv", "parquet", "jsonl") or not item:
        return None
    taken = [item, events.user, events.session, events.event_type]
    title = best_column(source, "title", taken=taken, least=3, least_distinct=20)
    if not title or num_distinct(source.columns[title]) > 2 * num_distinct(source.columns[item]):
        return None
    if (pc.mean(pc.utf8_length(source.columns[title])).as_py() or 0) < 5:
        return None
    doubt = Doubt(
        "input.catalogue",
        f"the titles come from the events' own files (column {title}), so products without events have none. Give the"
        " catalogue's file if there is one",
    )
    return CatalogueMapping(source, item, title, doubts=(doubt,))
