"""Raw files → everything that a run config says about them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from kdlib.errors import InputError
from kdlib.onboarding.catalogue import CatalogueMapping, choose_catalogue
from kdlib.onboarding.columns import Doubt, best_column, num_distinct
from kdlib.onboarding.days import Period, Split, choose_split, period_doubts, period_of, times_of
from kdlib.onboarding.events import map_events
from kdlib.onboarding.mapping import EventsMapping
from kdlib.onboarding.run_config import run_config_text
from kdlib.onboarding.sample import Source
from kdlib.onboarding.sources import days_path, find_sources

MADE_UP_DAY = date(2020, 1, 1)
"""`ds` of events without times: a run makes up one day an item, up to this one."""


@dataclass(frozen=True)
class Shop:
    """What was found in the raw files."""

    name: str
    events: EventsMapping
    catalogue: CatalogueMapping | None
    ds: date
    period: Period | None
    """None: the events have no times."""
    split: Split
    doubts: tuple[Doubt, ...]
    text: str
    """The run config, YAML."""


def shop_of(paths: Sequence[str], *, name: str | None = None, columns: Mapping[str, str] | None = None) -> Shop:
    """Look at raw files and guess the run config.

    Args:
      paths: files, folders, globs or URLs.
      name: of the run config; None: from the events' path.
      columns: role (see `mapping.ROLES`) → the events' column that a person has named.

    Raises:
      InputError: a file cannot be used, or no file has events.
    """
    sources, doubts = find_sources(paths)
    events, more_events, others = _choose_events(sources, columns)
    catalogue, more = choose_catalogue(events, others, more_events=more_events)
    doubts += [*events.doubts, *_users_elsewhere(events, others), *more, *(catalogue.doubts if catalogue else ())]
    period, ds = None, MADE_UP_DAY
    if events.time:
        times = times_of(events)
        period = period_of(times.counts)
        if period is None:
            raise InputError(
                f"no time of {events.source.path} parses. Check the column {events.time_column or events.day_columns}"
            )
        doubts += period_doubts(period, whole=times.all_rows) if events.has_times else []
        ds, split = period.last, choose_split(events, times, period)
    else:
        split = Split("leave_one_out")
        doubts.append(
            Doubt("ds", "the events have no times: a run makes up one day an item, and the last item of a user gets ds")
        )
    name = name or name_of(events.source)
    text = run_config_text(
        name=name,
        ds=ds.isoformat(),
        events=events,
        catalogue=catalogue,
        split=split,
        period_start=period.first.isoformat() if period and period.strays_before else None,
        days_path=days_path(events.source),
        doubts=doubts,
    )
    return Shop(name, events, catalogue, ds, period, split, tuple(doubts), text)


def name_of(source: Source) -> str:
    """A name for the run config, from the file's name and its folder's: `taobao/UserBehavior.csv.gz` → `taobao`."""
    parts = [
        re.sub(r"\W+", "_", part.partition(".")[0].lower(), flags=re.ASCII).strip("_")
        for part in source.path.split("/")
    ]
    general = {"", "data", "raw", "events", "input", "tmp", "csv", "parquet", "home", "datasets"}
    own = [part for part in parts[-2:] if part not in general and re.match("[a-z]", part)]
    return own[0] if own else "my_shop"


def _users_elsewhere(events: EventsMapping, others: Sequence[Source]) -> list[Doubt]:
    """Another file that has the users of the events' sessions or orders."""
    if events.user or not events.session:
        return []
    return [
        Doubt(
            "input.events.session",
            f"{other.name} has {events.session} and the user in {user}. Join it to {events.source.name} by"
            f" {events.session}, so that a user's events form one history",
        )
        for other in others
        if events.session in other.columns and (user := best_column(other, "user", least=3))
    ]


def _check_joined(sources: Sequence[Source]) -> None:
    """Raise InputError where one file has the items, another the users, and a column joins them."""
    for lines in sources:
        item = best_column(lines, "item", least=3)
        for orders in sources:
            user = best_column(orders, "user", least=3)
            shared = [name for name in orders.columns if name in lines.columns and name not in (item, user)]
            if item and user and user not in lines.columns and item not in orders.columns and shared:
                raise InputError(
                    f"{lines.path} has the items ({item}), and {orders.path} has the users ({user}). A run reads events from"
                    f" files of one form: join the two by {shared[0]} into one file with a row for each item"
                )


def _choose_events(
    sources: Sequence[Source], columns: Mapping[str, str] | None
) -> tuple[EventsMapping, list[str], list[Source]]:
    """The mapping of the events, the paths of further sources that could be events, and all other sources.

    Events with times win over sequences. Then files win in which items repeat, as a catalogue's do not, then the largest.
    """
    mapped: list[EventsMapping] = []
    refused: list[tuple[Source, InputError]] = []
    for source in sources:
        try:
            mapped.append(map_events(source, columns))
        except InputError as error:
            refused.append((source, error))
    if not mapped:
        _check_joined(sources)
        raise max(refused, key=lambda one: sum(file.size for file in one[0].files))[1]

    def rank(one: EventsMapping) -> tuple[bool, bool, int]:
        items = num_distinct(one.source.columns[one.item or ""])
        return one.has_times, items < 0.9 * one.source.num_rows, sum(file.size for file in one.source.files)

    first = max(mapped, key=rank)
    others = [source for source in sources if source.path != first.source.path]
    return first, [one.source.path for one in mapped if one is not first], others
