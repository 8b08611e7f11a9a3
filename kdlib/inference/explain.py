"""Why an item is recommended: the items of the user's history without which the model would score it lower.

Exact leave-one-out. What the model has read of a user is its window, the last `max_length` items. The contribution of a
history item to a recommended one is the score as it is, less the score that the window gives without it: every occurrence
of the item in the window is taken out, as an interaction that never was, so that neighbours and the time gaps and session
ends between them are those of what remains. Nothing older moves up in its place, which would mix a second change in; what
stands before the window only keeps the time gap to it.

A contribution below half of `LEAST` is none, and those that round to the same multiple of it are equal: the last bits of a
score depend on which users are scored together, and must not choose. Of equals the one met last is named first.

One forward pass a distinct item of the window gives the contributions to all recommended items together: the cost grows
with the history, hardly with the list.

Shapes: B users, U users of a chunk, P window positions of all users of it, G histories each less one item, L longest window
of a chunk, W width of the hidden state, K list length, M named items, V items of the model.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.windows import Marks, context_from, ragged, take_slices
from kdlib.errors import ContractError
from kdlib.models.encode import last_hidden
from kdlib.models.sequence import SequenceModel

LEAST = 1e-4
"""Logits that make a difference: a hundred times what rounding in float32 makes of a score."""
CHUNK_POSITIONS = 1 << 18
"""Positions of all shortened histories that are encoded together (about 16 MB)."""


@torch.inference_mode()
def because_of(
    model: SequenceModel,
    items_N: NDArray,
    marks: Marks,
    lengths: NDArray,
    hidden_BW: Tensor,
    lists_BK: NDArray,
    *,
    because: int,
) -> NDArray:
    """The history items that raise each recommended item's score most, best first: int64 [users, K, because].

    A row ends in −1 where fewer items raise the score. Where a window holds one item only, that item is the reason for
    all: without it the model would have nothing to go by.

    Args:
      model: in evaluation mode, on the CPU.
      items_N: int64, the items of all histories, one after the other.
      marks: of the same positions.
      lengths: int64 [users], all at least 1.
      hidden_BW: `last_hidden` of the histories as they are.
      lists_BK: int64, the recommended items; what is said of the places that hold −1 means nothing.
      because: M, most items to name.
    """
    weight_VW = model.head()[0]
    starts = np.cumsum(lengths) - lengths
    named_BKM = np.full((*lists_BK.shape, because), -1, dtype=np.int64)
    for users in _chunks(np.minimum(lengths, model.max_length)):
        windows = np.minimum(lengths[users], model.max_length)
        begins = (starts + lengths)[users] - windows
        slots, owners = _last_occurrences(items_N, begins, windows)
        several = (np.bincount(owners) > 1)[owners]
        changes_ULW = torch.zeros(len(users), int(windows.max()), hidden_BW.shape[1])
        if several.any():
            owner, slot = owners[several], slots[several]
            without_GW = _hidden_without(model, items_N, marks, starts[users], begins, windows, owner, slot)
            changes_ULW[owner, slot] = hidden_BW[users[owner]] - without_GW
        weight_UKW = weight_VW[torch.from_numpy(lists_BK[users].clip(0))]
        steps_UKL = (weight_UKW @ changes_ULW.transpose(1, 2) / LEAST).round().long()  # a bias would cancel
        steps_UKL[owners[~several], :, slots[~several]] = 1
        chosen_UKM, slots_UKM = _best(steps_UKL, min(because, steps_UKL.shape[2]))
        reasons = items_N[begins[:, None, None] + np.where(chosen_UKM, slots_UKM, 0)]
        named_BKM[users, :, : reasons.shape[2]] = np.where(chosen_UKM, reasons, -1)
    return named_BKM


def _chunks(windows: NDArray) -> Iterator[NDArray]:
    """Users of windows of about the same length, so many that their shortened histories fit a chunk."""
    order = np.argsort(windows, kind="stable")
    number = np.cumsum(windows[order] ** 2) // CHUNK_POSITIONS
    yield from np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else []


def _last_occurrences(items_N: NDArray, begins: NDArray, windows: NDArray) -> tuple[NDArray, NDArray]:
    """Slot in the window of each distinct item's last occurrence, and the user (row of `begins`); by user, then slot."""
    owners_P = np.repeat(np.arange(len(windows)), windows)
    slots_P = take_slices(np.zeros_like(windows), windows)
    items_P = items_N[take_slices(begins, windows)]
    order = np.lexsort((slots_P, items_P, owners_P))
    same = (np.diff(items_P[order]) == 0) & (np.diff(owners_P[order]) == 0)
    last = np.sort(order[~np.append(same, False)])
    return slots_P[last], owners_P[last]


