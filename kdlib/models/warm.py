"""Start a model from the model of an earlier run, whose vocabulary is the beginning of the new one.

Shapes: V items; P items that the earlier model knows, the first of V, or those of them with training interactions; D
item-embedding width; E text width.
"""

from typing import Any

import torch
from torch import Tensor

from kdlib.models.sequence import SequenceModel

GROWING = ("item_embedding", "output_embedding", "output_bias")
"""Weights with one row an item."""


@torch.no_grad()
def start_from(model: SequenceModel, earlier: SequenceModel) -> None:
    """Copy the weights of an earlier model. Items that it does not know keep their rows.

    In the item table of the earlier model, titles are folded in. If the new model reads titles, they must be separated again:
    the projection is the one that explains the rows of items with training interactions best (least squares). The remainder
    is the items' own rows. Rows of items without training interactions are not used, see `kdlib.models.new_items`.

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
        elif name != "text_projection.weight":
            parameter.copy_(state[name])
    if model.text_projection is not None:
        vectors_PE, table_PD = model.get_buffer("text_vectors_VE")[:known].float(), state["item_embedding"]
        trained_P = model.get_buffer("trained_V")[:known]
        projection_ED = least_squares(vectors_PE[trained_P], table_PD[trained_P])
        model.text_projection.weight.copy_(projection_ED.T)
        model.item_embedding[:known] = table_PD - vectors_PE @ projection_ED


def shape_of(options: dict[str, Any]) -> dict[str, Any]:
    """The options that must be equal for a warm start."""
    return {name: value for name, value in options.items() if name not in ("num_items", "dropout", "item_dropout")}


def least_squares(vectors_PE: Tensor, table_PD: Tensor) -> Tensor:
    """The matrix float [E, D] that minimises `‖vectors @ matrix − table‖`.

    It is slightly damped, because equal titles would make the equations singular.
    """
    wide_PE = vectors_PE.double()
    squares_EE = wide_PE.T @ wide_PE
    squares_EE.diagonal().add_((1e-4 * squares_EE.diagonal().mean()).clamp_min(1e-12))
    return torch.linalg.solve(squares_EE, wide_PE.T @ table_PD.double()).float()
