"""Config of the data: input, features, privacy."""

from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from kdlib.config.base import Fraction, Positive, Section, Seed
from kdlib.errors import ConfigError
from kdlib.privacy.pseudonyms import KeySource

DAY = "{day}"

"""Stands in `input.events.path` and `input.searches.path` for the day on which a file's events arrived, YYYY-MM-DD."""

EVENT_TYPES = ("view", "favourite", "cart", "purchase")

"""The event types that the rest of the software knows, weakest first; a shop's own are mapped onto them."""

SEARCH_EVENT_TYPES = ("search", "click", "cart", "purchase")

"""The event types of a search log, weakest first: a query that was typed, and what was done with an item that it showed."""


class SimulateConfig(Section):
    """The embedded default input: a clickstream whose true next-item distribution is known."""

    num_events: Annotated[int, Field(ge=10_000, le=2_000_000_000)] = 400_000
    """About how many event rows to write (the outcome is random; within a few per cent)."""
    num_items: Annotated[int, Field(ge=200)] = 3_000
    num_days: Annotated[int, Field(ge=4)] = 30
    first_day: date | None = None
    """The period's first day: nights of the same period see the same shop, each a day more of it, so that they follow each
    other as a shop's do. When not given the period ends on the night's own day."""
    events_per_user: Annotated[int, Field(ge=5)] = 12
    mean_session_length: Annotated[float, Field(ge=1.5, le=12)] = 3.0
    """In viewed items."""
    new_items_per_day: Annotated[int, Field(ge=0)] = 5
    items_per_category: Annotated[int, Field(ge=4)] = 24
    popularity_exponent: Annotated[float, Field(ge=0)] = 0.6
    """Within a category the item of rank r is viewed in proportion to r^-exponent."""
    taste_strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How much users prefer brands, styles, colours and price ranges; 0: not at all, so that a title tells the category alone."""
    consumable_fraction: Fraction = 0.15
    """Share of the categories whose products are bought again."""
    bot_fraction: Fraction = 0.0005
    duplicate_fraction: Fraction = 0.01
    broken_fraction: Fraction = 0.002
    search_fraction: Fraction = 0.0
    """Share of the sessions that begin with a search; the events are the same for any value. 0: no searches are written."""
    seed: Seed = 7

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

    format: Literal["iso", "epoch_seconds", "epoch_millis", "day_and_order"] = "iso"
    """`iso`: ISO 8601 text or a timestamp column; without an offset it is UTC. `day_and_order`: a date and a running number."""
    column: str | None = None
    day_columns: tuple[str, ...] = ()
    """`day_and_order`: one ISO date column, or year, month and day columns."""
    order_column: str | None = None

    @model_validator(mode="after")
    def _has_its_columns(self) -> "TimeConfig":
        if self.format == "day_and_order":
            if len(self.day_columns) not in (1, 3) or not self.order_column:
                raise ValueError(
                    "format day_and_order needs day_columns (one date, or year, month, day) and order_column"
                )
        elif not self.column:
            raise ValueError(f"format {self.format} needs column")
        return self


class EventsConfig(Section):
    """The raw clickstream and how its columns are named."""

    path: str
    """A file, a folder or a glob; gzip is read by the `.gz` ending. With `{day}` where the files' names hold the day on which
    their events arrived, as in `events/day={day}`, a night reads the new days only and carries the others over."""
    late_days: Annotated[int, Field(ge=1)] = 3
    """With `{day}`: an event may arrive so many days after it happened; later ones are quarantined."""
    format: Literal["parquet", "csv", "jsonl", "sequences"]
    """`sequences`: one user a line, `user item item …`, oldest first; times are made up, one item a day."""
    delimiter: str = ","
    header: bool = True
    columns: tuple[str, ...] = ()
    """The column names of a CSV without a header, in order."""
    user: str | None = None
    session: str | None = None
    item: str | None = None
    event_type: str | None = None
    event_id: str | None = None
    time: TimeConfig | None = None
    event_types: dict[str, Literal["view", "favourite", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in EVENT_TYPES}
    )
    """The shop's event type → ours; rows with any other type are quarantined. Unused without an `event_type` column."""

    @model_validator(mode="after")
    def _has_its_columns(self) -> "EventsConfig":
        if self.path.count(DAY) > (self.format != "sequences"):
            raise ValueError(f"path may hold {DAY} once, and never with format sequences, found {self.path}")
        if self.format == "sequences":
            return self
        if not self.item or not self.time:
            raise ValueError("needs item and time (the names of the columns)")
        if not (self.user or self.session):
            raise ValueError("needs user or session: without a user column each session is its own user")
        if self.format == "csv" and not self.header and not self.columns:
            raise ValueError("a CSV without a header needs columns: [first, second, …]")
        return self


class CatalogueConfig(Section):
    """The optional list of products: titles to show and to encode, availability to filter by."""

    path: str
    """A file, a folder or a glob: each night reads all of it."""
    format: Literal["parquet", "csv", "jsonl"]
    delimiter: str = ","
    item: str = "item_id"
    title: str | None = "title"
    available: str | None = None
    description: str | None = None
    """Searched too, beside the title."""
    category: str | None = None
    """The product's type, such as `Notebook`: searched, and a filter of searches."""

    @field_validator("path")
    @classmethod
    def _is_no_days(cls, path: str) -> str:
        if DAY in path:
            raise ValueError(
                f"a catalogue is read whole each night, its path may not hold {DAY} as that of events may; give the file of"
                " the run's day with --set input.catalogue.path=…"
            )
        return path


