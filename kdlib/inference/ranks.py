"""The rank of the true next item among all items. Every ranking metric starts from it.

Shapes: B rows, T rows of these with equal scores, V items, K list length.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdlib.data.windows import EvaluationRows, context_from, take_slices
from kdlib.inference.topk import top_of_scores
from kdlib.models.encode import rows_at_a_time, scorer
from kdlib.models.files import Predictor


class Ranked(NamedTuple):
    """A model's ranks and best items for some rows."""

    ranks: np.ndarray
    """0-based rank of each row's target, int64 [rows]; −1 where a row has no target."""
    best: np.ndarray
    """Each row's best unseen items, int64 [rows, top], filled up with −1. Ties go to the smaller index."""
    confidence: np.ndarray
    """The model's probability that the target is among the row's first `confidence_k` items, float32 [rows]."""


def ranked_lists(lists_BK: np.ndarray, targets_B: np.ndarray, *, num_items: int, top: int) -> Ranked:
    """Finished lists in the form of a model's ranks. A target that is not in its list has the rank `num_items`.

    Args:
      lists_BK: int64 item indices, best first, filled up with −1.
      targets_B: int64; −1 for a row without a target.
      num_items: V.
      top: length of `best`: longer lists are cut, shorter ones filled up.
    """
    hits_BK = lists_BK == targets_B[:, None]
    ranks = np.where(hits_BK.any(1), hits_BK.argmax(1), num_items)
    best = np.full((len(lists_BK), top), -1)
    best[:, : lists_BK.shape[1]] = lists_BK[:, :top]
    return Ranked(np.where(targets_B < 0, -1, ranks), best, np.zeros(len(lists_BK), np.float32))


def target_ranks(scores_BV: Tensor, targets_B: Tensor, *, seen_rows: Tensor, seen_items: Tensor) -> Tensor:
    """Rank of each row's target among its unseen items, 0 for the best: int64 [rows]. Ties go to the smaller item index.

    A target of score −inf ranks behind all items with a finite score, and by index among the unseen items of score −inf.

    Args:
      scores_BV: float [rows, items]; the scores of seen items are overwritten with −inf.
      targets_B: int64 [rows]. The rank of a target that is among the row's seen items means nothing.
      seen_rows: row of each seen item, int64 [seen items].
      seen_items: item index of each seen item, int64 [seen items].

    Raises:
      ValueError: a score is NaN.
    """
    if torch.isnan(scores_BV.amax(1)).any():  # a NaN wins every maximum
        raise ValueError("scores contain NaN, so the model's weights are broken. Train the model again")
    scores_BV[seen_rows, seen_items] = -torch.inf
    own_B1 = scores_BV.gather(1, targets_B[:, None])
    ahead_B = _count(scores_BV > own_B1)
    tied = (_count(scores_BV == own_B1) > 1).nonzero()[:, 0]
    if len(tied):
        indices_V = torch.arange(scores_BV.shape[1], device=scores_BV.device)
        before_TV = (scores_BV[tied] == own_B1[tied]) & (indices_V < targets_B[tied, None])
        if (own_B1 == -torch.inf).any():
            seen_BV = torch.zeros_like(scores_BV, dtype=torch.bool)
            seen_BV[seen_rows, seen_items] = True
            before_TV &= ~seen_BV[tied]
        ahead_B[tied] += _count(before_TV)
    return ahead_B


def _count(mask_BV: Tensor) -> Tensor:
    """Number of true entries of each row, int64 [rows]. A CPU adds bytes at twice the speed of booleans."""
    return mask_BV.view(torch.uint8).sum(1, dtype=torch.int32).long()