def _hidden_without(
    model: SequenceModel,
    items_N: NDArray,
    marks: Marks,
    starts: NDArray,
    begins: NDArray,
    windows: NDArray,
    owners: NDArray,
    slots: NDArray,
) -> Tensor:
    """The hidden state after each owner's window less the item at a slot: float [G, W].

    Args:
      model, items_N, marks: as in `because_of`.
      starts: where each user's history begins.
      begins: where its window does.
      windows: the window's length.
      owners: [G], the user, a row of `starts`, `begins` and `windows`.
      slots: [G], a place of the item in the window.
    """
    lead = (begins > starts).astype(np.int64)  # the interaction before the window is not read, but a gap starts at it
    lengths = (windows + lead)[owners]
    places = take_slices((begins - lead)[owners], lengths)
    rows = np.repeat(np.arange(len(owners)), lengths)
    left_out = items_N[begins[owners] + slots]
    unread = places < begins[owners][rows]
    stays = unread | (items_N[places] != left_out[rows])
    places, rows, read = places[stays], rows[stays], ~unread[stays]
    context = context_from(marks.take(places, rows))
    counts = np.bincount(rows[read], minlength=len(owners))
    return last_hidden(model, items_N[places[read]], context[read], counts, device=torch.device("cpu"))


def _best(steps_UKL: Tensor, num: int) -> tuple[NDArray, NDArray]:
    """The slots of the `num` largest steps, of equal ones the later, and whether each is above 0: [U, K, num] both."""
    length = steps_UKL.shape[2]
    keys = (steps_UKL * length + torch.arange(length)).topk(num, dim=2).values
    return (keys >= length).numpy(), (keys % length).numpy()


def check_reasons(folder: Path, histories: Path, *, because: int, item_ids: pa.Array) -> None:
    """Check the reasons of a written table against the histories, a batch of both at a time.

    Args:
      folder: the RECOMMENDATIONS files, whose rows stand in the order of the histories'.
      histories: the HISTORIES files they were made from, of the same users.
      because: most reasons for an item.
      item_ids: string [items], in index order.

    Raises:
      ContractError: the rows are in another order, a list from the model lacks its reasons or another list has some,
        there is not one list of reasons for each recommended item, or a list of reasons is too long, names an item
        twice, or names one outside the user's history.
    """
    source = (
        batch
        for file in sorted(histories.glob("*.parquet"))
        for batch in pq.ParquetFile(file).iter_batches(columns=["user_id", "item_indices"])
    )
    waiting = pa.table({"user_id": pa.array([], pa.string()), "item_indices": pa.array([], pa.list_(pa.int32()))})
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=["user_id", "item_ids", "source", "because_item_ids"]):
            while len(waiting) < len(batch):
                waiting = pa.concat_tables([waiting, pa.Table.from_batches([next(source)]).cast(waiting.schema)])
            fault = _fault(batch, waiting.slice(0, len(batch)), because, item_ids)
            if fault:
                raise ContractError(f"table recommendations: {file} {fault}")
            waiting = waiting.slice(len(batch))


def _fault(batch: pa.RecordBatch, histories: pa.Table, because: int, item_ids: pa.Array) -> str | None:
    """What is wrong with the reasons of these rows."""
    reasons = batch["because_item_ids"]
    if not histories["user_id"].combine_chunks().equals(batch["user_id"]):
        return "has its users in another order than the histories"
    from_model = pc.call_function("equal", [batch["source"], pa.scalar("model")])
    if not reasons.is_valid().equals(from_model):
        return "must have reasons for the lists of source model, and only for those"
    rows = np.flatnonzero(from_model.to_numpy(zero_copy_only=False))
    reasons, lists = reasons.filter(from_model), batch["item_ids"].filter(from_model)
    if not reasons.value_lengths().equals(lists.value_lengths()):
        return "has not a list of reasons for each item"
    inner = reasons.flatten()
    lengths = inner.value_lengths().to_numpy()
    if lengths.max(initial=0) > because:
        return f"has over {because} reasons for an item"
    names = inner.flatten()
    found = pc.call_function("index_in", [names], pc.SetLookupOptions(item_ids))
    named = found.fill_null(-1).to_numpy().astype(np.int64)
    item = np.repeat(np.arange(len(lengths)), lengths)
    if len(np.unique(item * len(item_ids) + named)) < len(named):
        return "names the same reason twice for an item"
    seen, offsets = ragged(histories["item_indices"])
    owner = np.repeat(np.arange(len(histories)), np.diff(offsets))
    namer = np.repeat(rows, lists.value_lengths().to_numpy())[item]
    strange = (named < 0) | ~np.isin(namer * len(item_ids) + named, owner * len(item_ids) + seen)
    if strange.any():
        place = int(np.flatnonzero(strange)[0])
        user = batch["user_id"][int(namer[place])]
        return f"names {names[place]} as a reason, which is not in the history of user {user}"
    return None
