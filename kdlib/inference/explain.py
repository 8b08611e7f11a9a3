"""Reasons of a recommendation: the items of the user's history that raise its score, by exact leave-one-out.

The window is the part of a history that the model reads: its last `max_length` items. The contribution of a history item
to a recommended item is the score with the full window, minus the score without the history item. Leaving an item out
removes all its occurrences from the window, as if these interactions had never happened. Time gaps and session ends are
then computed between the remaining interactions. Older items do not move into the window, because this would be a second
change. The interaction before the window only provides the time gap to the first item of the window.

Contributions are rounded to multiples of `LEAST`, because the last bits of a score depend on the other users of the batch.
A contribution that rounds to 0 is no reason. Of equal contributions, the item with the later last occurrence comes first.

One forward pass per distinct item of the window gives its contributions to all recommended items. So the cost grows with
the length of the history and hardly with the length of the list.

Shapes: B users, U users of a chunk, N positions of all histories, P window positions of a chunk. G histories without one
item each, L longest window of a chunk, W width of the hidden state. K list length, M reasons, V items of the model.
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
from kdlib.inference.coded_items import CodedItems
from kdlib.models.encode import last_hidden
from kdlib.models.sequence import SequenceModel

LEAST = 1e-4
"""Smallest step of a contribution, in logits: a hundred times the float32 rounding error of a score."""
CHUNK_POSITIONS = 1 << 18
"""Positions of the shortened histories that are encoded together (about 16 MB)."""


@torch.inference_mode()
def because_of(
    model: SequenceModel,
    items_N: NDArray,
    marks: Marks,
    lengths: NDArray,
    hidden_BW: Tensor,
    weight_VW: Tensor | CodedItems,
    lists_BK: NDArray,
    *,
    because: int,
) -> NDArray:
    """The history items that raise each recommended item's score most, best first: int64 [users, K, M].

    A row is filled up with −1 where fewer than M items raise the score. If a window holds only one distinct item, this
    item is the reason for all recommended items, because an empty window has no score.

    Args:
      model: in evaluation mode, on the CPU.
      items_N: items of all histories, one history after the other, int64 [positions].
      marks: of the same positions.
      lengths: length of each history, at least 1, int64 [users].
      hidden_BW: `last_hidden` of the full histories.
      weight_VW: the model's scoring matrix.
      lists_BK: recommended items, int64 [users, K]. The reasons of places that hold −1 mean nothing.
      because: M, most reasons for a recommended item.
    """
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
        # without the bias, which cancels in a difference of scores
        steps_UKL = (weight_UKW @ changes_ULW.transpose(1, 2) / LEAST).round().long()
        steps_UKL[owners[~several], :, slots[~several]] = 1
        chosen_UKM, slots_UKM = _best(steps_UKL, min(because, steps_UKL.shape[2]))
        reasons = items_N[begins[:, None, None] + np.where(chosen_UKM, slots_UKM, 0)]
        named_BKM[users, :, : reasons.shape[2]] = np.where(chosen_UKM, reasons, -1)
    return named_BKM


def _chunks(windows: NDArray) -> Iterator[NDArray]:
    """Chunks of users with windows of similar length; a chunk has about `CHUNK_POSITIONS` shortened positions."""
    order = np.argsort(windows, kind="stable")
    number = np.cumsum(windows[order] ** 2) // CHUNK_POSITIONS
    yield from np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else []


def _last_occurrences(items_N: NDArray, begins: NDArray, windows: NDArray) -> tuple[NDArray, NDArray]:
    """The last occurrence of each distinct item of each window, sorted by user and slot.

    Returns:
      Slots (places in the window) and users (rows of `begins`).
    """
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
    """The hidden state after a user's window without the item at a slot: float [G, W].

    Args:
      model, items_N, marks: as in `because_of`.
      starts: position where each user's history begins, [users].
      begins: position where each user's window begins, [users].
      windows: length of each user's window, [users].
      owners: user of each shortened history, a row of `starts`, `begins` and `windows`, [G].
      slots: place in the window of the item to leave out, [G].
    """
    lead = (begins > starts).astype(np.int64)  # the model does not read it; its time starts the first gap
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
    """The `num` largest steps of each row, equal steps by the later slot.

    Returns:
      Whether each step is above 0, and its slot; both [users, K, num].
    """
    length = steps_UKL.shape[2]
    keys = (steps_UKL * length + torch.arange(length)).topk(num, dim=2).values
    return (keys >= length).numpy(), (keys % length).numpy()


def check_reasons(folder: Path, histories: Path, *, because: int, item_ids: pa.Array) -> None:
    """Check the reasons of a written table against the histories. Holds one batch of each table at a time.

    Args:
      folder: the RECOMMENDATIONS files, with rows in the order of the histories.
      histories: the HISTORIES files of the same users.
      because: most reasons for a recommended item.
      item_ids: string [items], in index order.

    Raises:
      ContractError: the table breaks one of these rules.
        - The users are in the order of the histories.
        - All lists of source model have reasons, and no other list has any.
        - Each recommended item has one list of at most `because` different reasons.
        - A reason is an item of the user's history.
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
    """The first fault in the reasons of these rows; None if they are right."""
    reasons = batch["because_item_ids"]
    if not histories["user_id"].combine_chunks().equals(batch["user_id"]):
        return "has its users in another order than the histories"
    from_model = pc.call_function("equal", [batch["source"], pa.scalar("model")])
    if not reasons.is_valid().equals(from_model):
        return "must have reasons for all lists of source model and for no other list"
    rows = np.flatnonzero(from_model.to_numpy(zero_copy_only=False))
    reasons, lists = reasons.filter(from_model), batch["item_ids"].filter(from_model)
    if not reasons.value_lengths().equals(lists.value_lengths()):
        return "must have one list of reasons for each recommended item"
    inner = reasons.flatten()
    lengths = inner.value_lengths().to_numpy()
    if lengths.max(initial=0) > because:
        return f"has more than {because} reasons for an item, the limit of recommend.because"
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
