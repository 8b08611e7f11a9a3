"""Config of the input: the simulator, or the shop's events, catalogue and search log."""

import re
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kdlib.config.base import OPERATIONAL, Fraction, Section, Seed
from kdlib.errors import ConfigError

DAY = "{day}"
"""In `input.events.path` and `input.searches.path`: the day on which a file's events arrived, YYYY-MM-DD."""

EVENT_TYPES = ("view", "favourite", "cart", "purchase")
"""Our event types, weakest first. A shop's own types are mapped onto them."""

YES = ("1", "1.0", "true", "t", "yes", "y")
NO = ("0", "0.0", "false", "f", "no", "n")
"""How a catalogue may write that a product is available or not, in any case."""

SEARCH_EVENT_TYPES = ("search", "click", "cart", "purchase")
"""Our event types of a search log, weakest first: a typed query, and what the user did with an item that it found."""


FeatureKind = Literal["category", "categories", "number", "vector"]
"""What a feature of an item or a user holds: one text, several texts, a number, or a vector of numbers."""

SIMULATED_FEATURES: dict[str, FeatureKind] = {
    "category": "category",
    "brand": "category",
    "colour": "category",
    "price": "number",
}
"""The features of a simulated product."""


class SimulateConfig(Section):
    """The built-in default input: a simulated clickstream whose true next-item distribution is known."""

    num_events: Annotated[int, Field(ge=10_000, le=2_000_000_000)] = 400_000
    """About how many event rows to write. The actual number is random, within a few per cent."""
    num_items: Annotated[int, Field(ge=200)] = 3_000
    """Number of products on the first day."""
    num_days: Annotated[int, Field(ge=4)] = 30
    """Length of the period in days."""
    first_day: date | None = None
    """First day of the period. All runs of one period see the same shop, and each later run sees more of its days,
    as with a real shop. Without a first day, the period ends on the run's own day."""
    events_per_user: Annotated[int, Field(ge=5)] = 12
    """Mean number of events of a user."""
    mean_session_length: Annotated[float, Field(ge=1.5, le=12)] = 3.0
    """Mean number of viewed items in a session."""
    new_items_per_day: Annotated[int, Field(ge=0)] = 5
    """Products launched on each day after the first."""
    items_per_category: Annotated[int, Field(ge=4)] = 24
    """Mean number of products in a category, launched products not counted."""
    popularity_exponent: Annotated[float, Field(ge=0)] = 0.6
    """Within a category, the views of the item of rank r are proportional to r^-exponent."""
    taste_strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How much users prefer certain brands, styles, colours and price ranges. 0: not at all; a title then only tells
    the category."""
    consumable_fraction: Fraction = 0.15
    """Share of the categories whose products users buy again."""
    bot_fraction: Fraction = 0.0005
    """Share of the users that are bots."""
    duplicate_fraction: Fraction = 0.01
    """Number of duplicate rows, as a share of the clean rows."""
    broken_fraction: Fraction = 0.002
    """Number of broken rows, as a share of the clean rows."""
    search_fraction: Fraction = 0.0
    """Share of the sessions that begin with a search. 0: no search log is written. The events are the same for any
    value."""
    seed: Seed = 7
    """Seed of the random numbers."""

    def period(self, ds: date) -> tuple[date, date]:
        """First and last day of the simulated period; ConfigError for a run's date outside of it."""
        first = self.first_day or ds - timedelta(days=self.num_days - 1)
        last = first + timedelta(days=self.num_days - 1)
        if not first <= ds <= last:
            raise ConfigError(
                f"input.simulate: the simulated period is {first} to {last}, found the date {ds}; give one inside,"
                " or set first_day and num_days"
            )
        return first, last


