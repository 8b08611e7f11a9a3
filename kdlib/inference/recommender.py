"""From histories to recommendations: a Ray Data actor on Arrow tables.

Shapes: B users of a batch, N positions of all histories of the batch, W width of the hidden state, V items of the
model, K list length, M reasons.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.config.experiment import ExperimentConfig
from kdlib.config.policy import PolicyConfig
from kdlib.data.histories import Histories
from kdlib.data.windows import Marks, context_from
from kdlib.errors import ContractError, ModelError
from kdlib.experiments.variants import assigned
from kdlib.inference.coded_items import CodedItems, head_of
from kdlib.inference.constrained import Lists, lists_under_rules
from kdlib.inference.explain import because_of
from kdlib.inference.list_rules import ListRules, Segments, rules_of_policy
from kdlib.models.encode import last_hidden
from kdlib.models.files import load_model
from kdlib.models.vocabulary_hash import vocabulary_hash
from kdlib.store.contract import TIME
from kdlib.store.days import MICROSECONDS_A_DAY
from kdlib.store.list_tables import RECOMMENDATIONS

SOURCES = ("popular", "model", "pinned")
"""Where an item of a list may come from."""


class UserLists(NamedTuple):
    """The lists of some users, best item first. A shorter list is filled up with items −1."""

    scores_BK: NDArray
    """float32."""
    items_BK: NDArray
    """int64."""
    pinned_BK: NDArray
    """bool."""
    from_model_B: NDArray
    """bool. The other lists are of popular items."""
    reasons_BKM: NDArray
    """int64, items of the user's history, filled up with −1."""

    def sources_BK(self) -> NDArray:
        """Where each item comes from, as a place in `SOURCES`: int64 [B, K]."""
        return np.where(self.pinned_BK, 2, self.from_model_B[:, None])


