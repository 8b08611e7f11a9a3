"""The content of the page, as plain data. An unfinished run has None, or nothing, for what it did not make."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kdlib.metrics.expected import PREFIX


@dataclass(frozen=True)
class Measure:
    """A metric of a model, or of the difference of two models. `low` and `high`: its 95% interval over users, if any."""

    value: float
    low: float | None
    high: float | None
    users: int


@dataclass(frozen=True)
class Gate:
    """One row of `tables.GATES`, with the values of the earlier runs."""

    name: str
    part: str
    value: float | None
    low: float | None
    high: float | None
    status: str
    text: str
    trend: tuple[tuple[str, float], ...] = ()
    """(day, value), oldest first, this run last. Runs that skipped the gate are left out."""


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
    """An item's share of all interactions, in the previous run and now."""

    title: str
    before: float
    now: float


@dataclass(frozen=True)
class Drift:
    """How the items differ from the items of the previous run."""

    items: int
    new_items: int
    previous: str | None
    """The day of the previous run. None: this is the first run."""
    distance: float = 0.0
    """Total variation distance between the two distributions of interactions over items."""
    rising: tuple[Mover, ...] = ()
    falling: tuple[Mover, ...] = ()


@dataclass(frozen=True)
class Recommended:
    """One item of a user's list."""

    title: str
    score: float
    because: tuple[str, ...] = ()
    """Titles of the user's own items that are the reason, if the table has reasons."""
    pinned: bool = False
    """A rule put the item at its place."""


@dataclass(frozen=True)
class User:
    """The last interactions and the recommendations of one user."""

    user_id: str
    num_interactions: int
    history: tuple[tuple[datetime, str, str], ...]
    """(time, event type, title) of the last few interactions, oldest first."""
    source: str
    model_version: str
    generated_at: datetime
    recommended: tuple[Recommended, ...]
    """Best first."""
    variant: str | None = None
    """Of the A/B test, if there is one."""


@dataclass(frozen=True)
class Search:
    """The results of product search."""

    products: int
    funnel: Mapping[str, Any] | None
    """Counts of `build_queries`. None: the shop has no search log."""
    learnt: Mapping[str, int]
    """Number of training queries: `typed` by people, and `made_up` from words of the catalogue."""
    student: Mapping[str, Any]
    """Results of `train_search`: `parameters`, `cosine`, `held_out`, `weights`; and `clicks` if the log has clicks."""
    queries: int
    """Queries that should have a ranking."""
    answered: int
    """Queries that have a ranking."""
    samples: tuple[tuple[str, int | None, tuple[str, ...]], ...]
    """(query, searches, titles of its first products) of the most frequent queries. Without a search log, searches are None."""


@dataclass(frozen=True)
class Use:
    """Whether readers get the run's table."""

    in_use: str | None = None
    """The day of the run that readers get."""
    promoted: bool = False
    """The run's table was put in use, and no other table of the same day replaced it."""
    rolled_back_to: str | None = None
    """The day of the earlier run that a rollback put in use instead."""
    reason: str = ""
    """The reason for the rollback, if one was given."""
    frozen: str = ""
    """Why the run in use is frozen, if that keeps this run out of use."""


@dataclass(frozen=True)
class Night:
    """The content of the page of one run."""

    name: str
    """The name of the run config."""
    ds: str
    k: int
    """Length of the lists that the page's metrics are about."""
    previous: str | None = None
    """The day of the previous run, if any."""
    funnel: Mapping[str, Any] | None = None
    """Counts of `build_features`; `reasons` counts the quarantined rows by reason."""
    previous_funnel: Mapping[str, Any] | None = None
    gates: tuple[Gate, ...] = ()
    metrics: Mapping[tuple[str, str], Measure] = field(default_factory=dict)
    """(model or "a - b", metric) → measure, in the table's order."""
    left_out: int = 0
    """Test users who had already seen their next item."""
    new_item_days: int | None = None
    """How many days an item counts as new, in the metric of new items."""
    trend: Mapping[str, tuple[tuple[str, Measure], ...]] = field(default_factory=dict)
    """Model → (day, NDCG@k), oldest first, this run last."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name → the content of its `model.json`."""
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
        """The NDCG at the top of the page: the expected NDCG if the true model is known, else the realised one, as in the gates."""
        expected = f"{PREFIX}ndcg@{self.k}"
        return expected if ("student", expected) in self.metrics else f"ndcg@{self.k}"

    def models_measured(self) -> list[str]:
        """The names of the models in the metrics, without differences, in the table's order."""
        return list(dict.fromkeys(model for model, _ in self.metrics if " - " not in model))

    def models_by_quality(self) -> list[str]:
        """The names of the models with an NDCG@k, best first."""
        metric = f"ndcg@{self.k}"
        names = [name for name in self.models_measured() if (name, metric) in self.metrics]
        return sorted(names, key=lambda name: -self.metrics[name, metric].value)

    def difference(self, left: str, right: str, metric: str) -> Measure | None:
        """The paired difference `left - right`, also if it was measured as `right - left`. None: it was not measured."""
        if found := self.metrics.get((f"{left} - {right}", metric)):
            return found
        if (other := self.metrics.get((f"{right} - {left}", metric))) is None:
            return None
        low = None if other.high is None else -other.high
        high = None if other.low is None else -other.low
        return Measure(-other.value, low, high, other.users)