class TimeConfig(Section):
    """How the event time is written."""

    format: Literal["iso", "epoch_seconds", "epoch_millis", "epoch_micros", "pattern", "day_and_order"] = "iso"
    """How the columns below hold the time.

    `iso`: ISO 8601 text, or a date or timestamp column. A time without an offset is UTC.
    `epoch_seconds`, `epoch_millis`, `epoch_micros`: a number since 1970.
    `pattern`: text of the form that `pattern` describes. A time without an offset is UTC.
    `day_and_order`: a date and a running number, for data that only has the order of events, such as the number of a
    user's order. A number of days since 1970-01-01 may replace the date.
    """
    column: str | None = None
    """The column with the time; for all formats but `day_and_order`."""
    pattern: str | None = None
    """`pattern`: a datetime pattern of Spark, such as `d/M/yyyy H:mm`, `yyyyMMdd` or `M/d/yyyy h:mm a`."""
    day_columns: tuple[str, ...] = ()
    """`day_and_order`: one column with ISO dates or numbers of days, or the year, month and day columns."""
    order_column: str | None = None
    """`day_and_order`: the column with the event's running number within the day, from 0 to 86,399."""
    order_unit: Literal["seconds", "milliseconds"] = "seconds"
    """`day_and_order`: the running number counts as seconds after midnight. `milliseconds` allows numbers up to
    86,399,999."""

    @model_validator(mode="after")
    def _has_its_columns(self) -> "TimeConfig":
        if self.format == "day_and_order":
            if len(self.day_columns) not in (1, 3) or not self.order_column:
                raise ValueError(
                    "format day_and_order needs day_columns (one date, or year, month, day) and order_column"
                )
        elif not self.column:
            raise ValueError(f"format {self.format} needs column")
        if (self.format == "pattern") != (self.pattern is not None):
            raise ValueError("format pattern and the setting pattern belong together: give both, or neither")
        if self.pattern is not None:
            _check_pattern(self.pattern)
        return self


def _check_pattern(pattern: str) -> None:
    """Raise ValueError where a pattern lacks a part of the date. Spark reports other faults when it reads the times."""
    signs = set(re.sub(r"'[^']*'", "", pattern))
    day_of_year = "D" in signs
    parts = {
        "year (yyyy)": signs & {*"yu"},
        "month (M)": day_of_year or signs & {*"ML"},
        "day (d)": day_of_year or "d" in signs,
    }
    if missing := [part for part, there in parts.items() if not there]:
        raise ValueError(
            f"pattern lacks the {' and the '.join(missing)}, found {pattern}. Give a datetime pattern of Spark, such as"
            " d/M/yyyy H:mm"
        )


class ReadyConfig(Section):
    """The sign that the export of the run's day is whole. `build-features` waits for it.

    Without it, a run takes what is there when it starts.
    """

    marker: Annotated[str, Field(pattern=r"[^/\s]$")]
    """The file that the export writes last, such as `_SUCCESS`. A name without a slash lies in the folder of `path`: in
    `path` itself, or, where its last part has a dot or a pattern, in the folder above. A text with a slash is a path or
    a URL. Marker and path may hold `{day}`, and one of them must."""
    wait_minutes: Annotated[float, Field(ge=0)] = 60
    """How long to wait. The run then ends with status 66, which means: retry later."""

    def of_day(self, events_path: str, day: str) -> str:
        """The path or URL of the marker of a day, YYYY-MM-DD."""
        marker, folder = (text.replace(DAY, day) for text in (self.marker, events_path.rstrip("/")))
        if "/" in marker:
            return marker
        if pattern := re.search(r"[*?\[{]", folder):
            folder = folder[: pattern.start()].rpartition("/")[0]
        elif "." in folder.rpartition("/")[2]:
            folder = folder.rpartition("/")[0]
        return f"{folder or '.'}/{marker}"


