"""In-domain training of a text encoder: titles of items that follow each other in a history get similar vectors.

A pretrained encoder knows what a title says. The histories show which items shoppers want together. For one item's title
the encoder learns to pick the next item's title among all titles of the batch, and the other way round. sentence-transformers
calls this loss MultipleNegativesRankingLoss (van den Oord et al. 2018; Henderson et al. 2017).

Shapes: P pairs, B pairs of a step, U distinct titles, D width of the vectors, V items.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from kdlib.data.windows import ragged, take_slices
from kdlib.encoders.hugging_face import Tokenise

PAIRS_SCHEMA = pa.schema([("item", pa.int32()), ("next_item", pa.int32())])


def training_pairs(histories: pa.Table) -> pa.Table:
    """All pairs of neighbouring items within the training part of one history.

    Args:
      histories: rows of `tables.HISTORIES`, at least `item_indices` and `num_train`.

    Returns:
      `item`, `next_item` int32. No pair holds an item at a validation or test position.
    """
    items, offsets = ragged(histories["item_indices"])
    lengths = np.maximum(histories["num_train"].to_numpy().astype(np.int64) - 1, 0)
    places = take_slices(offsets[:-1], lengths)
    return pa.table([pa.array(items[places]), pa.array(items[places + 1])], schema=PAIRS_SCHEMA)


def held_out_pairs(histories: pa.Table) -> np.ndarray:
    """For each validation position the item before it and the item at it, int64 [pairs, 2]."""
    histories = histories.filter(histories["validation_position"].is_valid())
    items, offsets = ragged(histories["item_indices"])
    position = histories["validation_position"].to_numpy().astype(np.int64)
    places = (offsets[:-1] + position)[position > 0]
    return np.stack([items[places - 1], items[places]], 1).astype(np.int64)


def number_titles(titles: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """The distinct titles, and the number of each item's title, int32 [items]; −1 for an item without a title."""
    numbers: dict[str, int] = {}
    cleaned = [(title or "").strip() for title in titles]
    number_V = np.array([numbers.setdefault(title, len(numbers)) if title else -1 for title in cleaned], np.int32)
    return list(numbers), number_V


def keep_chances(counts_V: np.ndarray, *, popular_factor: float) -> np.ndarray:
    """The probability of using a pair of an item: an item with n > limit interactions counts as √(n · limit).

    Best sellers are neighbours of every other item. Without this limit most pairs would be theirs (subsampling of frequent
    words, Mikolov et al. 2013).

    Args:
      counts_V: training interactions of each item.
      popular_factor: the limit, as a multiple of the mean over items with any.

    Returns:
      float32 [items] in (0, 1].
    """
    limit = popular_factor * (counts_V[counts_V > 0].mean() if counts_V.any() else 1.0)
    return np.sqrt(np.minimum(1.0, limit / np.maximum(counts_V, 1))).astype(np.float32)


def sample_pairs(
    parts: Iterable[np.ndarray], number_V: np.ndarray, keep_V: np.ndarray, *, max_pairs: int, seed: int
) -> np.ndarray:
    """A uniform sample of the pairs that `keep_chances` keeps, as title numbers, int32 [pairs, 2].

    Pairs of equal titles and pairs with an item without a title are dropped. Memory holds `max_pairs` and one part.

    Args:
      parts: item index pairs, int [n, 2] each.
      number_V: title number of each item, from `number_titles`.
      keep_V: from `keep_chances`.
      max_pairs: size of the sample, at most.
      seed: of the sample.
    """
    generator = np.random.default_rng(seed)
    kept, keys = np.zeros((0, 2), np.int32), np.zeros(0)
    for pairs in parts:
        titles = number_V[pairs]
        use = (titles >= 0).all(1) & (titles[:, 0] != titles[:, 1])
        use &= generator.random(len(pairs)) < keep_V[pairs].prod(1)
        kept = np.concatenate([kept, titles[use]])
        keys = np.concatenate([keys, generator.random(int(use.sum()))])
        if len(keys) > max_pairs:  # the rows with the smallest random keys are a uniform sample
            chosen = np.sort(np.argpartition(keys, max_pairs)[:max_pairs])
            kept, keys = kept[chosen], keys[chosen]
    return kept


