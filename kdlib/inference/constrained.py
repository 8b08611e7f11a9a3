"""The best items of each row under rules: caps, a share of new items, and pinned items.

A list is made in this order. An item enters it at most once, and never against a cap.

1. Pinned items, if the row does not exclude them. They enter against a cap too, and count.
2. The best new items, until the list has its least number of new ones.
3. The best items of all, until the list has k.

Then the items stand in the order of their scores, equal scores by the smaller index, with pinned items at their places.
The lists are exact: more candidates are looked at wherever the first ones do not fill a list.

Shapes: B rows, W width of the hidden state, V items, C candidates, K list length, N excluded items of all rows together.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.windows import take_slices
from kdlib.inference.coded_items import CodedItems
from kdlib.inference.list_rules import ListRules
from kdlib.inference.topk import exact_topk

WIDER = 4
"""How many times as many candidates are looked at where the first ones do not fill a list."""


class Lists(NamedTuple):
    """The lists of some rows. A shorter list is filled up with score −inf, item −1, not pinned."""

    scores: Tensor
    """float32 [B, K]."""
    items: Tensor
    """int64 [B, K]."""
    pinned: NDArray
    """bool [B, K]."""


def lists_under_rules(
    hidden_BW: Tensor,
    weight_VW: Tensor | CodedItems,
    bias_V: Tensor | None,
    rules: ListRules,
    *,
    k: int,
    item_block: int,
    excluded: tuple[Tensor, Tensor],
) -> Lists:
    """The lists of the rows under the rules. For the other arguments and the errors see `exact_topk`."""
    of_rules_V = rules.bias_V.to(hidden_BW)
    bias_V = of_rules_V if bias_V is None else bias_V + of_rules_V
    if rules.is_plain:
        scores, items = exact_topk(hidden_BW, weight_VW, bias_V, k=k, item_block=item_block, excluded=excluded)
        return Lists(scores, items, np.zeros(items.shape, bool))
    lists = _Growing(len(hidden_BW), k, rules)
    lists.add_pins(*_with_scores(hidden_BW, weight_VW, bias_V, [item for _, item in rules.pins], excluded))
    search = _Search(hidden_BW, weight_VW, bias_V, item_block, excluded)
    if rules.new_items is not None and len(rules.new_items):
        is_new_V = np.zeros(len(weight_VW), bool)
        is_new_V[rules.new_items] = True
        lists.grow(search.among(rules.new_items), limit=rules.least_new, counted_V=is_new_V)
    lists.grow(search, limit=k)
    return lists.ordered()


def _with_scores(
    hidden_BW: Tensor, weight_VW: Tensor | CodedItems, bias_V: Tensor, items: list[int], excluded: tuple[Tensor, Tensor]
) -> tuple[NDArray, NDArray]:
    """The same items for all rows, and their scores: int64 and float32 [B, items]. Excluded items are −1."""
    chosen = torch.tensor(items, dtype=torch.int64)
    scores = hidden_BW @ weight_VW[chosen].T + bias_V[chosen]
    values, offsets = excluded
    owners = np.repeat(np.arange(len(hidden_BW)), np.diff(offsets.numpy()))
    items_BP = np.tile(np.array(items, np.int64), (len(hidden_BW), 1))
    for column, item in enumerate(items):
        items_BP[owners[values.numpy() == item], column] = -1
    return items_BP, scores.float().numpy()


@dataclass(frozen=True)
class _Search:
    """Finds the best candidates of some rows. For the fields see `exact_topk`."""

    hidden_BW: Tensor
    weight_VW: Tensor | CodedItems
    bias_V: Tensor
    item_block: int
    excluded: tuple[Tensor, Tensor]
    items: NDArray | None = None
    """The items that the rows of `weight_VW` stand for, ascending. None: all items."""

    @property
    def size(self) -> int:
        """Number of items that are searched."""
        return len(self.weight_VW)

    def among(self, items: NDArray) -> "_Search":
        """A search among a few items, given in ascending order."""
        chosen, num_items = torch.from_numpy(items), len(self.weight_VW)
        place_V = torch.full((num_items + 1,), len(items))  # the last place is for items that the model does not know
        place_V[chosen] = torch.arange(len(items))
        values, offsets = self.excluded
        return replace(
            self,
            weight_VW=self.weight_VW[chosen],
            bias_V=self.bias_V[chosen],
            excluded=(place_V[values.clamp(max=num_items)], offsets),
            items=items,
        )

    def best(self, rows: NDArray, number: int) -> tuple[NDArray, NDArray]:
        """The best candidates of these rows: items int64 and scores float32 [rows, number], filled up with −1."""
        values, offsets = self.excluded
        lengths = offsets.diff()[rows]
        starts = offsets[:-1][rows]
        excluded = (
            values[take_slices(starts.numpy(), lengths.numpy())],
            torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        )
        scores, found = exact_topk(
            self.hidden_BW[rows],
            self.weight_VW,
            self.bias_V,
            k=number,
            item_block=self.item_block,
            excluded=excluded,
        )
        items = found.numpy()
        return (items if self.items is None else np.where(items < 0, -1, self.items[items])), scores.numpy()


class _Growing:
    """The lists while they grow. They stand in the order in which their items entered."""

    def __init__(self, num_rows: int, k: int, rules: ListRules) -> None:
        self._rules, self._k = rules, k
        self._items_BK = np.full((num_rows, k), -1, np.int64)
        self._scores_BK = np.full((num_rows, k), -np.inf, np.float32)
        self._places_BK = np.zeros((num_rows, k), np.int64)  # of pinned items, from 1
        self._lengths_B = np.zeros(num_rows, np.int64)

    def add_pins(self, items_BP: NDArray, scores_BP: NDArray) -> None:
        for column, (place, _) in enumerate(self._rules.pins):
            rows = np.flatnonzero((items_BP[:, column] >= 0) & (self._lengths_B < self._k))
            self._places_BK[rows, self._lengths_B[rows]] = place
            self._enter(rows, items_BP[rows, column], scores_BP[rows, column])

    def grow(self, search: _Search, *, limit: int, counted_V: NDArray | None = None) -> None:
        """Add the best candidates until each list has `limit` items, or as many of the items in `counted_V`."""
        rows, number = np.arange(len(self._items_BK)), min(2 * self._k, search.size)
        while len(rows):
            items_RC, scores_RC = search.best(rows, number)
            for column in range(number):
                short = self._number(rows, counted_V) < limit
                if not short.any():
                    break
                candidates = items_RC[:, column]
                enters = short & (candidates >= 0) & (self._lengths_B[rows] < self._k)
                enters[enters] = self._fits(rows[enters], candidates[enters])
                self._enter(rows[enters], candidates[enters], scores_RC[enters, column])
            unfinished = (self._number(rows, counted_V) < limit) & (items_RC[:, -1] >= 0)
            rows = rows[unfinished & (self._lengths_B[rows] < self._k)]
            if number == search.size:
                return
            number = min(WIDER * number, search.size)

    def _number(self, rows: NDArray, counted_V: NDArray | None) -> NDArray:
        if counted_V is None:
            return self._lengths_B[rows]
        items = self._items_BK[rows]
        return (counted_V[items] & (items >= 0)).sum(1)

    def _fits(self, rows: NDArray, items: NDArray) -> NDArray:
        """Whether each item is not in its list yet, and keeps the caps: bool [rows]."""
        ours = self._items_BK[rows]
        fits = ~(ours == items[:, None]).any(1)
        for codes_VM, most in self._rules.caps:
            theirs = np.where((ours >= 0)[:, :, None], codes_VM[ours], -1)
            for code in codes_VM[items].T:
                shared = (theirs == code[:, None, None]).any(2).sum(1)
                fits &= (code < 0) | (shared < most)
        return fits

    def _enter(self, rows: NDArray, items: NDArray, scores: NDArray) -> None:
        self._items_BK[rows, self._lengths_B[rows]] = items
        self._scores_BK[rows, self._lengths_B[rows]] = scores
        self._lengths_B[rows] += 1

    def ordered(self) -> Lists:
        """Best first, with pinned items at their places."""
        is_pinned, is_empty = self._places_BK > 0, self._items_BK < 0
        order = np.lexsort((self._items_BK, -self._scores_BK, is_pinned | is_empty))
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(self._k)[None], axis=1)
        taken = np.zeros(is_pinned.shape, bool)
        rows, columns = np.nonzero(is_pinned)
        taken[rows, self._places_BK[rows, columns] - 1] = True
        free = np.argsort(taken, axis=1, kind="stable")
        place = np.where(is_pinned, self._places_BK - 1, np.take_along_axis(free, rank, 1))
        order = np.argsort(np.where(is_empty, self._k, place), axis=1, kind="stable")
        return Lists(
            torch.from_numpy(np.take_along_axis(self._scores_BK, order, 1)),
            torch.from_numpy(np.take_along_axis(self._items_BK, order, 1)),
            np.take_along_axis(is_pinned, order, 1),
        )
