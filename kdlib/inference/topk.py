"""The exact k best items of each row, over blocks of the catalogue.

Shapes: B rows, W width of the hidden state, V items, K list length, N seen items of all rows together.

Two facts make it fast. An item among a row's k best lies in one of the k groups of `GROUP` neighbouring items whose
best item is best, so a cheap maximum over each group leaves only k · GROUP candidates to sort. And a score and an item
index packed into one integer sort in the promised order, equal scores by the smaller index, with no tie left to chance.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.errors import ModelError

GROUP = 32
"""Neighbouring items whose maximum is taken first; near √(V / k) for a catalogue of ten thousand items."""
CPU_CELLS = 1 << 21
"""Scores held at a time on a CPU (8 MB): a score is read back from the cache, not from memory."""
_LOW = 0xFFFFFFFF


@torch.no_grad()
def exact_topk(
    hidden_BW: Tensor,
    weight_VW: Tensor,
    bias_V: Tensor | None = None,
    *,
    k: int,
    item_block: int = 65_536,
    excluded: tuple[Tensor, Tensor] | None = None,
    allowed_V: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k items of the highest score `hidden · weight + bias`, best first; equal scores by the smaller item index.

    Scores are computed in the inputs' type and compared as float32. Cost: one pass over the scores, no sort of them.

    Args:
      hidden_BW: [rows, width], floating point, on any device.
      weight_VW: [items, width], same type and device.
      bias_V: [items].
      k: length of the lists.
      item_block: most items scored at a time (rounded up to a multiple of `GROUP`).
      excluded: the seen items as `(values int64 [N], offsets int64 [rows + 1])`: row b must not get
        `values[offsets[b]:offsets[b + 1]]`. Repeats, and values that are no item of `weight_VW`, do no harm.
      allowed_V: bool [items]; False: in no row's list.

    Returns:
      Scores float32 [rows, k] and item indices int64 [rows, k]. A row with fewer than k items left ends in
      score −inf, index −1.

    Raises:
      ValueError: k or item_block is not positive, or the shapes do not fit together.
      ModelError: a score is NaN or +inf; names the first such row.
    """
    num_rows, num_items = hidden_BW.shape[0], weight_VW.shape[0]
    _check_shapes(hidden_BW, weight_VW, bias_V, k, item_block, excluded, allowed_V)
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
    """Each row's k best of scores that are there already, best first; result, ties and errors as of `exact_topk`.

    Args:
      scores_BV: float [rows, items], compared as float32; −inf for what is not to be found.
      k: ≥ 1.
    """
    padded = functional.pad(scores_BV.float(), (0, -scores_BV.shape[1] % GROUP), value=-torch.inf)
    keys = _best_keys(padded, k, start=0, first_row=0)
    keys = functional.pad(keys, (0, max(k - keys.shape[1], 0)), value=_key_of_nothing())
    return _unpack(keys.topk(k, dim=1).values)


def _check_shapes(
    hidden_BW: Tensor,
    weight_VW: Tensor,
    bias_V: Tensor | None,
    k: int,
    item_block: int,
    excluded: tuple[Tensor, Tensor] | None,
    allowed_V: Tensor | None,
) -> None:
    if k < 1 or item_block < 1:
        raise ValueError(f"k and item_block must be positive, found k={k}, item_block={item_block}")
    if hidden_BW.ndim != 2 or weight_VW.ndim != 2 or hidden_BW.shape[1] != weight_VW.shape[1]:
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
    """Blocks `(first item, weight, bias)` of whole groups; the bias is −inf for what is not allowed or not there."""
    num_items = weight_VW.shape[0]
    item_block = -(-item_block // GROUP) * GROUP if item_block < num_items else num_items
    bias = weight_VW.new_zeros(num_items) if bias_V is None else bias_V
    if allowed_V is not None:
        bias = bias.masked_fill(~allowed_V, -torch.inf)
    for start in range(0, num_items, item_block or 1):
        weight_block, bias_block = weight_VW[start : start + item_block], bias[start : start + item_block]
        if missing := -len(weight_block) % GROUP:
            weight_block = functional.pad(weight_block, (0, 0, 0, missing))
            bias_block = functional.pad(bias_block, (0, missing), value=-torch.inf)
        yield start, weight_block, bias_block


def _seen_between(excluded: tuple[Tensor, Tensor], first: int, last: int) -> tuple[Tensor, Tensor]:
    """Row (counted from `first`) and item of each excluded pair of these rows."""
    values, offsets = excluded
    offsets = offsets[first : last + 1]
    rows = torch.arange(last - first, device=values.device)
    return torch.repeat_interleave(rows, offsets.diff()), values[int(offsets[0]) : int(offsets[-1])]


def _blot_out(scores: Tensor, rows: Tensor, items: Tensor, *, start: int) -> None:
    width = scores.shape[1]
    inside = (items >= start) & (items < start + width)
    scores.view(-1).index_fill_(0, (rows * width + (items - start))[inside], -torch.inf)


def _best_keys(scores: Tensor, k: int, *, start: int, first_row: int) -> Tensor:
    """Keys of the items that may be among each row's k best: int64 [rows, min(k, groups) · GROUP]."""
    num_rows = scores.shape[0]
    groups = scores.view(num_rows, -1, GROUP)
    num_groups = groups.shape[1]
    best = groups.amax(dim=2)  # a NaN wins every maximum, so this sees each of them
    if bool((broken := ~(best < torch.inf)).any()):
        row = first_row + int(broken.any(dim=1).nonzero()[0, 0])
        raise ModelError(
            f"a score is NaN or infinite in row {row} of the batch: the model's weights or hidden states are broken. "
            f"Train the model anew, with a smaller learning rate if it happens again"
        )
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
    """One int64 a score and index, ordered by higher score, then smaller index."""
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: minus zero is zero
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW - index)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    index = _LOW - (keys & _LOW)
    return scores, index.masked_fill(scores == -torch.inf, -1)


def _key_of_nothing() -> int:
    return int(_pack(torch.tensor(-torch.inf), torch.tensor(_LOW)))