def info_nce(left_BD: Tensor, right_BD: Tensor, titles_B2: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss of pairs (InfoNCE), the mean of both directions; the batch's other pairs are the negatives.

    `−log( exp(l_i · r_i / τ) / Σ_j exp(l_i · r_j / τ) )`. The sum leaves out two kinds of j, which are no negatives: the
    titles of the pair itself in another pair, and the partners that its titles have in other pairs.

    Args:
      left_BD: unit vectors float [pairs, D].
      right_BD: unit vectors of their partners, float [pairs, D].
      titles_B2: title numbers int [pairs, 2].
      temperature: τ.

    Returns:
      float scalar, the mean over pairs, in nats.

    Reference: van den Oord et al. 2018, arXiv 1807.03748; both directions as in CLIP, Radford et al. 2021.
    """
    logits_BB = left_BD @ right_BD.T / temperature
    left_B, right_B = titles_B2[:, 0], titles_B2[:, 1]
    same_left_BB, same_right_BB = left_B[:, None] == left_B, right_B[:, None] == right_B
    left_is_right_BB = left_B[:, None] == right_B  # [i, j]: pair i's left title is pair j's right title
    own_BB = torch.eye(len(left_B), dtype=torch.bool, device=left_B.device)
    no_negative_BB = (same_left_BB | same_right_BB) & ~own_BB
    targets_B = torch.arange(len(left_B), device=left_B.device)
    to_right = F.cross_entropy(logits_BB.masked_fill(no_negative_BB | left_is_right_BB, -torch.inf), targets_B)
    to_left = F.cross_entropy(logits_BB.T.masked_fill(no_negative_BB | left_is_right_BB.T, -torch.inf), targets_B)
    return (to_right + to_left) / 2


def learning_rate_at(step: int, *, steps: int, peak: float, warmup_fraction: float) -> float:
    """The learning rate: a linear rise over the first share of the steps, then a linear fall to 0. `step` counts from 0."""
    warmup = int(steps * warmup_fraction)
    return peak * min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))


def train_epoch(
    engine: Any,
    pairs_P2: np.ndarray,
    texts: Sequence[str],
    tokenise: Tokenise,
    *,
    batch_size: int,
    temperature: float,
    learning_rate: Callable[[int], float],
    first_step: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over this worker's pairs; the negatives come from all workers' batches.

    Each worker computes the loss of the whole step, but the gradient of its own vectors only. The sum over the workers is
    the gradient of one process that holds all pairs.

    Args:
      engine: a DeepSpeed engine around a `TextEncoder`.
      pairs_P2: title numbers; the same number of pairs on every worker.
      texts: title number → title.
      tokenise: from `kdlib.encoders.hugging_face.load_tokeniser`.
      batch_size: pairs a step of this worker. A smaller last batch is dropped, unless it is the only batch.
      temperature: of the loss.
      learning_rate: step → rate.
      first_step: optimizer steps taken before this epoch.
      seed: of the order.
      device: the worker's.

    Returns:
      `loss`, the mean over steps; `steps`.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    size = min(batch_size, len(pairs_P2))
    order = np.random.default_rng(seed).permutation(len(pairs_P2))[: len(pairs_P2) // size * size]
    engine.train()
    total, step = torch.zeros((), device=device), first_step
    for chosen in order.reshape(-1, size):
        titles_B2 = pairs_P2[chosen]
        unique_U, places = np.unique(titles_B2, return_inverse=True)  # encode each distinct title once
        tokens = {name: value.to(device) for name, value in tokenise([texts[int(title)] for title in unique_U]).items()}
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step)
        vectors_B2D = engine(tokens)[torch.from_numpy(places.reshape(-1, 2)).to(device)]
        everywhere_B2D = _gathered(vectors_B2D, world)
        titles_B2 = _gathered(torch.from_numpy(titles_B2).to(device), world)
        loss = info_nce(everywhere_B2D[:, 0], everywhere_B2D[:, 1], titles_B2, temperature=temperature)
        engine.backward(loss * world)  # the engine takes the mean over the workers
        engine.step()
        total, step = total + loss.detach(), step + 1
    return {"loss": (total / max(step - first_step, 1)).item(), "steps": step - first_step}


def recall(vectors_UD: Tensor, pairs_N2: Tensor, *, k: int) -> float:
    """Share of the pairs whose second title is among the k nearest titles of the first title, itself not counted.

    Args:
      vectors_UD: unit vectors float [titles, D].
      pairs_N2: rows of `vectors_UD`, int64. A title that ties with the second title ranks before it.
      k: number of nearest titles.
    """
    hits = 0
    for part in pairs_N2.split(1024):
        query_N, target_N = part.unbind(1)
        scores_NU = vectors_UD[query_N] @ vectors_UD.T
        target_scores_N1 = scores_NU.gather(1, target_N[:, None])
        scores_NU.scatter_(1, query_N[:, None], -torch.inf)
        rank_N = (scores_NU >= target_scores_N1).sum(1)  # at least 1, for the target itself; 0 if not finite
        hits += int(((rank_N >= 1) & (rank_N <= k)).sum())
    return hits / max(len(pairs_N2), 1)


def _gathered(own: Tensor, world: int) -> Tensor:
    """The rows of all workers, in rank order; only this worker's own rows carry a gradient."""
    if world == 1:
        return own
    everywhere = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(everywhere, own.detach().contiguous())
    everywhere[dist.get_rank()] = own
    return torch.cat(everywhere)
