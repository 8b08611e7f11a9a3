"""The Ray Data actor of the evaluation: ranks of the test targets under every model and baseline.

Shapes: V items.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from kdlib.config.data import EVENT_TYPES
from kdlib.data.windows import evaluation_rows, list_array
from kdlib.inference.baselines import Markov
from kdlib.inference.ranks import ranked_lists, ranks_of_models, ranks_of_scores
from kdlib.inference.ruled_lists import RuledLists
from kdlib.models.files import load_predictor
from kdlib.store.days import UTC


class Evaluator:
    """Ray Data actor: histories in, one row per user out.

    The columns are `user_id`, and `rank/<name>` and `top/<name>` for each model; trained models add `confidence/<name>`.
    The rows are those of `evaluation_rows`. A rank is −1 where the user has no target.

    Args:
      models: name → (model folder, weight) for each model of an ensemble; a single model is an ensemble of one.
      markov: the counted transitions.
      top: length of the lists for the coverage.
      confidence_k: `confidence/<name>` is the probability that the next item is among the first `confidence_k`.
      threads: of PyTorch.
      everyone: include users without a new next item.
      seen_days: see `evaluation_rows`.
      ruled: arguments of `RuledLists`. Its lists are ranked like a model, and an item that is not in a list counts as
        the last of all. None: no rules.
      time_zone: see `evaluation_rows`.
    """

    def __init__(
        self,
        models: dict[str, list[tuple[str, float]]],
        markov: Markov,
        top: int,
        confidence_k: int,
        threads: int,
        everyone: bool = False,
        seen_days: Sequence[float] | None = None,
        ruled: dict[str, Any] | None = None,
        time_zone: str = UTC,
    ) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = {
            folder: load_predictor(Path(folder))[0].to(self._device) for parts in models.values() for folder, _ in parts
        }
        self._models = {name: ([loaded[f] for f, _ in parts], [w for _, w in parts]) for name, parts in models.items()}
        self._markov, self._top, self._confidence_k, self._everyone = markov, top, confidence_k, everyone
        self._seen_days = seen_days or ((math.inf,) * len(EVENT_TYPES) if ruled else None)
        self._time_zone = time_zone
        self._ruled = RuledLists(**ruled) if ruled else None

    def __call__(self, histories: pa.Table) -> pa.Table:
        rows = evaluation_rows(
            histories,
            position_column="test_position",
            with_marks=True,
            everyone=self._everyone,
            seen_days=self._seen_days,
            time_zone=self._time_zone,
        )
        cpu = torch.device("cpu")
        num_items = len(self._markov.popularity)
        popularity_1V = torch.from_numpy(self._markov.popularity)[None]
        last_items = rows.items[rows.offsets[1:] - 1]
        found = {
            "popularity": ranks_of_scores(
                lambda which: popularity_1V.repeat(len(which), 1), rows, num_items=num_items, device=cpu, top=self._top
            ),
            "markov": ranks_of_scores(
                lambda which: self._markov.scores(last_items[which]),
                rows,
                num_items=num_items,
                device=cpu,
                top=self._top,
            ),
        }
        for name, (models, weights) in self._models.items():
            found[name] = ranks_of_models(
                models,
                weights,
                rows,
                device=self._device,
                top=self._top,
                confidence_k=self._confidence_k,
                num_items=num_items,
                popularity_V=self._markov.popularity,
            )
        for name, lists_BK in (self._ruled(rows) if self._ruled else {}).items():
            found[name] = ranked_lists(lists_BK, rows.targets, num_items=num_items, top=self._top)
        columns: dict[str, pa.Array] = {"user_id": pa.array(rows.user_ids, pa.string())}
        for name, one in found.items():
            columns[f"rank/{name}"] = pa.array(one.ranks)
            columns[f"top/{name}"] = list_array(one.best.ravel(), np.full(len(one.best), self._top), pa.int64())
            if name in self._models:
                columns[f"confidence/{name}"] = pa.array(one.confidence)
        return pa.table(columns)
