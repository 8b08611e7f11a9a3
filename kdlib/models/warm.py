"""Start a model from an earlier night's, whose vocabulary was a beginning of this one.

Shapes: V items, P items that the earlier model knows (the first of V), or those of them that are trained on, D
item-embedding width, E text width.
"""

from typing import Any

import torch
from torch import Tensor

from kdlib.models.sequence import SequenceModel

GROWING = ("item_embedding", "output_embedding", "output_bias")
"""Weights with a row an item."""


@torch.no_grad()
def start_from(model: SequenceModel, earlier: SequenceModel) -> None:
    """Give a new model the earlier one's weights; items that are new since keep the rows they were made with.

    The earlier model's titles are folded into its item table. Where the new model reads titles, the projection that
    explains the rows of the items with training interactions best (least squares) is taken for the text's part, and what
    remains for the items' own rows. The others' rows are made from those when the model serves.

    Raises:
      ValueError: the models differ in more than the number of items, or one of them has codes.
    """
    ours, theirs = (shape_of(m.options) for m in (model, earlier))
    if ours != theirs or ours["codes"] is not None or earlier.num_items > model.num_items:
        raise ValueError(f"expected models alike but for a grown vocabulary, found {model.options}, {earlier.options}")
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
    """The options that must agree."""
    return {name: value for name, value in options.items() if name not in ("num_items", "dropout", "item_dropout")}


def least_squares(vectors_PE: Tensor, table_PD: Tensor) -> Tensor:
    """The matrix float [E, D] of smallest error `vectors @ matrix − table`, slightly damped: titles may repeat."""
    wide_PE = vectors_PE.double()
    squares_EE = wide_PE.T @ wide_PE
    squares_EE.diagonal().add_((1e-4 * squares_EE.diagonal().mean()).clamp_min(1e-12))
    return torch.linalg.solve(squares_EE, wide_PE.T @ table_PD.double()).float()
