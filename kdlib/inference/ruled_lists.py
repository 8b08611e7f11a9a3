"""The student's lists for the test users under rules: what each rule costs.

Shapes: B rows, W width of the hidden state, K list length.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from kdlib.config.policy import PolicyConfig
from kdlib.data.windows import EvaluationRows
from kdlib.inference.coded_items import head_of
from kdlib.inference.constrained import lists_under_rules
from kdlib.inference.list_rules import ListRules, Segments, rules_of_policy
from kdlib.models.encode import last_hidden
from kdlib.models.files import load_model


class RuledLists:
    """Lists of a student under several policies, for the same rows. They are made as `recommend` makes them.

    Args:
      model_folder: a student that knows all items of the vocabulary.
      policies: name → rules; None: no rules.
      vocabulary_folder: ITEM_VOCABULARY.
      item_features_folder, user_features_folder: ITEM_FEATURES, USER_FEATURES. None where no rule reads them.
      day: whose boosts, pins and new items count: the day on which the run's own lists are shown.
      k: length of the lists.
      item_block: most items scored at a time.
    """

    def __init__(
        self,
        model_folder: str,
        policies: Mapping[str, PolicyConfig | None],
        *,
        vocabulary_folder: str,
        item_features_folder: str | None = None,
        user_features_folder: str | None = None,
        day: date,
        k: int,
        item_block: int,
    ) -> None:
        self._model, facts = load_model(Path(model_folder))
        self._head = head_of(self._model)
        self._rules = {
            name: rules_of_policy(
                policy,
                vocabulary=Path(vocabulary_folder),
                item_features=Path(item_features_folder) if item_features_folder else None,
                num_items=facts["num_items"],
                day=day,
                k=k,
            )
            for name, policy in policies.items()
        }
        self._k, self._item_block, self._segments = k, item_block, None
        features = {policy.segments.feature for policy in policies.values() if policy and policy.segments}
        if features and user_features_folder:
            self._segments = Segments(Path(user_features_folder), features.pop())

    @torch.inference_mode()
    def __call__(self, rows: EvaluationRows) -> dict[str, np.ndarray]:
        """Name of the policy → item indices int64 [rows, k], best first, filled up with −1.

        Args:
          rows: with marks and ages.
        """
        lengths = np.diff(rows.offsets)
        hidden_BW = last_hidden(self._model, rows.items, rows.context, lengths, device=torch.device("cpu"))
        users = pa.chunked_array([pa.array(rows.user_ids, pa.string())])
        segments = self._segments.of(users) if self._segments else [None] * len(rows)
        found = {}
        for name, rules_of in self._rules.items():
            known = np.array([one if one in rules_of else None for one in segments], object)
            found[name] = np.full((len(rows), self._k), -1)
            for segment in dict.fromkeys(known.tolist()):
                which = np.flatnonzero(known == segment)
                found[name][which] = self._lists(rows, which, hidden_BW[torch.from_numpy(which)], rules_of[segment])
        return found

    def _lists(self, rows: EvaluationRows, which: np.ndarray, hidden_BW: torch.Tensor, rules: ListRules) -> np.ndarray:
        assert rows.marks is not None
        assert rows.ages is not None
        out = rules.hides(rows.marks.event_types, rows.ages)
        places, items = rows.items_where(out, which)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=len(which)))])
        lists = lists_under_rules(
            hidden_BW,
            *self._head,
            rules,
            k=self._k,
            item_block=self._item_block,
            excluded=(torch.from_numpy(items), torch.from_numpy(offsets)),
        )
        return lists.items.numpy()
