"""Where the true next item lands among all items: the base of every ranking metric.

Shapes: B rows, W scoring width, V items, L length.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdlib.data.windows import EvaluationRows, context_from, take_slices
from kdlib.inference.topk import top_of_scores
from kdlib.losses.distillation import mixture_log_probs
from kdlib.models.encode import rows_at_a_time, scorer
from kdlib.models.files import Predictor


class Ranked(NamedTuple):
    """What a model says of some rows."""

    ranks: np.ndarray
    """int64 [rows]: 0-based, of the rows' targets; −1 where a row has none."""
    best: np.ndarray
    """int64 [rows, top]: each row's best unseen items, −1 where there are fewer; ties go to the smaller index."""
    confidence: np.ndarray
    """float32 [rows]: the probability, by the model, that the target is among the row's first `confidence_k`."""


def target_ranks(scores_BV: Tensor, targets_B: Tensor, *, seen_rows: Tensor, seen_items: Tensor) -> Tensor:
    """Rank of each row's target among all items except those seen, 0 for the best; ties go to the smaller item index.

    A target of score −inf stands behind all that have another, among the unseen ones of −inf.

    Args:
      scores_BV: float [rows, items]; its seen entries are overwritten with −inf.
      targets_B: int64 [rows]; a row whose target is among its seen items gets a rank that means nothing.
      seen_rows: int64 row numbers of the seen items.
      seen_items: int64 item indices, like `seen_rows`.

    Returns:
      int64 [rows].
    """
    if torch.isnan(scores_BV.amax(1)).any():  # a NaN wins every maximum
        raise ValueError("scores contain NaN: the model is broken, its ranks would mean nothing")
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
    """How many are true in each row, int64; as bytes, which a CPU adds up at twice the speed of booleans."""
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
    """Ranks of the rows' targets under one model, or under the weighted mean of several models' probabilities.

    Args:
      models: on the device.
      weights: one a model.
      rows: histories and targets.
      device: of the models.
      top: length of the lists of best items.
      confidence_k: at most `top`; 0: the confidence is not asked for, and is 0.
      batch_size: rows at a time; None fits the cache.
      num_items: V, where it may be more than a model knows: an earlier night's model skips what came later in its
        input and ranks it last.
      popularity_V: float [V]; what ranks for a history in which such a model knows no item, as when it serves.
    """
    num_items = num_items or models[0].num_items
    else_V = torch.zeros(num_items) if popularity_V is None else torch.from_numpy(popularity_V)
    scorers = [
        _over_all_items(scorer(model, device=device), model.num_items, else_V.to(device, torch.float32))
        for model in models
    ]
    contexts = [_context_of_known(rows, model.num_items) for model in models]

    def scores(which: np.ndarray) -> Tensor:
        lengths = np.diff(rows.offsets)[which]
        flat = take_slices(rows.offsets[which], lengths)
        logits = [
            score(rows.items[flat], context[flat], lengths) for score, context in zip(scorers, contexts, strict=True)
        ]
        if len(logits) == 1:
            return logits[0]
        return mixture_log_probs([part.double() for part in logits], weights)

    return ranks_of_scores(
        scores, rows, num_items=num_items, device=device, top=top, confidence_k=confidence_k, batch_size=batch_size
    )


def _context_of_known(rows: EvaluationRows, known_items: int) -> np.ndarray:
    """The rows' context, int8 [positions, …], as a model reads it when it serves: items that it does not know are no
    neighbours of the others. Their own positions hold anything."""
    known = rows.items < known_items
    if rows.marks is None or known.all():
        return rows.context
    context = np.zeros_like(rows.context)
    context[known] = context_from(rows.marks.take(np.flatnonzero(known), rows.marks.owners[known]))
    return context


Score = Callable[[np.ndarray, np.ndarray, np.ndarray], Tensor]


def _over_all_items(score: Score, known_items: int, else_V: Tensor) -> Score:
    """A model's scores, float [B, V], of a vocabulary that has grown since it was trained: −inf for what it does not know.

    A history of unknown items alone gives `else_V`, the items' popularity, as log-probabilities.
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
    """The same for anything that scores all items for some rows: `scores(row numbers [B]) → float [B, V]`.

    A confidence needs scores that are log-probabilities up to a constant; it is that of the items not yet seen.
    """
    batch_size = batch_size or rows_at_a_time(num_items, device)
    ranks = np.empty(len(rows), np.int64)
    best = np.empty((len(rows), top), np.int64)
    confidence = np.zeros(len(rows), np.float32)
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    for start in range(0, len(rows), batch_size):
        which = by_length[start : start + batch_size]
        scores_BV = scores(which)
        counts = np.diff(rows.offsets)[which]
        seen = rows.items[take_slices(rows.offsets[which], counts)]
        targets = rows.targets[which]
        ranks_B = target_ranks(
            scores_BV,
            torch.from_numpy(targets.clip(0)).to(device),
            seen_rows=torch.from_numpy(np.repeat(np.arange(len(which)), counts)).to(device),
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
