"""Validation metrics of a teacher that has no epochs: counted rules, a function of the user's own."""

from collections.abc import Sequence

import torch

from kdlib.data.windows import EvaluationRows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.ranking import all_metrics, weighted_mean
from kdlib.models.files import Predictor

NAMES = ("accuracy@1", "recall@10", "ndcg@10")
"""Metrics in the `model.json` of every model."""


def validation_metrics(
    model: Predictor, rows: EvaluationRows, *, event_weights: Sequence[float] | None = None
) -> dict[str, float]:
    """The entry `validation` of `model.json`: the metrics, 0 if there are no rows, and the epoch 0. Computed on the CPU.

    Args:
      model: the teacher.
      rows: histories and targets.
      event_weights: weights of the rows by the type of the target's event. None: all are equal.
    """
    ranks = ranks_of_models([model], [1.0], rows, device=torch.device("cpu")).ranks
    scores = all_metrics(ranks, (10,))
    weights = rows.weights(event_weights)
    return {"epoch": 0} | {name: weighted_mean(scores[name], weights) for name in NAMES}
