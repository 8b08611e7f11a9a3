"""The values of items' features as a sparse matrix, and what a model learns about each value.

A category is a value. A number is spread over two values, the nearest knots below and above it. A missing value has no entry,
so it adds nothing to an item's vector.

Shapes: V items, F values, N entries of the matrix, D width of an item vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ItemValues(NamedTuple):
    """Which values each item has: a matrix [V, F] of weights, by rows."""

    values_N: Tensor
    """int64, the value of each entry."""
    offsets_V: Tensor
    """int64, the first entry of each item."""
    weights_N: Tensor
    """float32, above 0. The weights of one item and feature sum to 1."""
    items_F: Tensor
    """float32, how many items have each value; at least 1."""

    def sums(self, table_FD: Tensor) -> Tensor:
        """For each item the weighted sum of its values' rows: [V, D], of the table's dtype."""
        weights_N = self.weights_N.to(table_FD.dtype)
        return F.embedding_bag(self.values_N, table_FD, self.offsets_V, mode="sum", per_sample_weights=weights_N)

    def matrix(self, factors_F: Tensor | None = None) -> Tensor:
        """The matrix, sparse float32 [V, F]; its columns times `factors_F`, float [F], if given."""
        ends_V = torch.cat([self.offsets_V[1:], self.offsets_V.new_tensor([len(self.values_N)])])
        rows_N = torch.repeat_interleave(torch.arange(len(ends_V), device=ends_V.device), ends_V - self.offsets_V)
        entries_N = self.weights_N if factors_F is None else self.weights_N * factors_F[self.values_N]
        size = (len(ends_V), len(self.items_F))
        return torch.sparse_coo_tensor(torch.stack([rows_N, self.values_N]), entries_N, size).coalesce()

    def rare_count_more(self) -> Tensor:
        """The matrix with rare values raised and rows of length 1, sparse float32 [V, F]; zeros for an item without values.

        A value's factor is its inverse document frequency: the logarithm of V over the number of items that have it.
        """
        raised = self.matrix(torch.log(len(self.offsets_V) / self.items_F) + 1e-3)
        rows_N, values_N = raised.indices()
        squares_V = torch.zeros(len(self.offsets_V), device=rows_N.device).index_add_(0, rows_N, raised.values() ** 2)
        entries_N = raised.values() / squares_V.sqrt()[rows_N]
        return torch.sparse_coo_tensor(torch.stack([rows_N, values_N]), entries_N, raised.shape, is_coalesced=True)