class EventsConfig(Section):
    """The raw clickstream and how its columns are named."""

    path: str
    """A file, a folder or a glob. The ending `.gz` means gzip. The path may hold `{day}` where the files' names have
    the day on which their events arrived: `events/day={day}`. A run then reads only the files of the last days and
    takes over older events from an earlier run."""
    ready: Annotated[ReadyConfig | None, OPERATIONAL] = None
    """If given, `build-features` waits for the marker of the day's export."""
    late_days: Annotated[int, Field(ge=1)] = 3
    """With `{day}`: an event may arrive this many days after it happened. Later events are quarantined."""
    format: Literal["parquet", "csv", "jsonl", "delta", "iceberg", "sequences"]
    """`delta`, `iceberg`: the path is the folder of a table, or for Iceberg the path of its metadata file. The run reads
    the rows that the table has now. It needs the extra of that name.
    `sequences`: one user a line, `user item item …`, oldest first. The times are made up: one item a day."""
    delimiter: str = ","
    """CSV: the character between two fields."""
    header: bool = True
    """CSV: the first line of each file holds the column names."""
    columns: tuple[str, ...] = ()
    """CSV without a header: the names of all columns, in order."""
    user: str | None = None
    """The column with the user's id. Without it, each session counts as a user."""
    session: str | None = None
    """The column with the shop's session id. Without it, `features.session_gap_seconds` separates sessions."""
    item: str | None = None
    """The column with the product's id."""
    event_type: str | None = None
    """The column with the event's type. Without it, every event is of `only_type`."""
    only_type: Literal["view", "favourite", "cart", "purchase"] = "view"
    """The type of all events of an input without an `event_type` column: `purchase` for order lines."""
    event_id: str | None = None
    """The column with the event's id. Rows of one user with the same id are duplicates."""
    time: TimeConfig | None = None
    """Where the time of an event is, and how it is written."""
    event_types: dict[str, Literal["view", "favourite", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in EVENT_TYPES}
    )
    """The shop's event type → ours. Rows with any other type are quarantined. Unused without an `event_type` column."""
    where: Annotated[str, Field(pattern=r"\S")] | None = None
    """A Spark SQL condition over the columns of the files, mapped or not, such as `Quantity > 0 and Invoice not like
    'C%'`. Rows for which it is false or null are left out and count as filtered. Put names with blanks in backticks.
    Columns of CSV and JSON files hold text: to compare two of them as numbers, write `double(Price) > double(Cost)`."""

    @model_validator(mode="after")
    def _has_its_columns(self) -> "EventsConfig":
        if self.path.count(DAY) > (self.format in ("parquet", "csv", "jsonl")):
            raise ValueError(
                f"path may hold {DAY} once, and never with format sequences, delta or iceberg, found {self.path}"
            )
        if self.ready and DAY not in self.path + self.ready.marker:
            raise ValueError(
                f"ready.marker needs {DAY}, in itself or in path, because the marker of an earlier day would count, too;"
                f" found {self.ready.marker}. Write it like done/{DAY}"
            )
        if self.event_type and self.only_type != "view":
            raise ValueError(f"only_type {self.only_type} is for events without event_type: leave out one of the two")
        if self.format == "sequences":
            if self.where:
                raise ValueError("where needs columns, which format sequences does not have: leave it out")
            return self
        if not self.item or not self.time:
            raise ValueError("needs item and time: the names of the columns")
        if not (self.user or self.session):
            raise ValueError("needs user or session: without a user column each session is its own user")
        if self.format == "csv" and not self.header and not self.columns:
            raise ValueError("a CSV without a header needs columns: [first, second, …]")
        return self


class CatalogueConfig(Section):
    """The optional product list: titles to show and to encode, availability to filter by."""

    path: str
    """A file, a folder or a glob. Each run reads all of it."""
    format: Literal["parquet", "csv", "jsonl", "delta", "iceberg"]
    """The format of the files. `delta`, `iceberg`: as for events."""
    delimiter: str = ","
    """CSV: the character between two fields."""
    columns: tuple[str, ...] = ()
    """CSV without a header: the names of all columns, in order. Empty: the first line of each file names them."""
    item: str = "item_id"
    """The column with the product's id."""
    title: str | None = "title"
    """The column with the title; null: the catalogue has no titles."""
    available: str | None = None
    """The column with the availability: yes, no, or a number in stock. Without it, all listed products are
    available."""
    description: str | None = None
    """The column with a description. Search looks into it as well as into the title."""
    category: str | None = None
    """The column with the product's type, for example `Notebook`. Search looks into it, and users can filter by it."""
    features: dict[str, FeatureKind] = Field(default_factory=dict)
    """More columns that rules for lists use: column → kind. A value may be missing. In CSV and in plain text,
    `categories` are separated by `|`, or written as a JSON list; a `vector` is a JSON list of numbers."""

    @field_validator("path")
    @classmethod
    def _is_no_days(cls, path: str) -> str:
        return no_days(path, "catalogue", "catalogue")


