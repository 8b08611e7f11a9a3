"""Validation metrics of a teacher that has no epochs: counted rules, a function of the user's own."""

import torch

from kdlib.data.windows import EvaluationRows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.ranking import all_metrics
from kdlib.models.files import Predictor

NAMES = ("accuracy@1", "recall@10", "ndcg@10")
"""Metrics in the `model.json` of every model."""


def validation_metrics(model: Predictor, rows: EvaluationRows) -> dict[str, float]:
    """The entry `validation` of `model.json`: the metrics, 0 if there are no rows, and the epoch 0. Computed on the CPU."""
    ranks = ranks_of_models([model], [1.0], rows, device=torch.device("cpu")).ranks
    scores = all_metrics(ranks, (10,))
    return {"epoch": 0} | {name: float(scores[name].mean()) if len(ranks) else 0.0 for name in NAMES}
