"""Config of what is made from the input: sessions, histories, splits and queries; and of privacy."""

from datetime import date
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from kdlib.config.base import Positive, Section
from kdlib.privacy.pseudonyms import KeySource


class SplitConfig(Section):
    """Which interactions train, validate and test."""

    kind: Literal["time", "leave_one_out"] = "time"
    """`time`: the same days for all users. `leave_one_out`: each user's last item tests and the one before it
    validates."""
    validation_days: Positive = 1
    """`time`: length of the validation window, which ends just before the test window."""
    test_days: Positive = 1
    """`time`: length of the test window, which ends with the run's day."""


class QueriesConfig(Section):
    """What the search log says about queries, for product search."""

    period_days: Positive = 30
    """How many days of searches count, up to the run's day, included."""
    position_bias: Annotated[float, Field(ge=0)] = 1.0
    """η: users look at an item at rank r with probability r^-η, so a click there counts r^η. 0: all clicks count the
    same."""
    max_position: Positive = 50
    """A rank beyond it counts as this rank, so that a single click far down does not outweigh many others."""
    cart_weight: Annotated[float, Field(ge=0)] = 3.0
    """How much a cart says about an item's relevance to a query; a click says 1."""
    purchase_weight: Annotated[float, Field(ge=0)] = 5.0
    """How much a purchase says about an item's relevance to a query; a click says 1."""


class FeaturesConfig(Section):
    """How events become sessions, histories and splits."""

    time_zone: str = "UTC"
    """The time zone of the days, by its IANA name: `Europe/Berlin`. `ds`, the split, the period, baskets and all else that
    is counted by days go by the local date. Tables hold times in UTC all the same, and a time without an offset is UTC.
    Dates without a time are local, and so is `{day}` in a path. A run starts after the end of the local day, which west
    of Greenwich is later."""
    session_gap_seconds: Positive = 1800
    """A longer gap between two events of a user starts a new session. Unused with `input.events.session`."""
    period_start: date | None = None
    """Events before this day are quarantined as out of period. Events after the run's day always are."""
    max_events_per_user_day: Positive = 2_000
    """A user with more events on one day counts as a bot; all its rows are quarantined."""
    max_items: Positive | None = None
    """Keep only the most frequent items. Events of other items stay in the sessions, but not in the histories."""
    collapse_repeats: bool = True
    """Consecutive events of one session and day on one item become one interaction with the strongest event type."""
    split: SplitConfig = SplitConfig()
    """Which interactions train, validate and test."""
    queries: QueriesConfig = QueriesConfig()
    """How to read the search log."""

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (OSError, ValueError, KeyError):
            raise ValueError("there is no such time zone. Give an IANA name, such as Europe/Berlin or UTC") from None
        return name


class PrivacyConfig(Section):
    """How little is kept about a person.

    Columns that the run config does not map (addresses, user agents) are not kept.
    """

    key_file: str | None = None
    """A file with the key of the pseudonyms. With a key, pseudonyms replace user and session ids in every output.
    Without one, the outputs hold the shop's own ids."""
    key_environment: str | None = None
    """An environment variable with the key, in place of `key_file`."""
    key_version: Positive = 1
    """Raise it with each new key, and when you remove the key on purpose. A run fails if the key changes or goes
    while the version stays or falls, because all users would be new."""
    min_item_users: Annotated[int, Field(ge=0)] = 0
    """An item that at least one but fewer than this many users have touched is in nobody's list: it could identify
    them."""
    min_query_users: Annotated[int, Field(ge=0)] = 0
    """A query that fewer users have typed in the period is in no table of queries (k-anonymity): people also type
    names. From 2 on, the quarantine of searches does not show queries either."""

    @model_validator(mode="after")
    def _one_key(self) -> "PrivacyConfig":
        if self.key_file and self.key_environment:
            raise ValueError("give key_file or key_environment, not both")
        return self

    @property
    def key(self) -> KeySource | None:
        """Where the key is; None without pseudonyms."""
        return KeySource(self.key_file, self.key_environment) if self.key_file or self.key_environment else None