class UsersConfig(Section):
    """The optional list of users."""

    path: str
    """A file, a folder or a glob. Each run reads all of it."""
    format: Literal["parquet", "csv", "jsonl", "delta", "iceberg"]
    """The format of the files. `delta`, `iceberg`: as for events."""
    delimiter: str = ","
    """CSV: the character between two fields."""
    columns: tuple[str, ...] = ()
    """CSV without a header: the names of all columns, in order. Empty: the first line of each file names them."""
    user: str = "user_id"
    """The column with the user's id, as the events write it."""
    features: Annotated[dict[str, FeatureKind], Field(min_length=1)]
    """The columns to read: column → kind, as for the catalogue. A value may be missing."""

    @field_validator("path")
    @classmethod
    def _is_no_days(cls, path: str) -> str:
        return no_days(path, "users", "list of users")


def no_days(path: str, section: str, what: str) -> str:
    """The path of a list that every run reads whole; ValueError where it holds `{day}`."""
    if DAY in path:
        raise ValueError(
            f"path may not hold {DAY}, because every run reads the whole {what}. Give the file of the run's day"
            f" with --set input.{section}.path=…"
        )
    return path


class SearchesConfig(Section):
    """The optional search log and how its columns are named."""

    path: str
    """A file, a folder or a glob. The path may hold `{day}` where the files' names have their day. A run then reads
    only the files of `features.queries.period_days` and of the day before, because clocks differ."""
    format: Literal["parquet", "csv", "jsonl"]
    """The format of the files."""
    delimiter: str = ","
    """CSV: the character between two fields."""
    user: str
    """The column with the user's id."""
    query: str
    """The column with the typed text."""
    item: str | None = None
    """The column with the product's id; empty in the row of a search."""
    event_type: str | None = None
    """The column with the row's type. Without it, a row with an item is a click, and a row without one is a search."""
    position: str | None = None
    """The column with the rank at which the item was shown, from 1. A row without a rank counts as shown first."""
    time: TimeConfig
    """Where the time of a row is, and how it is written."""
    event_types: dict[str, Literal["search", "click", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in SEARCH_EVENT_TYPES}
    )
    """The shop's event type → ours. Rows with any other type are quarantined. Unused without an `event_type` column."""

    @model_validator(mode="after")
    def _fits(self) -> "SearchesConfig":
        if self.path.count(DAY) > 1:
            raise ValueError(f"path may hold {DAY} once, found {self.path}")
        if self.position and not self.item:
            raise ValueError("position needs item: it is the rank at which an item was shown")
        return self


class InputConfig(Section):
    """Either the simulator or real events. Product search without recommendations needs only the catalogue."""

    simulate: SimulateConfig | None = None
    """Simulated events, products and searches, in place of a shop's."""
    events: EventsConfig | None = None
    """The shop's clickstream."""
    catalogue: CatalogueConfig | None = None
    """The shop's product list."""
    searches: SearchesConfig | None = None
    """The shop's search log; needs `events`."""
    users: UsersConfig | None = None
    """The shop's list of users, for rules that depend on the user, and for models with `user_features`."""

    @model_validator(mode="after")
    def _one_source(self) -> "InputConfig":
        if self.simulate is not None and self.events is not None:
            raise ValueError("needs exactly one of simulate and events, found both")
        if self.simulate is None and self.events is None and self.catalogue is None:
            raise ValueError("needs exactly one of simulate and events, found neither")
        if self.simulate and self.searches:
            raise ValueError("searches needs events. Set simulate.search_fraction for simulated searches")
        return self

    @property
    def item_features(self) -> dict[str, FeatureKind]:
        """Feature of the products → kind."""
        if self.simulate is not None:
            return SIMULATED_FEATURES
        return self.catalogue.features if self.catalogue else {}

    @property
    def has_events(self) -> bool:
        """Whether the input has events, real or simulated."""
        return self.simulate is not None or self.events is not None

    @property
    def has_searches(self) -> bool:
        """Whether the input has a search log, real or simulated."""
        return self.searches is not None or (self.simulate is not None and self.simulate.search_fraction > 0)
