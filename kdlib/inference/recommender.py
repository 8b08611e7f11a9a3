"""From histories to recommendations: a Ray Data actor on Arrow tables, and the checks of the written table.

Shapes: B users of a batch, N positions of all histories of the batch, W width of the hidden state, V items of the
model, K list length, M reasons.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.windows import context_from, marks_of
from kdlib.errors import ContractError, ModelError
from kdlib.inference.explain import because_of, check_reasons
from kdlib.inference.topk import exact_topk
from kdlib.models.encode import last_hidden
from kdlib.models.files import load_model
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store.tables import RECOMMENDATIONS, TIME


class Recommender:
    """Each user's k best items that are available and not in the user's history.

    All arguments are plain values, so Ray can start the actor on any machine that sees the files. A user whose history
    holds no item that the model knows gets the items with the most training interactions. Their score is their share of
    all training interactions.

    Args:
      model_folder: a published student.
      vocabulary_folder: ITEM_VOCABULARY of the histories. It may have grown since the model was trained: the model skips
        newer items in its input and never recommends them.
      statistics_folder: ITEM_STATISTICS.
      k: length of the lists; a list is shorter if fewer items are left. The attribute `k` may be changed later.
      because: most history items to name as reasons for a recommended item; 0: no reasons.
      item_block: most items scored at a time.
      generated_at: end of the data's last day, with time zone.
      threads: CPU threads.

    Raises:
      ModelError: the model is damaged or was trained on another vocabulary.
      ContractError: the item indices are not 0, 1, 2, …
    """

    def __init__(
        self,
        model_folder: str,
        vocabulary_folder: str,
        statistics_folder: str,
        *,
        k: int,
        because: int,
        item_block: int,
        generated_at: datetime,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self.model, facts = load_model(Path(model_folder))
        with torch.no_grad():
            self.head = self.model.head()  # with item codes, building it is slow: build it once
        self.item_ids, available = read_vocabulary(vocabulary_folder)
        check_vocabulary(facts, self.item_ids)
        num_items = facts["num_items"]
        self.allowed_V = torch.from_numpy(available[:num_items])
        self._popularity_rank_V1, self._popularity_share_V = _popularity(statistics_folder, num_items)
        self.k, self._item_block, self._generated_at = k, item_block, pa.scalar(generated_at, TIME)
        self._because = because
        self._num_items, self._version = num_items, facts["version"]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row of RECOMMENDATIONS for each row of HISTORIES. The columns of the split are not read."""
        histories = batch["item_indices"].combine_chunks()
        lengths = histories.value_lengths().to_numpy().astype(np.int64)
        items = histories.flatten().to_numpy().astype(np.int64)
        users = np.repeat(np.arange(len(lengths)), lengths)
        known = items < self._num_items
        known_lengths = np.bincount(users[known], minlength=len(lengths))
        readable = known_lengths > 0
        with_model = torch.from_numpy(readable)
        scores_BK = torch.empty(len(lengths), self.k)
        indices_BK = torch.empty(len(lengths), self.k, dtype=torch.int64)
        reasons_BKM = np.full((len(lengths), self.k, self._because), -1)
        if with_model.any():
            marks, read = marks_of(batch, keep_N=known), known_lengths[readable]
            hidden_BW = last_hidden(self.model, items[known], context_from(marks), read, device=torch.device("cpu"))
            found = self._topk(hidden_BW, *self.head, _seen_by(readable, items, lengths))
            scores_BK[with_model], indices_BK[with_model] = found
            if self._because:
                reasons_BKM[readable] = because_of(
                    self.model, items[known], marks, read, hidden_BW, found[1].numpy(), because=self._because
                )
        if not with_model.all():
            seen = _seen_by(~readable, items, lengths)
            ones = torch.ones(int((~readable).sum()), 1)
            ranks, found = self._topk(ones, self._popularity_rank_V1, None, seen)
            shares = self._popularity_share_V[found.clamp(min=0)]
            scores_BK[~with_model], indices_BK[~with_model] = torch.where(found < 0, ranks, shares), found
        self._check_unseen(batch, indices_BK.numpy(), users, items)
        return self._as_table(batch["user_id"], scores_BK.numpy(), indices_BK.numpy(), readable, reasons_BKM)

    def _topk(
        self, hidden_BW: Tensor, weight_VW: Tensor, bias_V: Tensor | None, seen: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        limits = {"k": self.k, "item_block": self._item_block, "allowed_V": self.allowed_V}
        return exact_topk(hidden_BW, weight_VW, bias_V, excluded=seen, **limits)

    def _check_unseen(self, batch: pa.Table, indices_BK: NDArray, users: NDArray, items: NDArray) -> None:
        """Check that no list holds an item of the user's history: users notice this mistake first."""
        rows, places = np.nonzero(indices_BK >= 0)
        num_items = len(self.item_ids)
        again = np.isin(rows * num_items + indices_BK[rows, places], users * num_items + items)
        if again.any():
            user = batch["user_id"][int(rows[again][0])]
            raise ContractError(f"user {user} would be recommended an item of its own history")

    def _as_table(
        self,
        user_ids: pa.ChunkedArray,
        scores_BK: NDArray,
        indices_BK: NDArray,
        readable: NDArray,
        reasons_BKM: NDArray,
    ) -> pa.Table:
        real = indices_BK >= 0
        offsets = _offsets(real.sum(axis=1))
        item_ids = self.item_ids.take(pa.array(indices_BK[real]))
        columns = {
            "user_id": user_ids,
            "item_ids": pa.ListArray.from_arrays(offsets, item_ids),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores_BK[real])),
            "source": pa.array(["popular", "model"]).take(pa.array(readable.astype(np.int8))),
            "model_version": pa.repeat(self._version, len(real)),
            "generated_at": pa.repeat(self._generated_at, len(real)),
            "because_item_ids": self._because_column(reasons_BKM, real, readable),
        }
        return pa.table(columns).cast(RECOMMENDATIONS.schema)

    def _because_column(self, reasons_BKM: NDArray, real_BK: NDArray, readable: NDArray) -> pa.Array:
        """One list of reasons for each real item of a list of source model; null for the other users."""
        type_ = RECOMMENDATIONS.schema.field("because_item_ids").type
        if not self._because:
            return pa.nulls(len(readable), type_)
        told = real_BK & readable[:, None]
        reasons = reasons_BKM[told]
        ids = self.item_ids.take(pa.array(reasons[reasons >= 0]))
        inner = pa.ListArray.from_arrays(_offsets((reasons >= 0).sum(axis=1)), ids)
        return pa.ListArray.from_arrays(_offsets(told.sum(axis=1)), inner, mask=pa.array(~readable))


