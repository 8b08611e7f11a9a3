"""Start a model from the model of an earlier run, whose vocabulary is the beginning of the new one.

Shapes: V items; P items that the earlier model knows, the first of V, or those of them with training interactions; D
item-embedding width; E text width; F values of features.
"""

from typing import Any

import torch
from torch import Tensor

from kdlib.models.sequence import SequenceModel

GROWING = ("item_embedding", "output_embedding", "output_bias")
"""Weights with one row an item."""
CONTENT = ("text_projection.weight", "value_embedding")
"""What a model knows about titles and features; the export folds it into the item table."""
ROUNDS = 20
"""Of `iterated_means`."""


@torch.no_grad()
def start_from(model: SequenceModel, earlier: SequenceModel) -> None:
    """Copy the weights of an earlier model. Items that it does not know keep their rows.

    In the item table of the earlier model, titles and features are folded in. If the new model reads them, they must be
    separated again: the projection of titles is the one that explains the rows of items with training interactions best (least
    squares), and the embeddings of values explain what is left. The remainder is the items' own rows. Rows of items without
    training interactions are not used, see `kdlib.models.new_items`.

    Raises:
      ValueError: the models differ in more than the number of items and dropout, or have codes.
    """
    ours, theirs = (shape_of(m.options) for m in (model, earlier))
    if ours != theirs or ours["codes"] is not None or earlier.num_items > model.num_items:
        raise ValueError(
            "a warm start needs two models without codes that differ only in a larger vocabulary,"
            f" found {model.options} after {earlier.options}"
        )
    known, state = earlier.num_items, dict(earlier.named_parameters())
    for name, parameter in model.named_parameters():
        if name in GROWING:
            parameter[:known] = state[name]
        elif name not in CONTENT:
            parameter.copy_(state[name])
    if model.reads_content:
        model.item_embedding[:known] = _own_rows(model, state["item_embedding"])


def _own_rows(model: SequenceModel, table_PD: Tensor) -> Tensor:
    """Set what the model knows about content so that it explains the table. Returns what it leaves unexplained, [P, D]."""
    left_PD, trained_P = table_PD.clone(), model.get_buffer("trained_V")[: len(table_PD)]
    if model.text_projection is not None:
        vectors_PE = model.get_buffer("text_vectors_VE")[: len(table_PD)].float()
        projection_ED = least_squares(vectors_PE[trained_P], table_PD[trained_P])
        model.text_projection.weight.copy_(projection_ED.T)
        left_PD -= vectors_PE @ projection_ED
    if model.value_embedding is not None:
        matrix_PF = model.item_values().matrix().index_select(0, torch.arange(len(table_PD)))
        used_PF = matrix_PF * trained_P[:, None]
        model.value_embedding.copy_(iterated_means(used_PF, left_PD * trained_P[:, None]))
        left_PD -= matrix_PF @ model.value_embedding
    return left_PD


def shape_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that must be equal for a warm start. Models of earlier releases lack `user_columns`."""
    every = {"user_columns": {}} | options
    return {name: value for name, value in every.items() if name not in ("num_items", "dropout", "item_dropout")}


def least_squares(vectors_PE: Tensor, table_PD: Tensor) -> Tensor:
    """The matrix float [E, D] that minimises `‖vectors @ matrix − table‖`.

    It is slightly damped, because equal titles would make the equations singular.
    """
    wide_PE = vectors_PE.double()
    squares_EE = wide_PE.T @ wide_PE
    squares_EE.diagonal().add_((1e-4 * squares_EE.diagonal().mean()).clamp_min(1e-12))
    return torch.linalg.solve(squares_EE, wide_PE.T @ table_PD.double()).float()


def iterated_means(matrix_PF: Tensor, table_PD: Tensor) -> Tensor:
    """A matrix float [F, D] so that `matrix_PF @ it` is near `table_PD`; least squares would be too large to solve.

    Each round adds to each value the mean of what its items lack (SIRT, the simultaneous iterative reconstruction technique).
    A value without items keeps zeros.

    Args:
      matrix_PF: sparse float, no entry below 0.
      table_PD: float.
    """
    found_FD = torch.zeros(matrix_PF.shape[1], table_PD.shape[1])
    rows_P1 = torch.sparse.sum(matrix_PF, 1).to_dense().clamp_min(1e-12)[:, None]
    columns_F1 = torch.sparse.sum(matrix_PF, 0).to_dense().clamp_min(1e-12)[:, None]
    for _ in range(ROUNDS):
        found_FD += matrix_PF.T @ ((table_PD - matrix_PF @ found_FD) / rows_P1) / columns_F1
    return found_FD