class Recommender:
    """Each user's k best items that are available, and that the rules allow. Without rules: that the user never touched.

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
      generated_at: end of the data's last day, with time zone. The lists are shown on the day that begins then.
      threads: CPU threads.
      policy: the rules for the lists. None: no rules.
      experiment: the A/B test whose variants the rows name. It changes no list. None: the column is null.
      item_features_folder: ITEM_FEATURES. None where no rule reads a feature.
      user_features_folder: USER_FEATURES. None where the policy has no segments.

    Raises:
      ModelError: the model is damaged or was trained on another vocabulary.
      ContractError: the item indices are not 0, 1, 2, …
      ConfigError: as `rules_of_policy`.
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
        policy: PolicyConfig | None = None,
        experiment: ExperimentConfig | None = None,
        item_features_folder: str | None = None,
        user_features_folder: str | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.model, facts = load_model(Path(model_folder))
        self.head = head_of(self.model)
        self.item_ids, _ = read_vocabulary(vocabulary_folder)
        check_vocabulary(facts, self.item_ids)
        num_items = facts["num_items"]
        self.rules = rules_of_policy(
            policy,
            vocabulary=Path(vocabulary_folder),
            item_features=Path(item_features_folder) if item_features_folder else None,
            num_items=num_items,
            day=generated_at.date(),
            k=k,
        )
        self._all_rules, self._has_policy, self._segments = self.rules, policy is not None, None
        if policy and policy.segments and user_features_folder:
            self._segments = Segments(Path(user_features_folder), policy.segments.feature)
        counts = _counts(statistics_folder, num_items)
        self._popularity_share_V = torch.from_numpy((counts[0] / max(1, counts[0].sum())).astype(np.float32))
        self._popularity_rank_V1 = {
            name: _popularity_rank(*counts, rules.boosts_V) for name, rules in self.rules.items()
        }
        self.k, self._item_block, self._generated_at = k, item_block, pa.scalar(generated_at, TIME)
        self._now = self._generated_at.cast(pa.int64()).as_py()
        self._because, self._experiment = because, experiment
        self._num_items, self.version = num_items, facts["version"]

    def leave_out(self, item_ids: Iterable[str]) -> None:
        """From now on no list holds these items; unknown ids are ignored. A call replaces the items of the call before."""
        found = pc.call_function("is_in", [self.item_ids], pc.SetLookupOptions(pa.array(item_ids, pa.string())))
        out_V = torch.from_numpy(found.to_numpy(zero_copy_only=False)[: self._num_items])
        self.rules = {segment: rules.without(out_V) for segment, rules in self._all_rules.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row of RECOMMENDATIONS for each row of HISTORIES. The columns of the split are not read."""
        user_ids = batch["user_id"]
        segments = self._segments.of(user_ids) if self._segments else [None] * len(batch)
        return self._as_table(user_ids, self.lists(Histories.of(batch), segments))

    @torch.inference_mode()
    def lists(self, histories: Histories, segments: Sequence[str | None]) -> UserLists:
        """The list of each user.

        Args:
          histories: of B users.
          segments: of each user.
        """
        known = np.array([one if one in self.rules else None for one in segments], object)
        found, rows = [], []
        for segment in dict.fromkeys(known.tolist()) or [None]:
            rows.append(np.flatnonzero(known == segment))
            part = histories if len(rows[-1]) == len(histories) else histories.take(rows[-1])
            found.append(self._lists(part, segment))
        if len(found) == 1:
            return found[0]
        order = np.argsort(np.concatenate(rows), kind="stable")
        return UserLists(*(np.concatenate(parts)[order] for parts in zip(*found, strict=True)))

    def variants(self, user_ids: Iterable[str]) -> pa.Array | None:
        """Each user's variant of the A/B test; None without one."""
        if self._experiment is None:
            return None
        return assigned(user_ids, salt=self._experiment.salt, shares=self._experiment.shares)

    def _lists(self, histories: Histories, segment: str | None) -> UserLists:
        """The lists of users of one segment."""
        rules, items, marks, count = self.rules[segment], histories.items_N, histories.marks, len(histories)
        users = marks.owners
        hidden = self._hides(marks, rules)
        known = items < self._num_items
        known_lengths = np.bincount(users[known], minlength=count)
        readable = known_lengths > 0
        scores_BK, indices_BK = np.empty((count, self.k), np.float32), np.empty((count, self.k), np.int64)
        pinned_BK = np.zeros((count, self.k), bool)
        reasons_BKM = np.full((count, self.k, self._because), -1)
        if readable.any():
            marks, read = marks.take(known, users[known]), known_lengths[readable]
            hidden_BW = last_hidden(self.model, items[known], context_from(marks), read, device=torch.device("cpu"))
            found = self._topk(hidden_BW, *self.head, rules, _items_of(readable, items, users, hidden))
            scores_BK[readable], indices_BK[readable], pinned_BK[readable] = found
            if self._because:
                reasons_BKM[readable] = because_of(
                    self.model,
                    items[known],
                    marks,
                    read,
                    hidden_BW,
                    self.head[0],
                    found.items.numpy(),
                    because=self._because,
                )
        if not readable.all():
            seen = _items_of(~readable, items, users, hidden)
            ones = torch.ones(int((~readable).sum()), 1)
            by_rank = replace(rules, boosts_V=None)  # the rank has the boosts already
            ranks, found, pinned_BK[~readable] = self._topk(
                ones, self._popularity_rank_V1[segment], None, by_rank, seen
            )
            shares = self._popularity_share_V[found.clamp(min=0)]
            scores_BK[~readable], indices_BK[~readable] = torch.where(found < 0, ranks, shares), found
        self._check_unseen(histories, indices_BK, hidden)
        return UserLists(scores_BK, indices_BK, pinned_BK, readable, reasons_BKM)

    def _hides(self, marks: Marks, rules: ListRules) -> NDArray:
        """Which interactions keep their item out of the user's list: bool [N]."""
        times = marks.event_times.astype("datetime64[us]").astype(np.int64)
        ages = np.maximum(self._now - times, 0) / MICROSECONDS_A_DAY  # a server knows events of today
        return rules.hides(marks.event_types, ages)

    def _topk(
        self,
        hidden_BW: Tensor,
        weight_VW: Tensor | CodedItems,
        bias_V: Tensor | None,
        rules: ListRules,
        seen: tuple[Tensor, Tensor],
    ) -> Lists:
        limits = {"k": self.k, "item_block": self._item_block, "excluded": seen}
        return lists_under_rules(hidden_BW, weight_VW, bias_V, rules, **limits)

    def _check_unseen(self, histories: Histories, indices_BK: NDArray, hidden: NDArray) -> None:
        """Check that no list holds an item that the user's history keeps out: users notice this mistake first."""
        users, items = histories.marks.owners[hidden], histories.items_N[hidden]
        rows, places = np.nonzero(indices_BK >= 0)
        num_items = len(self.item_ids)
        listed = set((rows * num_items + indices_BK[rows, places]).tolist())
        if again := listed.intersection((users * num_items + items).tolist()):
            user = histories.user_ids[min(again) // num_items]
            raise ContractError(f"user {user} would be recommended an item of its own history")

    def _as_table(self, user_ids: pa.ChunkedArray, lists: UserLists) -> pa.Table:
        real = lists.items_BK >= 0
        offsets = _offsets(real.sum(axis=1))
        item_ids = self.item_ids.take(pa.array(lists.items_BK[real]))
        variants = self.variants(user_ids.to_pylist()) if self._experiment else None
        columns = {
            "user_id": user_ids,
            "item_ids": pa.ListArray.from_arrays(offsets, item_ids),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(lists.scores_BK[real])),
            "source": pa.array(SOURCES).take(pa.array(lists.from_model_B.astype(np.int8))),
            "model_version": pa.repeat(self.version, len(real)),
            "generated_at": pa.repeat(self._generated_at, len(real)),
            "because_item_ids": self._because_column(lists, real),
            "item_sources": self._sources_column(lists, real),
            "variant": pa.nulls(len(real), pa.string()) if variants is None else variants,
        }
        return pa.table(columns).cast(RECOMMENDATIONS.schema)

    def _sources_column(self, lists: UserLists, real_BK: NDArray) -> pa.Array:
        """Where each item comes from; null for all users without a policy."""
        type_ = RECOMMENDATIONS.schema.field("item_sources").type
        if not self._has_policy:
            return pa.nulls(len(real_BK), type_)
        sources = pa.array(SOURCES).take(pa.array(lists.sources_BK()[real_BK]))
        return pa.ListArray.from_arrays(_offsets(real_BK.sum(axis=1)), sources)

    def _because_column(self, lists: UserLists, real_BK: NDArray) -> pa.Array:
        """One list of reasons for each real item of a list of source model; null for the other users."""
        type_ = RECOMMENDATIONS.schema.field("because_item_ids").type
        if not self._because:
            return pa.nulls(len(real_BK), type_)
        told = real_BK & lists.from_model_B[:, None]
        reasons = lists.reasons_BKM[told]
        ids = self.item_ids.take(pa.array(reasons[reasons >= 0]))
        inner = pa.ListArray.from_arrays(_offsets((reasons >= 0).sum(axis=1)), ids)
        return pa.ListArray.from_arrays(_offsets(told.sum(axis=1)), inner, mask=pa.array(~lists.from_model_B))


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


