"""Config of the rules for lists: `recommend.policy`."""

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdlib.config.base import Positive, Section
from kdlib.config.data import EVENT_TYPES

EventType = Literal["view", "favourite", "cart", "purchase"]


class NumberRange(Section):
    """A range of a feature of kind number, both ends included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> "NumberRange":
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is greater than max {self.max:g}")
        return self


def _as_texts(values: object) -> object:
    """YAML reads `1234` and `yes` as a number and a bool; a feature of kind category holds text."""
    if isinstance(values, list) and all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
        return tuple(map(str, values))
    return values


Values = Annotated[tuple[str, ...], BeforeValidator(_as_texts), Field(min_length=1)]
Match = dict[str, Values | NumberRange]
"""Feature → values, or a range of numbers. An item matches if it has one of the values, or a number in the range."""


class DatedSection(Section):
    """A rule that may hold on certain days only: the days on which the lists are shown. A list of `ds` is shown on the day after."""

    first_day: date | None = None
    last_day: date | None = None

    @model_validator(mode="after")
    def _days_are_in_order(self) -> "DatedSection":
        if self.first_day and self.last_day and self.first_day > self.last_day:
            raise ValueError(f"first_day {self.first_day} is after last_day {self.last_day}")
        return self

    def holds_on(self, day: date) -> bool:
        """Whether the rule holds for lists that are shown on this day."""
        return (self.first_day or day) <= day <= (self.last_day or day)


class BoostConfig(DatedSection):
    """Items that count for more, or for less."""

    items: Annotated[Match, Field(min_length=1)]
    """The items: they match each of these features."""
    factor: Annotated[float, Field(gt=0)]
    """The model then gives such an item this many times its probability, relative to the other items."""


class PinConfig(DatedSection):
    """An item with a fixed place in every list."""

    item: Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
    """The item's id."""
    place: Positive
    """The place, from 1. If the list is shorter, it is the last one."""


class NewItemsConfig(Section):
    """New items with a reserved share of every list."""

    days: Positive
    """An item is new for this many days from the run that saw it first."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Least share of new items in a list of `recommend.k`, rounded up. A list has fewer if fewer are allowed."""


def _age(value: object) -> object:
    """`30d` → 30, `ever` → `ever`."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,5})d", value)):
        return int(found[1])
    return value


class ListRulesConfig(Section):
    """What a list may hold. A rule on a feature needs the feature in `input.catalogue.features`."""

    include: Match = Field(default_factory=dict)
    """Only items that match each of these features. An item without the feature is left out."""
    exclude: Match = Field(default_factory=dict)
    """No item that matches one of these features. An item without the feature stays."""
    exclude_recent: dict[EventType, Annotated[Literal["ever"] | Annotated[int, Field(ge=0)], BeforeValidator(_age)]] = (
        Field(default_factory=dict)
    )
    """Event type → how long an item of such an event stays out of the user's list: `30d`, `0d` (not at all) or `ever`.
    Types that are not named stay out for ever."""
    at_most: dict[str, Positive] = Field(default_factory=dict)
    """Feature of kind category or categories → most items in a list that share a value. Items without a value are not
    counted."""
    new_items: NewItemsConfig | None = None
    boosts: tuple[BoostConfig, ...] = ()
    pins: tuple[PinConfig, ...] = ()
    """Pinned items obey the other rules: a pinned item that a user may not see is left out of this user's list."""

    @model_validator(mode="after")
    def _pins_have_places_of_their_own(self) -> "ListRulesConfig":
        for place in {pin.place for pin in self.pins}:
            ours = [pin for pin in self.pins if pin.place == place]
            for one in ours:
                for other in ours:
                    if one is not other and _overlap(one, other):
                        raise ValueError(f"pins {one.item} and {other.item} have the same place {place} on some day")
        return self

    def features(self) -> Iterator[tuple[str, str, Literal["values", "number"]]]:
        """Each (setting, feature, what it must hold) that the rules read."""
        named = [("include", self.include), ("exclude", self.exclude)]
        named += [(f"boosts.{number}.items", boost.items) for number, boost in enumerate(self.boosts)]
        for setting, match in named:
            for feature, wanted in match.items():
                yield f"{setting}.{feature}", feature, "number" if isinstance(wanted, NumberRange) else "values"
        for feature in self.at_most:
            yield f"at_most.{feature}", feature, "values"

    def seen_days(self) -> tuple[float, ...]:
        """For each of our event types, weakest first: for how many days its item stays out of a list."""
        return tuple(float("inf" if age == "ever" else age) for age in map(self._age_of, EVENT_TYPES))

    def _age_of(self, event_type: EventType) -> int | Literal["ever"]:
        return self.exclude_recent.get(event_type, "ever")


class SegmentsConfig(Section):
    """Rules for segments of users."""

    feature: str
    """The feature of `input.users.features`, of kind category, that names a user's segment."""
    rules: Annotated[dict[str, ListRulesConfig], Field(min_length=1)]
    """Segment → rules that replace those of the policy, key by key. Users of other segments have the policy's rules."""


class PolicyConfig(ListRulesConfig):
    """The rules for lists: for all users, and for segments."""

    segments: SegmentsConfig | None = None

    def rules_of(self, segment: str | None) -> ListRulesConfig:
        """The rules of a segment; None: of all other users."""
        ours = {name: getattr(self, name) for name in ListRulesConfig.model_fields}
        theirs = self.segments.rules.get(segment) if self.segments and segment is not None else None
        if theirs is not None:
            ours |= {name: getattr(theirs, name) for name in theirs.model_fields_set}
        return ListRulesConfig.model_construct(**ours)

    def rules_set(self) -> list[str]:
        """The settings of the rules that all users or a segment have."""
        plain = ListRulesConfig()
        rules = self.all_rules().values()
        return [
            name
            for name in ListRulesConfig.model_fields
            if any(getattr(r, name) != getattr(plain, name) for r in rules)
        ]

    def without(self, rule: str) -> "PolicyConfig":
        """The policy without the rule of this setting, for all users and all segments."""
        nothing, segments = {rule: getattr(ListRulesConfig(), rule)}, self.segments
        if segments:
            rules = {name: one.model_copy(update=nothing) for name, one in segments.rules.items()}
            segments = segments.model_copy(update={"rules": rules})
        return self.model_copy(update=nothing | {"segments": segments})

    def all_rules(self) -> dict[str, ListRulesConfig]:
        """Where the rules stand in the run config → rules."""
        found: dict[str, ListRulesConfig] = {"recommend.policy": self}
        if self.segments:
            found |= {f"recommend.policy.segments.rules.{name}": one for name, one in self.segments.rules.items()}
        return found


def _overlap(one: DatedSection, other: DatedSection) -> bool:
    first = max(one.first_day or date.min, other.first_day or date.min)
    return first <= min(one.last_day or date.max, other.last_day or date.max)
