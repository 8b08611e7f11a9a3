"""The exact k best items of a model with item codes, without its item table.

A score is a sum of M look-ups. The product of the hidden state with each codeword is computed once. An item's codes choose
from these products (Petrov & Macdonald 2024, "Efficient inference of sub-item id-based sequential recommendation models
with millions of items"). Two neighbouring codes of an item form one *pair*. Its table of look-ups has 65,536 entries, and an item
needs M / 2 of them.

Most items are never looked at (dynamic pruning: Petrov, Macdonald & Tonellotto 2025, "Efficient recommendation with millions of
items by dynamic pruning of sub-item embeddings"). For each pair there is a list of the items that have it. The lists are read in
the order of their pairs' scores. An item in none of the lists read so far scores at most the sum of the best pairs that are
left, one of each position. The search ends when the k-th best score so far is above this bound.

Shapes: B rows, V items, M codes an item, S codewords a table, d width of a codeword, W width of an item vector, P pairs an item, K
list length, N candidates.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.windows import take_slices
from kdlib.errors import ModelError
from kdlib.models.codes import MAX_SIZE, compose
from kdlib.models.sequence import SequenceModel

LARGE_CATALOGUE = 1_000_000
"""Number of items from which look-ups take the place of the item table. One row is faster from 300,000 items on. Many rows at once,
for which the table is read only once, are faster from between one and three million on."""

FIRST_LISTS = 64
"""Lists that are read of each pair in the first round. Each further round reads as many as all rounds before it."""
LISTS = MAX_SIZE**2
"""Number of lists of a pair."""
WHOLE = 4
"""If more than a share of 1 / `WHOLE` of the items would be candidates, all items are scored in order, which is then faster."""
CHUNK = 1 << 16
"""Items that are scored at a time in order."""


def broken_score(row: int) -> ModelError:
    """The error for a score that is NaN or infinite."""
    return ModelError(
        f"a score is NaN or infinite in row {row} of the batch, so the model's weights or hidden states are broken. "
        f"Train the model again, with a smaller learning rate if the error comes back"
    )


class CodedItems:
    """The item vectors of a model with codes, as a matrix [V, W] that is never built as a whole.

    Args:
      codes_VM: uint8.
      tables_MSd: float, the code tables.
      width: W. Codewords of this width are added up, narrower ones stand side by side.
    """

    def __init__(self, codes_VM: Tensor, tables_MSd: Tensor, *, width: int) -> None:
        self._codes_VM, self._tables_MSd, self._width = codes_VM, tables_MSd.detach().float(), width
        codes = codes_VM.numpy()
        if codes.shape[1] % 2:  # the last pair has a code that changes nothing
            codes = np.pad(codes, ((0, 0), (0, 1)))
        self._pairs_VP = codes[:, 0::2].astype(np.uint16) * MAX_SIZE + codes[:, 1::2]
        columns = self._pairs_VP.T
        self._items_PV = np.stack([np.argsort(pairs_V, kind="stable").astype(np.int32) for pairs_V in columns])
        self._sizes = np.stack([np.bincount(pairs_V, minlength=LISTS) for pairs_V in columns])
        self._starts = self._sizes.cumsum(1) - self._sizes

    @property
    def shape(self) -> tuple[int, int]:
        """(V, W)."""
        return len(self._codes_VM), self._width

    @property
    def nbytes(self) -> int:
        """Memory of the codes and lists. The codes are also the model's own."""
        return self._codes_VM.nbytes + self._pairs_VP.nbytes + self._items_PV.nbytes + self._sizes.nbytes

    def __len__(self) -> int:
        return len(self._codes_VM)

    def __getitem__(self, items: Tensor) -> Tensor:
        """The vectors of some items, float32 [*items, W]."""
        rows = compose(self._tables_MSd, self._codes_VM[items.flatten()], width=self._width)
        return rows.view(*items.shape, self._width)

    def topk(
        self, hidden_BW: Tensor, bias_V: Tensor, *, k: int, excluded: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The k items with the highest score, as `kdlib.inference.topk.exact_topk` gives them. See there for the arguments."""
        scores_BK = np.full((len(hidden_BW), k), -np.inf, np.float32)
        items_BK = np.full((len(hidden_BW), k), -1, np.int64)
        values, bias = excluded[0].numpy(), bias_V.numpy()
        for row, (start, stop) in enumerate(pairwise(excluded[1].tolist())):
            tables = self._lookups(hidden_BW[row], row)
            found = _Best(k, np.unique(values[start:stop]))
            self._search(tables, bias, found)
            there = found.scores > -np.inf
            scores_BK[row, : there.sum()], items_BK[row, : there.sum()] = found.scores[there], found.items[there]
        return torch.from_numpy(scores_BK), torch.from_numpy(items_BK)

    def _lookups(self, hidden_W: Tensor, row: int) -> list[NDArray]:
        """What each pair adds to a score: float32 [LISTS] for each of the P pairs."""
        count, size, part = self._tables_MSd.shape
        of_parts = hidden_W.float().expand(count, part) if part == self._width else hidden_W.float().view(count, part)
        products = torch.einsum("msd,md->ms", self._tables_MSd, of_parts).numpy()
        if not np.isfinite(products).all():
            raise broken_score(row)
        table = np.zeros((count + count % 2, MAX_SIZE), np.float32)
        table[:count, :size] = products
        return [(first[:, None] + second).ravel() for first, second in zip(table[0::2], table[1::2], strict=True)]

    def _search(self, tables: list[NDArray], bias_V: NDArray, found: "_Best") -> None:
        """Score items, the most promising ones first, until no other item can be among the best."""
        lists = [np.where(sizes > 0, table, -np.inf) for sizes, table in zip(self._sizes, tables, strict=True)]
        greatest, read, stop, candidates = bias_V.max(initial=-np.inf), 0, FIRST_LISTS, 0
        order = [np.empty(0, np.int64)] * len(lists)
        while read < LISTS:
            if stop >= min(map(len, order)) < LISTS:
                order = [_highest(scores, min(8 * stop, LISTS)) for scores in lists]
            parts = [self._in_lists(pair, chosen[read:stop]) for pair, chosen in enumerate(order)]
            candidates += sum(map(len, parts))
            if candidates > len(self) // WHOLE:
                for start in range(0, len(self), CHUNK):
                    self._score(np.arange(start, min(start + CHUNK, len(self))), tables, bias_V, greatest, found)
                return
            self._score(np.concatenate(parts), tables, bias_V, greatest, found)
            read, stop = stop, 2 * stop
            if read < LISTS:
                left = [scores[chosen[read]] for scores, chosen in zip(lists, order, strict=True)]
                if found.worst > _total(left) + greatest:
                    return

    def _in_lists(self, pair: int, chosen: NDArray) -> NDArray:
        """The items of some lists of one pair."""
        return self._items_PV[pair][take_slices(self._starts[pair][chosen], self._sizes[pair][chosen])]

    def _score(
        self, items_N: NDArray, tables: list[NDArray], bias_V: NDArray, greatest: np.float32, found: "_Best"
    ) -> None:
        """Score some items, which may be among the best."""
        pairs_NP = self._pairs_VP.take(items_N, axis=0).astype(np.intp)  # five times as fast as an index in brackets
        scores_N = _total([table.take(pairs_NP[:, pair]) for pair, table in enumerate(tables)])
        promising = np.flatnonzero(scores_N + greatest >= found.worst)
        items_N = items_N[promising]
        found.add(items_N, scores_N[promising] + bias_V.take(items_N))


@torch.no_grad()
def head_of(model: SequenceModel) -> tuple[Tensor | CodedItems, Tensor | None]:
    """`SequenceModel.head`, but coded items for a model with codes over a large catalogue. Make it once: it takes seconds."""
    if model.code_tables is None or model.num_items < LARGE_CATALOGUE:
        return model.head()
    return CodedItems(model.get_buffer("codes_VM"), model.code_tables, width=model.dim), None


class _Best:
    """The best items so far, best first; equal scores by the smaller index.

    Args:
      k: most items.
      without: items to leave out, sorted.
    """

    def __init__(self, k: int, without: NDArray) -> None:
        self._k, self._without = k, without
        self.items, self.scores = np.empty(0, np.int64), np.empty(0, np.float32)

    @property
    def worst(self) -> float:
        """The k-th best score; −inf with fewer than k items."""
        return float(self.scores[-1]) if len(self.scores) == self._k else -np.inf

    def add(self, items_N: NDArray, scores_N: NDArray) -> None:
        """Look at more items. An item may come several times."""
        items_N, first = np.unique(np.concatenate([self.items, items_N]), return_index=True)
        scores_N = np.concatenate([self.scores, scores_N])[first]
        kept = ~np.isin(items_N, self._without) & (scores_N > -np.inf)
        items_N, scores_N = items_N[kept], scores_N[kept]
        if len(scores_N) > self._k:  # equal scores at the border stay until they are sorted
            border = np.partition(scores_N, len(scores_N) - self._k)[len(scores_N) - self._k]
            items_N, scores_N = items_N[scores_N >= border], scores_N[scores_N >= border]
        order = np.lexsort((items_N, -scores_N))[: self._k]
        self.items, self.scores = items_N[order], scores_N[order]


def _highest(scores: NDArray, number: int) -> NDArray:
    """The places of the highest scores, highest first, and of all that equal the last one. So a longer result begins alike."""
    chosen = np.flatnonzero(scores >= np.partition(scores, len(scores) - number)[len(scores) - number])
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def _total(parts: list[Any]) -> Any:
    """The sum of the parts in their order. Rounding then never puts a sum of larger parts below a sum of smaller ones."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