@torch.inference_mode()
def ranks_of_models(
    models: Sequence[Predictor],
    weights: Sequence[float],
    rows: EvaluationRows,
    *,
    device: torch.device,
    top: int = 0,
    confidence_k: int = 0,
    batch_size: int | None = None,
    num_items: int | None = None,
    popularity_V: np.ndarray | None = None,
) -> Ranked:
    """Ranks of the rows' targets under one model, or under the weighted mean of several models' scores.

    The vocabulary may have grown since a model was trained. Such a model skips the newer items in its input and ranks
    them last, as it does in batch inference.

    Args:
      models: on the device.
      weights: one per model.
      rows: histories and targets.
      device: of the models.
      top: length of the lists of best items.
      confidence_k: at most `top`. With 0 all confidences are 0.
      batch_size: rows at a time; None: a number whose scores fit the cache.
      num_items: V, at least the number of items of each model; None: the number of items of the first model.
      popularity_V: training interactions of each item, float [items]. They rank the items for a history in which a
        model knows no item. None: 0 for all items.
    """
    num_items = num_items or models[0].num_items
    else_V = torch.zeros(num_items) if popularity_V is None else torch.from_numpy(popularity_V)
    scorers = [
        _over_all_items(scorer(model, device=device), model.num_items, else_V.to(device, torch.float32))
        for model in models
    ]
    contexts = [_context_of_known(rows, model.num_items) for model in models]
    shares = [weight / sum(weights) for weight in weights]

    def scores(which: np.ndarray) -> Tensor:
        lengths = np.diff(rows.offsets)[which]
        flat = take_slices(rows.offsets[which], lengths)
        logits = [
            score(rows.items[flat], context[flat], lengths) for score, context in zip(scorers, contexts, strict=True)
        ]
        if len(logits) == 1:
            return logits[0]
        return torch.stack([share * part for share, part in zip(shares, logits, strict=True)]).sum(0)

    return ranks_of_scores(
        scores, rows, num_items=num_items, device=device, top=top, confidence_k=confidence_k, batch_size=batch_size
    )


def _context_of_known(rows: EvaluationRows, known_items: int) -> np.ndarray:
    """The rows' context for a model that skips unknown items, as in batch inference: int8 [positions, …].

    Flags and time gaps are computed between known items only. The values at unknown items mean nothing.
    """
    known = rows.items < known_items
    if rows.marks is None or known.all():
        return rows.context
    context = np.zeros_like(rows.context)
    context[known] = context_from(rows.marks.take(np.flatnonzero(known), rows.marks.owners[known]))
    return context


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], Tensor]
"""Items, context and lengths of ragged histories → scores of all items, float [rows, items]."""


def _over_all_items(score: Score, known_items: int, else_V: Tensor) -> Score:
    """Scores over a vocabulary that has grown since the model was trained: −inf for items that the model does not know.

    A history of unknown items only gets the logarithm of `else_V`, the items' popularity.
    """
    num_items = len(else_V)
    if known_items == num_items:
        return score
    else_V = else_V.clamp_min(1e-9).log()
    else_V[known_items:] = -torch.inf

    def scores(items: np.ndarray, context: np.ndarray, lengths: np.ndarray) -> Tensor:
        known = items < known_items
        counts = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[known], minlength=len(lengths))
        readable = counts > 0
        scores_BV = else_V.repeat(len(lengths), 1)
        if not readable.any():
            return scores_BV
        found_BV = score(items[known], context[known], counts[readable]).to(scores_BV)
        which_B = torch.from_numpy(readable).to(found_BV.device)
        scores_BV[which_B] = torch.nn.functional.pad(found_BV, (0, num_items - known_items), value=-torch.inf)
        return scores_BV

    return scores


def ranks_of_scores(
    scores: Callable[[np.ndarray], Tensor],
    rows: EvaluationRows,
    *,
    num_items: int,
    device: torch.device,
    top: int = 0,
    confidence_k: int = 0,
    batch_size: int | None = None,
) -> Ranked:
    """Ranks of the rows' targets by any scores.

    A confidence needs scores that are log-probabilities up to a constant. It is a probability among the unseen items.

    Args:
      scores: row numbers [B] → scores of all items, float [B, V].
      rows, num_items, device, top, confidence_k, batch_size: as in `ranks_of_models`.
    """
    batch_size = batch_size or rows_at_a_time(num_items, device)
    ranks = np.empty(len(rows), np.int64)
    best = np.empty((len(rows), top), np.int64)
    confidence = np.zeros(len(rows), np.float32)
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    for start in range(0, len(rows), batch_size):
        which = by_length[start : start + batch_size]
        scores_BV = scores(which)
        seen_rows, seen = rows.hidden_items(which)
        targets = rows.targets[which]
        ranks_B = target_ranks(
            scores_BV,
            torch.from_numpy(targets.clip(0)).to(device),
            seen_rows=torch.from_numpy(seen_rows).to(device),
            seen_items=torch.from_numpy(seen).to(device),
        )
        ranks[which] = np.where(targets < 0, -1, ranks_B.cpu().numpy())
        if top:
            values_BK, first_BK = top_of_scores(scores_BV, top)
            best[which] = first_BK.cpu().numpy()
            if confidence_k:
                share_B = values_BK[:, :confidence_k].logsumexp(1) - scores_BV.logsumexp(1)
                confidence[which] = share_B.exp().cpu().numpy()
    return Ranked(ranks, best, confidence)
