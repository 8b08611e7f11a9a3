"""The mapping of a shop's events: which column is what."""

from dataclasses import dataclass, field

from kdlib.onboarding.columns import Doubt
from kdlib.onboarding.sample import Source
from kdlib.onboarding.times import TimeForm

ROLES = ("user", "session", "item", "time")
"""The roles of columns that a person may name."""


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