class SearchesConfig(Section):
    """The optional search log, and how its columns are named: what users typed, and what they did with what was found."""

    path: str
    """A file, a folder or a glob. With `{day}` where the files' names hold the day that they are of, a night reads those of its
    `features.queries.period_days` alone, and one day before them, for clocks differ."""
    format: Literal["parquet", "csv", "jsonl"]
    delimiter: str = ","
    user: str
    query: str
    """The text as it was typed."""
    item: str | None = None
    event_type: str | None = None
    """Without it every row with an item is a click, and every row without one a search."""
    position: str | None = None
    """The rank at which the item was shown, from 1; where it is missing, a row counts as if it had been shown first."""
    time: TimeConfig
    event_types: dict[str, Literal["search", "click", "cart", "purchase"]] = Field(
        default_factory=lambda: {name: name for name in SEARCH_EVENT_TYPES}
    )
    """The shop's event type → ours; rows with any other type are quarantined. Unused without an `event_type` column."""

    @model_validator(mode="after")
    def _fits(self) -> "SearchesConfig":
        if self.path.count(DAY) > 1:
            raise ValueError(f"path may hold {DAY} once, found {self.path}")
        if self.position and not self.item:
            raise ValueError("position needs item: it is the rank at which an item was shown")
        return self


class InputConfig(Section):
    """Either the simulator or real events; search alone needs the catalogue only."""

    simulate: SimulateConfig | None = None
    events: EventsConfig | None = None
    catalogue: CatalogueConfig | None = None
    searches: SearchesConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "InputConfig":
        if self.simulate is not None and self.events is not None:
            raise ValueError("needs exactly one of simulate and events, found both")
        if self.simulate is None and self.events is None and self.catalogue is None:
            raise ValueError("needs exactly one of simulate and events, found neither")
        if self.simulate and self.searches:
            raise ValueError("searches goes with events; simulated ones come with simulate.search_fraction")
        return self

    @property
    def has_events(self) -> bool:
        """Whether there is anything to recommend from."""
        return self.simulate is not None or self.events is not None

    @property
    def has_searches(self) -> bool:
        """Whether there is a search log."""
        return self.searches is not None or (self.simulate is not None and self.simulate.search_fraction > 0)


class SplitConfig(Section):
    """Which interactions train, validate and test."""

    kind: Literal["time", "leave_one_out"] = "time"
    """`time`: one cut for all users. `leave_one_out`: each user's last item tests, the one before it validates."""
    validation_days: Positive = 1
    test_days: Positive = 1


class QueriesConfig(Section):
    """What the search log says about queries, for product search."""

    period_days: Positive = 30
    """Only the searches of the last so many days, `ds` included, count."""
    position_bias: Annotated[float, Field(ge=0)] = 1.0
    """η: an item shown at rank r is looked at with probability r^-η, so a click there counts r^η; 0: every click the same."""
    max_position: Positive = 50
    """Ranks beyond it count as it: a single click far down must not outweigh many others."""
    cart_weight: Annotated[float, Field(ge=0)] = 3.0
    """What a cart says of an item's relevance to a query; a click says 1."""
    purchase_weight: Annotated[float, Field(ge=0)] = 5.0


class FeaturesConfig(Section):
    session_gap_seconds: Positive = 1800
    period_start: date | None = None
    """Events before this day are quarantined as out of period; those after `ds` always are."""
    max_events_per_user_day: Positive = 2_000
    """A user with more events on one day is taken for a bot; all its rows are quarantined."""
    max_items: Positive | None = None
    """Keep the most frequent items only; the others' events stay in the sessions but not in the histories."""
    collapse_repeats: bool = True
    """Consecutive events of one session and day on one item become one interaction with the strongest event type."""
    split: SplitConfig = SplitConfig()
    queries: QueriesConfig = QueriesConfig()


class PrivacyConfig(Section):
    """How little of a person is kept. Columns that the run config does not map (addresses, user agents) are never read on."""

    key_file: str | None = None
    """A file with the key of the pseudonyms that stand for user and session ids in every output; or"""
    key_environment: str | None = None
    """an environment variable that holds it. Without either the shop's own ids are used."""
    key_version: Positive = 1
    """Raise it with each new key, and where the key is left out on purpose: a key that changes or goes under the same version, or
    a lower one, is an error, since all users would be new."""
    min_item_users: Annotated[int, Field(ge=0)] = 0
    """An item that fewer users have touched, but at least one, is in nobody's list: it could tell of them."""
    min_query_users: Annotated[int, Field(ge=0)] = 0
    """A query that fewer users have typed in the period is in no table of queries (k-anonymity): people type names and worse.
    From 2 on the quarantine of searches does not show what was typed either."""

    @model_validator(mode="after")
    def _one_key(self) -> "PrivacyConfig":
        if self.key_file and self.key_environment:
            raise ValueError("give key_file or key_environment, not both")
        return self

    @property
    def key(self) -> KeySource | None:
        """Where the key is found; None without pseudonyms."""
        return KeySource(self.key_file, self.key_environment) if self.key_file or self.key_environment else None
