"""The exact k best items of each row, over blocks of the catalogue.

Two ideas make it fast. First, cut the items into groups of `GROUP` neighbours and take the maximum of each group. The k
best items lie in the k groups with the highest maxima, so only k · GROUP candidates are left to sort. Second, pack a score
and an item index into one integer. These integers sort by score, and equal scores by the smaller index.

Shapes: B rows, W width of the hidden state, V items, K list length, N seen items of all rows together.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.inference.coded_items import CodedItems, broken_score

GROUP = 32
"""Neighbouring items in a group; near √(V / k) for a catalogue of ten thousand items."""
CPU_CELLS = 1 << 21
"""Scores held at a time on a CPU (8 MB), so that they stay in its cache."""
_LOW = 0xFFFFFFFF


@torch.no_grad()
def exact_topk(
    hidden_BW: Tensor,
    weight_VW: Tensor | CodedItems,
    bias_V: Tensor | None = None,
    *,
    k: int,
    item_block: int = 65_536,
    excluded: tuple[Tensor, Tensor] | None = None,
    allowed_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k items with the highest score `hidden · weight + bias`, best first; equal scores by the smaller item index.

    Scores are computed in the dtype of the inputs and compared as float32. The cost is one pass over the scores,
    without a full sort.

    Args:
      hidden_BW: [rows, width], floating point, on any device.
      weight_VW: [items, width], same dtype and device. Coded items are float32 on the CPU.
      bias_V: [items].
      k: length of the lists.
      item_block: most items scored at a time, rounded up to a multiple of `GROUP`.
      excluded: the seen items as `(values int64 [N], offsets int64 [rows + 1])`. The list of row b never holds
        `values[offsets[b]:offsets[b + 1]]`. Repeated values and values ≥ V are ignored.
      allowed_V: bool [items]; no list holds an item that is False here.

    Returns:
      Scores float32 [rows, k] and item indices int64 [rows, k]. A row with fewer than k items is filled up with score
      −inf and index −1.

    Raises:
      ValueError: k or item_block is not positive, or the shapes do not fit together.
      ModelError: a score is NaN or +inf; the error names the first row with one.
    """
    num_rows, num_items = hidden_BW.shape[0], weight_VW.shape[0]
    _check_shapes(hidden_BW, weight_VW, bias_V, k, item_block, excluded, allowed_V)
    if isinstance(weight_VW, CodedItems):
        bias_V = torch.zeros(num_items) if bias_V is None else bias_V
        bias_V = bias_V if allowed_V is None else bias_V.masked_fill(~allowed_V, -torch.inf)
        nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(num_rows + 1, dtype=torch.int64)
        return weight_VW.topk(hidden_BW, bias_V, k=k, excluded=excluded or nothing)
    device = hidden_BW.device
    keys_BK = torch.full((num_rows, k), _key_of_nothing(), dtype=torch.int64, device=device)
    blocks = list(_blocks(weight_VW, bias_V, allowed_V, item_block))
    if num_rows and num_items:
        width = blocks[0][1].shape[0]
        rows = max(1, CPU_CELLS // width) if device.type == "cpu" else num_rows
        scratch = torch.empty(min(rows, num_rows) * width, dtype=hidden_BW.dtype, device=device)
        for first in range(0, num_rows, rows):
            last = min(first + rows, num_rows)
            seen = None if excluded is None else _seen_between(excluded, first, last)
            for start, weight, bias in blocks:
                scores = scratch[: (last - first) * weight.shape[0]].view(last - first, -1)
                torch.addmm(bias, hidden_BW[first:last], weight.T, out=scores)
                if seen is not None:
                    _blot_out(scores, *seen, start=start)
                found = torch.cat([keys_BK[first:last], _best_keys(scores, k, start=start, first_row=first)], dim=1)
                keys_BK[first:last] = found.topk(k, dim=1, sorted=False).values
    return _unpack(keys_BK.sort(dim=1, descending=True).values)


def top_of_scores(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row's k best scores and their items, best first. Result, ties and errors are as in `exact_topk`.

    Args:
      scores_BV: float [rows, items], compared as float32; −inf for excluded items.
      k: ≥ 1.
    """
    padded = functional.pad(scores_BV.float(), (0, -scores_BV.shape[1] % GROUP), value=-torch.inf)
    keys = _best_keys(padded, k, start=0, first_row=0)
    keys = functional.pad(keys, (0, max(k - keys.shape[1], 0)), value=_key_of_nothing())
    return _unpack(keys.topk(k, dim=1).values)


def _check_shapes(
    hidden_BW: Tensor,
    weight_VW: Tensor | CodedItems,
    bias_V: Tensor | None,
    k: int,
    item_block: int,
    excluded: tuple[Tensor, Tensor] | None,
    allowed_V: Tensor | None,
) -> None:
    if k < 1 or item_block < 1:
        raise ValueError(f"k and item_block must be positive, found k={k}, item_block={item_block}")
    if hidden_BW.ndim != 2 or len(weight_VW.shape) != 2 or hidden_BW.shape[1] != weight_VW.shape[1]:
        raise ValueError(
            f"expected hidden [rows, width] and weight [items, width], "
            f"found {list(hidden_BW.shape)} and {list(weight_VW.shape)}"
        )
    for name, vector in (("bias", bias_V), ("allowed", allowed_V)):
        if vector is not None and vector.shape != weight_VW.shape[:1]:
            raise ValueError(f"expected {name} [{weight_VW.shape[0]}], found {list(vector.shape)}")
    if excluded is not None and excluded[1].shape != (hidden_BW.shape[0] + 1,):
        raise ValueError(f"expected excluded offsets [{hidden_BW.shape[0] + 1}], found {list(excluded[1].shape)}")


def _blocks(
    weight_VW: Tensor, bias_V: Tensor | None, allowed_V: Tensor | None, item_block: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Blocks `(first item, weight, bias)` of whole groups. The bias is −inf for items not allowed and for padding."""
    num_items = weight_VW.shape[0]
    item_block = -(-item_block // GROUP) * GROUP if item_block < num_items else num_items
    bias = weight_VW.new_zeros(num_items) if bias_V is None else bias_V
    if allowed_V is not None:
        bias = bias.masked_fill(~allowed_V, -torch.inf)
    # only the last few items are padded: a copy of a whole block would cost a server's request a third of its time
    whole = num_items - num_items % GROUP
    for start, end in pairwise(dict.fromkeys([*range(0, whole, item_block or 1), whole, num_items])):
        weight_block, bias_block = weight_VW[start:end], bias[start:end]
        if missing := -len(weight_block) % GROUP:
            weight_block = functional.pad(weight_block, (0, 0, 0, missing))
            bias_block = functional.pad(bias_block, (0, missing), value=-torch.inf)
        yield start, weight_block, bias_block


def _seen_between(excluded: tuple[Tensor, Tensor], first: int, last: int) -> tuple[Tensor, Tensor]:
    """The excluded pairs of rows `first` to `last`: row numbers, counted from `first`, and items."""
    values, offsets = excluded
    offsets = offsets[first : last + 1]
    rows = torch.arange(last - first, device=values.device)
    return torch.repeat_interleave(rows, offsets.diff()), values[int(offsets[0]) : int(offsets[-1])]


def _blot_out(scores: Tensor, rows: Tensor, items: Tensor, *, start: int) -> None:
    """Set the scores of these pairs to −inf, in place. The first column of `scores` is item `start`."""
    width = scores.shape[1]
    inside = (items >= start) & (items < start + width)
    scores.view(-1).index_fill_(0, (rows * width + (items - start))[inside], -torch.inf)


def _best_keys(scores: Tensor, k: int, *, start: int, first_row: int) -> Tensor:
    """Keys of each row's candidates for the k best: int64 [rows, min(k, groups) · GROUP]."""
    num_rows = scores.shape[0]
    groups = scores.view(num_rows, -1, GROUP)
    num_groups = groups.shape[1]
    best = groups.amax(dim=2)  # a maximum over a NaN is NaN, so no NaN is missed
    if bool((broken := ~(best < torch.inf)).any()):
        row = first_row + int(broken.any(dim=1).nonzero()[0, 0])
        raise broken_score(row)
    number = torch.arange(num_groups, device=scores.device)
    if num_groups > k:
        chosen = _pack(best, number).topk(k, dim=1, sorted=False).indices
        base = torch.arange(num_rows, device=scores.device)[:, None] * num_groups
        groups = groups.view(-1, GROUP)[(base + chosen).view(-1)].view(num_rows, k, GROUP)
    else:
        chosen = number.expand(num_rows, -1)
    items = start + chosen[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)
    return _pack(groups, items).view(num_rows, -1)


def _pack(scores: Tensor, index: Tensor) -> Tensor:
    """One int64 key per score and index. A larger key means a higher score, or an equal score and a smaller index."""
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0 turns −0 into 0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW - index)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The scores and indices of keys; index −1 where the score is −inf."""
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    index = _LOW - (keys & _LOW)
    return scores, index.masked_fill(scores == -torch.inf, -1)


@cache
def _key_of_nothing() -> int:
    """Key of an empty place in a list: it sorts behind every item."""
    return int(_pack(torch.tensor(-torch.inf), torch.tensor(_LOW)))
