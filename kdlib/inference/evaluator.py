"""Ranks of the test targets under every model and baseline: the Ray Data actor of the evaluation job."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from kdlib.data.windows import evaluation_rows, list_array
from kdlib.inference.baselines import Markov
from kdlib.inference.ranks import ranks_of_models, ranks_of_scores
from kdlib.models.files import load_predictor


class Evaluator:
    """Histories in, one row a user out: `user_id`, and for each model `rank/<name>` and `top/<name>`,
    for trained models `confidence/<name>` too. The rows are those of `evaluation_rows`; a rank is −1 where there is no target.

    Args:
      models: name → (model folder, weight) of one model or of an ensemble.
      markov: the counted transitions.
      top: length of the lists behind the coverage.
      confidence_k: of the first so many, how sure a model is that the next item is among them.
      threads: of PyTorch.
      everyone: users without a new next item give a row, too.
    """

    def __init__(
        self,
        models: dict[str, list[tuple[str, float]]],
        markov: Markov,
        top: int,
        confidence_k: int,
        threads: int,
        everyone: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = {
            folder: load_predictor(Path(folder))[0].to(self._device) for parts in models.values() for folder, _ in parts
        }
        self._models = {name: ([loaded[f] for f, _ in parts], [w for _, w in parts]) for name, parts in models.items()}
        self._markov, self._top, self._confidence_k, self._everyone = markov, top, confidence_k, everyone

    def __call__(self, histories: pa.Table) -> pa.Table:
        rows = evaluation_rows(histories, position_column="test_position", with_marks=True, everyone=self._everyone)
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
        columns: dict[str, pa.Array] = {"user_id": pa.array(rows.user_ids, pa.string())}
        for name, one in found.items():
            columns[f"rank/{name}"] = pa.array(one.ranks)
            columns[f"top/{name}"] = list_array(one.best.ravel(), np.full(len(one.best), self._top), pa.int64())
            if name in self._models:
                columns[f"confidence/{name}"] = pa.array(one.confidence)
        return pa.table(columns)
