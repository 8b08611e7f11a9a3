"""The rules for lists, made from the run config and from the features of the items.

Shapes: V items of the model, M values of an item.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.config.data import EVENT_TYPES
from kdlib.config.policy import ListRulesConfig, Match, NumberRange, PolicyConfig
from kdlib.errors import ConfigError


@dataclass(frozen=True)
class ListRules:
    """What the lists of some users may hold, on one day."""

    allowed_V: Tensor
    """bool: available, and left by `include` and `exclude`."""
    boosts_V: Tensor | None = None
    """float32, added to the logits: the logarithms of the factors."""
    caps: tuple[tuple[NDArray, int], ...] = ()
    """(values of each item as codes, int32 [V, M], filled up with −1; most items in a list that share a value)."""
    new_items: NDArray | None = None
    """Allowed items that are new, int64, ascending."""
    least_new: int = 0
    """Least number of new items in a list."""
    pins: tuple[tuple[int, int], ...] = ()
    """(place from 1, item), by place. All are allowed."""
    seen_days: tuple[float, ...] = (math.inf,) * len(EVENT_TYPES)
    """For each event type: how many days an item of such an event stays out of the user's list."""

    @cached_property
    def bias_V(self) -> Tensor:
        """float32, added to the logits: the boosts, and −inf for items that are not allowed."""
        boosts_V = torch.zeros(len(self.allowed_V)) if self.boosts_V is None else self.boosts_V
        return boosts_V.masked_fill(~self.allowed_V, -torch.inf)

    @property
    def is_plain(self) -> bool:
        """Whether the list is simply the items with the best scores."""
        return not (self.caps or self.least_new or self.pins)

    def without(self, out_V: Tensor) -> "ListRules":
        """The rules for lists that also leave out some items, bool [V]. A pinned item among them is not shown."""
        out = out_V.numpy()
        return replace(
            self,
            allowed_V=self.allowed_V & ~out_V,
            new_items=None if self.new_items is None else self.new_items[~out[self.new_items]],
            pins=tuple((place, item) for place, item in self.pins if not out[item]),
        )

    def hides(self, event_types_N: NDArray, ages_N: NDArray) -> NDArray:
        """Which interactions keep their item out of the user's list: bool [N].

        Args:
          event_types_N: indices into `EVENT_TYPES`.
          ages_N: float64, in days.
        """
        return ages_N < np.array(self.seen_days)[event_types_N]


def rules_of_policy(
    policy: PolicyConfig | None,
    *,
    vocabulary: Path,
    item_features: Path | None,
    num_items: int | None,
    day: date,
    k: int,
) -> dict[str | None, ListRules]:
    """Segment → its rules; None → the rules of all other users.

    Args:
      policy: None: all available items, and none that the user has ever touched.
      vocabulary: ITEM_VOCABULARY.
      item_features: ITEM_FEATURES. None where no rule reads a feature.
      num_items: V; items of the vocabulary beyond it are left out. None: all items.
      day: the day on which the lists are shown.
      k: length of the lists.

    Raises:
      ConfigError: the rules leave no item, or a pinned item is not in the vocabulary.
    """
    columns = ["item_index", "item_id", "available"]
    items = pq.read_table(vocabulary, columns=[*columns, "first_seen"] if policy else columns).sort_by("item_index")
    available_V = items["available"].to_numpy()[:num_items]
    if policy is None:
        return {None: ListRules(torch.from_numpy(available_V))}
    read = {feature for rules in policy.all_rules().values() for _, feature, _ in rules.features()}
    features = _read_features(item_features, read, len(available_V)) if item_features and read else {}
    segments: list[str | None] = [None, *(policy.segments.rules if policy.segments else ())]
    found = {}
    for segment in segments:
        where = "recommend.policy" if segment is None else f"recommend.policy.segments.rules.{segment}"
        found[segment] = _compiled(policy.rules_of(segment), where, items, features, available_V, day, k)
    return found


def _compiled(
    rules: ListRulesConfig,
    where: str,
    items: pa.Table,
    features: Mapping[str, "_Feature"],
    available_V: NDArray,
    day: date,
    k: int,
) -> ListRules:
    allowed_V = available_V.copy()
    for feature, wanted in rules.include.items():
        allowed_V &= features[feature].matches(wanted)
    for feature, wanted in rules.exclude.items():
        allowed_V &= ~features[feature].matches(wanted)
    if not allowed_V.any():
        raise ConfigError(
            f"{where} leaves none of the {int(available_V.sum()):,} available items. Correct include and exclude"
        )
    boosts_V = np.zeros(len(allowed_V), np.float32)
    for boost in rules.boosts:
        if boost.holds_on(day):
            boosts_V[_matching(boost.items, features, len(allowed_V))] += math.log(boost.factor)
    new_items, least_new = None, 0
    if rules.new_items:
        first_seen = items["first_seen"].to_numpy(zero_copy_only=False)[: len(allowed_V)].astype("datetime64[D]")
        is_new_V = np.datetime64(day) - first_seen <= np.timedelta64(rules.new_items.days, "D")
        new_items, least_new = np.flatnonzero(is_new_V & allowed_V), math.ceil(rules.new_items.share * k - 1e-9)
        if len(new_items) == allowed_V.sum():  # a first run: every list has enough of them
            new_items, least_new = None, 0
    return ListRules(
        torch.from_numpy(allowed_V),
        torch.from_numpy(boosts_V) if boosts_V.any() else None,
        tuple((features[feature].codes_VM, most) for feature, most in rules.at_most.items()),
        new_items,
        least_new,
        _pins(rules, where, items, allowed_V, day),
        rules.seen_days(),
    )


