"""Distillation of the query encoder: it learns to give each query the teacher's vector.

Shapes: Q queries of a step, E width of the vectors, C products of a step, P products in all.
"""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlib.losses.distillation import hidden_cosine, kl_divergence
from kdlib.losses.rank_distillation import margin_mse
from kdlib.search.catalogue_queries import misspelt
from kdlib.search.student import QueryTokens

HELD_OUT_ONE_IN = 50


def held_out(query: str) -> bool:
    """Whether a query is for validation: about one in `HELD_OUT_ONE_IN`, the same on every worker and date."""
    return zlib.crc32(query.encode()) % HELD_OUT_ONE_IN == 0


def search_distillation(
    student_QE: Tensor,
    teacher_QE: Tensor,
    products_CE: Tensor,
    *,
    temperature: float = 0.05,
    listwise_weight: float = 1.0,
    margin_weight: float = 1.0,
) -> Tensor:
    """`(1 − cos) + λ·KL + μ·margin MSE`, the mean over queries.

    - `1 − cos` compares the vectors (Reimers & Gurevych 2020).
    - The KL compares the scores of a list of products: the softmax of their cosines, divided by `temperature`.
    - The margin MSE compares the score differences of pairs of products (Hofstätter et al. 2020).

    Args:
      student_QE: unit vectors float [queries, E].
      teacher_QE: unit vectors float [queries, E]; they get no gradient.
      products_CE: the teacher's vectors of some products, float [products, E].
      temperature: of the softmax; it is low, because cosines differ by little.
      listwise_weight: λ.
      margin_weight: μ.

    Returns:
      float scalar.
    """
    student_QC, teacher_QC = student_QE @ products_CE.T, teacher_QE.detach() @ products_CE.T
    listwise_Q = kl_divergence(student_QC / temperature, (teacher_QC / temperature).log_softmax(-1))
    half = products_CE.shape[0] // 2
    margins_Q = margin_mse(
        student_QC[:, :half] - student_QC[:, half : 2 * half], teacher_QC[:, :half] - teacher_QC[:, half : 2 * half]
    )
    return (hidden_cosine(student_QE, teacher_QE) + listwise_weight * listwise_Q + margin_weight * margins_Q).mean()


def train_epoch(
    engine: Any,
    queries: list[str],
    teacher_NE: np.ndarray,
    products_PE: Tensor,
    tokens: QueryTokens,
    *,
    batch_size: int,
    products_per_step: int,
    misspelt_fraction: float,
    learning_rate: Callable[[int], float],
    first_step: int,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over this worker's queries.

    Args:
      engine: a DeepSpeed engine around a `QueryEncoder`.
      queries: the same number on every worker.
      teacher_NE: the teacher's vectors of the queries, float [N, E].
      products_PE: the teacher's vectors of all products.
      tokens: the student's tokeniser.
      batch_size: queries a step of this worker. A smaller last batch is dropped, unless it is the only batch.
      products_per_step: number of random products, new in each step, on which lists and margins are compared.
      misspelt_fraction: share of the queries that get a typing error.
      learning_rate: step → rate.
      first_step: optimizer steps taken before this epoch.
      seed: of the order, the products and the typing errors.
      device: the worker's.

    Returns:
      `loss`, the mean over steps; `steps`.
    """
    generator = np.random.default_rng(seed)
    size = min(batch_size, len(queries))
    order = generator.permutation(len(queries))[: len(queries) // size * size]
    engine.train()
    total, step = torch.zeros((), device=device), first_step
    for chosen in order.reshape(-1, size):
        typed = [
            misspelt(queries[place], generator) if generator.random() < misspelt_fraction else queries[place]
            for place in chosen
        ]
        drawn = generator.choice(len(products_PE), min(products_per_step, len(products_PE)), replace=False)
        tokens_QL, lengths_Q = tokens(typed)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step)
        student_QE = engine(tokens_QL.to(device), lengths_Q.to(device))
        teacher_QE = torch.from_numpy(teacher_NE[chosen]).to(device).float()
        loss = search_distillation(student_QE, teacher_QE, products_PE[torch.from_numpy(drawn).to(device)])
        engine.backward(loss)
        engine.step()
        total, step = total + loss.detach(), step + 1
    return {"loss": (total / max(step - first_step, 1)).item(), "steps": step - first_step}
