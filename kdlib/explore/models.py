"""Each published model's list for a user and neighbours of an item, computed when a page is opened.

Shapes: V items of the vocabulary, W width of an item vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from kdlib.data.windows import context_of, ragged
from kdlib.errors import DistilrecError
from kdlib.explore.run import Run
from kdlib.explore.shop import Shop
from kdlib.inference.recommender import check_vocabulary, read_vocabulary
from kdlib.inference.topk import top_of_scores
from kdlib.models.encode import Scorer, scorer
from kdlib.models.files import Predictor, load_predictor
from kdlib.models.rules import SequentialRules
from kdlib.models.sequence import SequenceModel

COLUMNS = ["item_indices", "event_types", "event_times", "session_numbers", "user_values"]
CPU = torch.device("cpu")
KEPT = 16
"""How many models stay in memory."""

Scored = list[tuple[str, float]]
"""(item id, score), best first."""


@dataclass(frozen=True)
class ModelList:
    """A model's items, best first; or a sentence that says why it has none."""

    model: str
    items: Scored
    note: str = ""


def ask_models(shop: Shop, run: Run, ask: Callable[[list[Path]], Scored | str]) -> list[ModelList]:
    """Each model's items, or a sentence. If a model is damaged, only its own list is missing.

    Args:
      shop: for the names of the models.
      run: of the models.
      ask: a model's folders → its items, or a sentence.
    """
    found = []
    for name, folders in shop.models(run).items():
        try:
            answer = ask(folders)
        except DistilrecError as error:
            answer = str(error)
        found.append(ModelList(name, [], answer) if isinstance(answer, str) else ModelList(name, answer))
    return found


def read_history(histories: Path, user_id: str) -> pa.Table:
    """A user's whole history, as the models read it: one row of `tables.HISTORIES`, or none."""
    there = pads.dataset(histories, format="parquet")
    columns = [name for name in COLUMNS if name in there.schema.names]  # earlier releases have no user_values
    return there.to_table(columns=columns, filter=pads.field("user_id") == user_id)


@torch.inference_mode()
def best_items(folders: Sequence[Path], vocabulary: Path, history: pa.Table, *, k: int) -> Scored | str:
    """The k best items of one user that are available and not in the history. A sentence: there are none.

    Args:
      folders: of the model, or of all folds of a cross-fitted teacher. Their scores are averaged, as in the evaluation.
      vocabulary: folder of the item vocabulary.
      history: from `read_history`.
      k: length of the list.

    Raises:
      ModelError: a model is damaged or was trained on another vocabulary.
    """
    item_ids, available_V = _vocabulary(vocabulary)
    items = ragged(history["item_indices"])[0].astype(np.int64)
    logits = []
    for folder in folders:
        model, facts, score = _model(folder)
        check_vocabulary(facts, item_ids)
        known = items < model.num_items
        if not known.any():
            return "The model knows no item of this history, so it has no scores."
        found = score(items[known], context_of(history, keep_N=known), np.array([known.sum()]))
        logits.append(F.pad(found, (0, len(item_ids) - model.num_items), value=-torch.inf))
    scores_1V = torch.stack(logits).mean(0)
    scores_1V[0, torch.from_numpy(items)] = -torch.inf
    scores_1V[0, torch.from_numpy(~available_V)] = -torch.inf
    return _named(*top_of_scores(scores_1V, k), item_ids)


@torch.inference_mode()
def neighbours(folder: Path, vocabulary: Path, item_index: int, *, k: int) -> Scored | str:
    """The k items whose vectors have the largest cosine with an item's vector. A sentence: there are none.

    Args:
      folder: of the model.
      vocabulary: folder of the item vocabulary.
      item_index: of the item.
      k: length of the list.

    Raises:
      ModelError: the model is damaged or was trained on another vocabulary.
    """
    item_ids, _ = _vocabulary(vocabulary)
    model, facts, _ = _model(folder)
    check_vocabulary(facts, item_ids)
    if not isinstance(model, SequenceModel):
        kind = "counts rules" if isinstance(model, SequentialRules) else "is a function of your own"
        return f"This teacher {kind}. It has no item vectors, so no item is near another."
    if item_index >= model.num_items:
        return "The item is new. This model was trained before the vocabulary had it."
    vectors_VW = model.item_vectors()
    own_W = vectors_VW[item_index]
    cosine_V = (vectors_VW @ own_W) / (vectors_VW.norm(dim=1) * own_W.norm()).clamp_min(1e-12)
    cosine_V[item_index] = -torch.inf
    return _named(*top_of_scores(cosine_V[None], k), item_ids)


@lru_cache(maxsize=KEPT)
def _model(folder: Path) -> tuple[Predictor, dict[str, Any], Scorer]:
    """A published version never changes, so it is read once."""
    model, facts = load_predictor(folder)
    return model, facts, scorer(model, device=CPU)


@lru_cache(maxsize=2)
def _vocabulary(folder: Path) -> tuple[pa.Array, NDArray]:
    return read_vocabulary(folder)


def _named(scores_1K: torch.Tensor, indices_1K: torch.Tensor, item_ids: pa.Array) -> Scored:
    pairs = zip(indices_1K[0].tolist(), scores_1K[0].tolist(), strict=True)
    return [(item_ids[index].as_py(), score) for index, score in pairs if index >= 0]