def read_vocabulary(folder: str | Path) -> tuple[pa.Array, NDArray]:
    """Item ids, string [items], and whether each is available, bool [items], in index order.

    Raises:
      ContractError: the indices are not 0, 1, 2, …
    """
    table = pq.read_table(folder, columns=["item_index", "item_id", "available"])
    table = table.sort_by("item_index")
    if not np.array_equal(table["item_index"].to_numpy(), np.arange(len(table))):
        raise ContractError(
            f"table item_vocabulary at {folder}: item_index must run from 0 to {len(table) - 1} without gap or repeat."
            " Build the features again"
        )
    return pa.concat_arrays(table["item_id"].chunks), table["available"].to_numpy()


def check_vocabulary(facts: dict[str, Any], item_ids: pa.Array) -> None:
    """Check that the vocabulary begins with the ids that the model was trained on.

    Args:
      facts: the model's metadata from `load_model`: `version`, `num_items`, `vocabulary_hash`, `vocabulary_version`.
      item_ids: string [items] in index order.

    Raises:
      ModelError: the vocabulary has fewer items than the model, or other ids.
    """
    num_items = facts["num_items"]
    trained_on = f"the model {facts['version']} was trained on vocabulary {facts.get('vocabulary_version', 'unknown')}"
    if num_items > len(item_ids):
        raise ModelError(
            f"{trained_on} of {num_items} items, but this vocabulary has only {len(item_ids)}. Train the model again on this one"
        )
    if vocabulary_hash(item_ids[:num_items].to_pylist()) != facts.get("vocabulary_hash"):
        raise ModelError(
            f"{trained_on}, whose {num_items} items are not the first {num_items} items of this vocabulary. "
            f"Train the model again on this vocabulary, or build the features on top of the earlier vocabulary"
        )


