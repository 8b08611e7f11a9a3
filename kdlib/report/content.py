"""What the page shows, as plain data. A night that has not got far has None, or nothing, in the later places."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kdlib.metrics.expected import PREFIX


@dataclass(frozen=True)
class Measure:
    """A metric of a model, or of the difference of two, with its 95% interval over users where it has one."""

    value: float
    low: float | None
    high: float | None
    users: int


@dataclass(frozen=True)
class Gate:
    """One row of `tables.GATES`, and what the nights before found."""

    name: str
    part: str
    value: float | None
    low: float | None
    high: float | None
    status: str
    text: str
    trend: tuple[tuple[str, float], ...] = ()
    """(night, value), oldest first, this night last; nights where the gate was skipped are left out."""


@dataclass(frozen=True)
class Lists:
    """The published table of recommendations."""

    version: str
    model_version: str
    users: int
    popular: int
    """Users without a usable history, who got the popular items."""
    k: int

    @property
    def popular_share(self) -> float:
        """Share of the users who got the popular items."""
        return self.popular / max(self.users, 1)


@dataclass(frozen=True)
class Mover:
    """An item's share of all interactions, the night before and now."""

    title: str
    before: float
    now: float


@dataclass(frozen=True)
class Drift:
    """How today's items differ from those of the night before."""

    items: int
    new_items: int
    previous: str | None
    """The night compared with; None for the first one."""
    distance: float = 0.0
    """Total variation between the two distributions of interactions over items: the share that would have to move."""
    rising: tuple[Mover, ...] = ()
    falling: tuple[Mover, ...] = ()


@dataclass(frozen=True)
class Recommended:
    """A place in a user's list."""

    title: str
    score: float
    because: tuple[str, ...] = ()
    """Titles of the user's own items that speak for it, where the table says."""


@dataclass(frozen=True)
class User:
    """What one user did and was recommended."""

    user_id: str
    num_interactions: int
    history: tuple[tuple[datetime, str, str], ...]
    """(time, event type, title) of the last few, oldest first."""
    source: str
    model_version: str
    generated_at: datetime
    recommended: tuple[Recommended, ...]
    """Best first."""


@dataclass(frozen=True)
class Search:
    """What became of product search."""

    products: int
    funnel: Mapping[str, Any] | None
    """Counts of `build_queries`; None where there is no search log."""
    learnt: Mapping[str, int]
    """Queries that the student learnt from: `typed`, and `made_up` of the catalogue's words."""
    student: Mapping[str, Any]
    """What `train_search` noted of it: `parameters`, `cosine`, `held_out`, `weights`, with clicks also `clicks`."""
    queries: int
    """Of the published table, for each of which there was to be a ranking."""
    answered: int
    samples: tuple[tuple[str, int | None, tuple[str, ...]], ...]
    """(query, searches, titles of its first products) of the most frequent queries; no searches without a search log."""


@dataclass(frozen=True)
class Use:
    """Whether readers find the night's table."""

    in_use: str | None = None
    """The night that they find."""
    promoted: bool = False
    """The table was put in use, and no other one of the same night has taken its place."""
    rolled_back_to: str | None = None
    """The earlier night for which it was withdrawn since."""
    reason: str = ""
    """Why, where that was said."""


@dataclass(frozen=True)
class Night:
    """All that the page of one night shows."""

    name: str
    """Of the run config."""
    ds: str
    k: int
    """Length of the lists that the figures shown speak of."""
    previous: str | None = None
    """The night before, where there is one."""
    funnel: Mapping[str, Any] | None = None
    """Counts of `build_features`; `reasons` counts the quarantined rows by reason."""
    previous_funnel: Mapping[str, Any] | None = None
    gates: tuple[Gate, ...] = ()
    metrics: Mapping[tuple[str, str], Measure] = field(default_factory=dict)
    """(model or "a - b", metric) → measure, in the table's order."""
    left_out: int = 0
    """Test users whose next item was not new to them."""
    trend: Mapping[str, tuple[tuple[str, Measure], ...]] = field(default_factory=dict)
    """Model → (night, NDCG@k), oldest first, this night last."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name → what its `model.json` says."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → how long it took when it last ran, in the order of the stages."""
    lists: Lists | None = None
    use: Use = Use()
    previous_lists: Lists | None = None
    drift: Drift | None = None
    users: tuple[User, ...] = ()
    search: Search | None = None
    notes: tuple[str, ...] = ()
    """Sentences for the top of the page."""

    @property
    def shown_metric(self) -> str:
        """The NDCG that the page leads with: expected where the true model is known, else realised. Gates use the realised one."""
        expected = f"{PREFIX}ndcg@{self.k}"
        return expected if ("student", expected) in self.metrics else f"ndcg@{self.k}"

    def models_measured(self) -> list[str]:
        """The names in the metrics that are no differences, in the table's order."""
        return list(dict.fromkeys(model for model, _ in self.metrics if " - " not in model))

    def difference(self, left: str, right: str, metric: str) -> Measure | None:
        """The paired difference `left - right`, in whichever direction it was measured; None where it was not."""
        if found := self.metrics.get((f"{left} - {right}", metric)):
            return found
        if (other := self.metrics.get((f"{right} - {left}", metric))) is None:
            return None
        low = None if other.high is None else -other.high
        high = None if other.low is None else -other.low
        return Measure(-other.value, low, high, other.users)