def _counts(folder: str | Path, num_items: int) -> tuple[NDArray, NDArray]:
    """Each item's training interactions and all its interactions, int64 [V]."""
    table = pq.read_table(folder, columns=["item_index", "num_train", "num_interactions"])
    index = table["item_index"].to_numpy()
    counts = np.zeros((2, max(num_items, index.max(initial=-1) + 1)), dtype=np.int64)
    counts[0, index], counts[1, index] = table["num_train"].to_numpy(), table["num_interactions"].to_numpy()
    return counts[0, :num_items], counts[1, :num_items]


def _popularity_rank(num_train: NDArray, num_interactions: NDArray, boosts_V: Tensor | None) -> Tensor:
    """Each item's negative popularity rank, float32 [V, 1].

    Items are ranked by training interactions, times their boost, then by all interactions, then by index.
    """
    boosted = num_train if boosts_V is None else num_train * np.exp(boosts_V.numpy().astype(np.float64))
    rank = np.empty(len(num_train), dtype=np.float32)
    rank[np.lexsort((-num_interactions, -boosted))] = -np.arange(len(num_train))
    return torch.from_numpy(rank)[:, None]


def _items_of(chosen: NDArray, items_N: NDArray, users_N: NDArray, hidden_N: NDArray) -> tuple[Tensor, Tensor]:
    """The hidden items of the chosen users (bool [B]) as values and offsets, the form that `exact_topk` takes."""
    ours = hidden_N & chosen[users_N]
    counts = np.bincount(users_N[ours], minlength=len(chosen))[chosen]
    return torch.from_numpy(items_N[ours]), torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))


def _offsets(lengths: NDArray) -> pa.Array:
    """Offsets of lists of these lengths in their flat values: int32 [lists + 1]."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