def _pins(
    rules: ListRulesConfig, where: str, items: pa.Table, allowed_V: NDArray, day: date
) -> tuple[tuple[int, int], ...]:
    """(place, item) of the pins that hold on a day, by place, without items that are not allowed."""
    place_of = {pin.item: pin.place for pin in rules.pins if pin.holds_on(day)}
    found = pc.call_function("index_in", [pa.array([pin.item for pin in rules.pins], pa.string())], _lookup(items))
    index_of = dict(zip((pin.item for pin in rules.pins), found.to_pylist(), strict=True))
    if unknown := [item for item, index in index_of.items() if index is None]:
        raise ConfigError(
            f"{where}.pins: the item {unknown[0]!r} is not in the vocabulary, so nobody has touched it yet. Correct the"
            " id, or leave the pin out"
        )
    pins = sorted((place, index_of[item]) for item, place in place_of.items())
    return tuple((place, index) for place, index in pins if index < len(allowed_V) and allowed_V[index])


def _lookup(items: pa.Table) -> pc.SetLookupOptions:
    return pc.SetLookupOptions(items["item_id"].combine_chunks())


@dataclass(frozen=True)
class _Feature:
    """A feature of the items: codes of its values, or numbers."""

    codes_VM: NDArray
    """int32, filled up with −1."""
    code_of: dict[str, int]
    number_V: NDArray
    """float64, NaN where missing."""

    def matches(self, wanted: tuple[str, ...] | NumberRange) -> NDArray:
        """Which items have one of the values, or a number in the range: bool [V]."""
        if isinstance(wanted, NumberRange):
            low, high = wanted.min, wanted.max
            least, most = (-math.inf if low is None else low), (math.inf if high is None else high)
            return (self.number_V >= least) & (self.number_V <= most)
        codes = [self.code_of[value] for value in wanted if value in self.code_of]
        return np.asarray(np.isin(self.codes_VM, codes).any(axis=1))


def _matching(match: Match, features: Mapping[str, _Feature], num_items: int) -> NDArray:
    """The items that match each of the features: bool [V]."""
    matching_V = np.ones(num_items, bool)
    for feature, wanted in match.items():
        matching_V &= features[feature].matches(wanted)
    return matching_V


def _read_features(folder: Path, names: set[str], num_items: int) -> dict[str, _Feature]:
    table = pads.dataset(folder).to_table(
        filter=pads.field("feature").isin(sorted(names)) & (pads.field("item_index") < num_items)
    )
    found = {}
    for name in names:
        rows = table.filter(pc.call_function("equal", [table["feature"], pa.scalar(name)]))
        items = rows["item_index"].to_numpy()
        number_V = np.full(num_items, np.nan)
        number_V[items] = rows["number"].to_numpy()
        values = rows["values"].combine_chunks()
        lengths = values.value_lengths().fill_null(0).to_numpy().astype(np.int64)
        texts = values.flatten().dictionary_encode()
        codes_VM = np.full((num_items, max(lengths.max(initial=0), 1)), -1, np.int32)
        places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        codes_VM[np.repeat(items, lengths), places] = texts.indices.to_numpy()
        found[name] = _Feature(
            codes_VM, {text: code for code, text in enumerate(texts.dictionary.to_pylist())}, number_V
        )
    return found


class Segments:
    """The segment of each user.

    Args:
      folder: USER_FEATURES.
      feature: the feature that names the segment.
    """

    def __init__(self, folder: Path, feature: str) -> None:
        self._rows = pads.dataset(folder).filter(pads.field("feature") == feature)

    def of(self, user_ids: pa.ChunkedArray) -> list[str | None]:
        """The segments of some users, in their order; None for a user without one."""
        if not len(user_ids):
            return []
        bounds = pc.call_function("min_max", [user_ids])
        user = pads.field("user_id")
        near = self._rows.to_table(["user_id", "values"], filter=(user >= bounds["min"]) & (user <= bounds["max"]))
        segment_of = dict(zip(near["user_id"].to_pylist(), (v[0] for v in near["values"].to_pylist()), strict=True))
        return [segment_of.get(one) for one in user_ids.to_pylist()]