def check_recommendations(
    folder: Path, histories: Path, *, k: int, because: int, unavailable: frozenset[str], item_ids: pa.Array
) -> dict[str, int]:
    """Check a written table row by row. Returns the number of users by source (`model`, `popular`).

    Holds one batch of each table at a time.

    Args:
      folder: the RECOMMENDATIONS files, with rows in the order of the histories.
      histories: the HISTORIES files of the same users.
      k: longest list.
      because: most reasons for a recommended item; 0: the table has no reasons.
      unavailable: item ids that must not be recommended.
      item_ids: string [items], in index order.

    Raises:
      ContractError: a user is missing, extra, repeated or out of order. Or a list is too long, repeats an item, holds an
        unavailable item or has a score that is not finite. Or `check_reasons` finds a fault.
    """
    _check_users(folder, histories)
    num_users = {"model": 0, "popular": 0}
    columns = ["item_ids", "scores", "source", "because_item_ids"]
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=columns):
            _check_lists(batch, k, unavailable, file)
            if not because and batch["because_item_ids"].null_count < len(batch):
                raise ContractError(f"table recommendations: {file} has reasons, but recommend.because is 0")
            for count in batch["source"].value_counts().to_pylist():
                num_users[count["values"]] += count["counts"]
    if because:
        check_reasons(folder, histories, because=because, item_ids=item_ids)
    return num_users


def _check_users(folder: Path, histories: Path) -> None:
    """Compare the users row by row. Histories are sorted by user, so a repeated user stands in neighbouring rows."""
    before = None
    for row, (found, expected) in enumerate(zip_longest(_user_ids(folder), _user_ids(histories))):
        if found != expected or found == before:
            raise ContractError(
                "table recommendations must have each user of the histories exactly once, in their order. In row"
                f" {row}, after {_named(before)}, it has {_named(found)} and the histories have {_named(expected)}"
            )
        before = found


def _named(user: str | None) -> str:
    """The form in which `distilrec forget` finds a user id in a log line."""
    return "no user" if user is None else f"user {user}"


def _user_ids(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=["user_id"]):
            yield from batch["user_id"].to_pylist()


def _check_lists(batch: pa.RecordBatch, k: int, unavailable: frozenset[str], file: Path) -> None:
    lengths = batch["item_ids"].value_lengths().to_numpy()
    if lengths.max(initial=0) > k or not np.array_equal(lengths, batch["scores"].value_lengths().to_numpy()):
        raise ContractError(
            f"table recommendations: {file} has a list of more than {k} items, or a list without one score per item"
        )
    codes = batch["item_ids"].flatten().dictionary_encode()
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if len(np.unique(rows * len(codes.dictionary) + codes.indices.to_numpy())) < len(rows):
        raise ContractError(f"table recommendations: {file} has a list with the same item twice")
    if not np.isfinite(batch["scores"].flatten().to_numpy()).all():
        raise ContractError(f"table recommendations: {file} has a score that is not a finite number")
    if wrong := unavailable.intersection(codes.dictionary.to_pylist()):
        raise ContractError(f"table recommendations: {file} recommends {min(wrong)}, which is not available")


def _popularity(folder: str | Path, num_items: int) -> tuple[Tensor, Tensor]:
    """Each item's negative popularity rank, float32 [V, 1], and its share of the training interactions, float32 [V].

    Items are ranked by training interactions, then by all interactions, then by index.
    """
    table = pq.read_table(folder, columns=["item_index", "num_train", "num_interactions"])
    index = table["item_index"].to_numpy()
    counts = np.zeros((2, max(num_items, index.max(initial=-1) + 1)), dtype=np.int64)
    counts[0, index], counts[1, index] = table["num_train"].to_numpy(), table["num_interactions"].to_numpy()
    num_train, num_interactions = counts[:, :num_items]
    rank = np.empty(num_items, dtype=np.float32)
    rank[np.lexsort((-num_interactions, -num_train))] = -np.arange(num_items)
    share = num_train / max(1, counts[0].sum())
    return torch.from_numpy(rank)[:, None], torch.from_numpy(share.astype(np.float32))


def _seen_by(users: NDArray, items_N: NDArray, lengths: NDArray) -> tuple[Tensor, Tensor]:
    """The items of the chosen users (bool [B]) as values and offsets, the form that `exact_topk` takes."""
    offsets = np.concatenate([[0], np.cumsum(lengths[users])])
    return torch.from_numpy(items_N[np.repeat(users, lengths)]), torch.from_numpy(offsets)


def _offsets(lengths: NDArray) -> pa.Array:
    """Offsets of lists of these lengths in their flat values: int32 [lists + 1]."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
