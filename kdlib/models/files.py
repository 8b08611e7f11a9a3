"""A model as files: `model.safetensors` with the weights, `model.json` with its shape and metadata. Never a pickle.

The export `int8` stores each matrix as int8 and one float32 scale a row, under `<name>.scale`. It takes a quarter of the bytes.
`load_model` always gives float32. The codes of items are bytes in both exports.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdlib.errors import ModelError
from kdlib.models.function import ScoringFunction, function_from_state, function_state
from kdlib.models.item_values import ItemValues
from kdlib.models.new_items import NearestItems, with_new_items
from kdlib.models.rules import SequentialRules, rules_from_state, rules_state
from kdlib.models.sequence import SequenceModel

Predictor = SequenceModel | SequentialRules | ScoringFunction
"""A model that can be a teacher."""

WEIGHTS = "model.safetensors"
MODEL_FILE = "model.json"
SCALE = ".scale"
ITEM_TABLES = ("item_embedding", "output_embedding", "output_bias", "code_tables", "codes_VM")
"""Weights that grow with the catalogue, and the code tables in their place."""


def foldable(model: SequenceModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with what the model learnt about titles and features folded into the item table, new items included.

    Serving then needs no text encoder and no features of items.
    """
    state = {
        name: (value.detach().float() if value.is_floating_point() else value.detach()).cpu().contiguous()
        for name, value in state.items()
    }
    projection_DE, table_FD = (state.pop(name, None) for name in ("text_projection.weight", "value_embedding"))
    if model.reads_content:
        vectors_VD = state["item_embedding"] * model.get_buffer("trained_V").cpu()[:, None]
        if projection_DE is not None:
            vectors_VD = vectors_VD + model.get_buffer("text_vectors_VE").float().cpu() @ projection_DE.T
        if table_FD is not None:
            values = ItemValues(*(part.cpu() for part in model.item_values()))
            vectors_VD = vectors_VD + values.sums(table_FD)
        state["item_embedding"] = with_new_items(
            vectors_VD, NearestItems(*(part.cpu() for part in model.nearest_items()))
        )
    return state


def quantise_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale a row: `matrix ≈ int8 · scale[..., None]`. The error of an entry is at most scale / 2.

    Args:
      matrix: float [..., W].

    Returns:
      int8 [..., W] and scales float32 [...]. A row of zeros has the scale 0.
    """
    scale = matrix.abs().amax(-1).float() / 127.0
    return torch.round(matrix / scale.clamp_min(1e-12)[..., None]).to(torch.int8), scale


def save_model(
    folder: Path,
    model: SequenceModel,
    state: dict[str, Tensor],
    facts: dict[str, Any],
    *,
    export: Literal["float32", "int8"] = "float32",
) -> dict[str, Any]:
    """Write the model. Returns the content of `model.json`: `facts`, options, version and sizes.

    Args:
      folder: an existing folder.
      model: for its options and its content.
      state: full weights, for instance gathered from a ZeRO engine.
      facts: metadata: vocabulary hash and version, metrics, seed.
      export: how matrices are stored. Vectors (norms, biases) stay float32.
    """
    folded = foldable(model, state)
    stored = _stored(folded, export)
    learnt = {name: value.numel() for name, value in folded.items() if value.is_floating_point()}
    item_tables = [value for name, value in stored.items() if name.removesuffix(SCALE) in ITEM_TABLES]
    sizes = {
        "options": model.options,
        "num_items": model.num_items,
        "export": export,
        "parameters": sum(learnt.values()),
        "parameters_without_item_tables": sum(count for name, count in learnt.items() if name not in ITEM_TABLES),
        "item_table_bytes": sum(value.numel() * value.element_size() for value in item_tables),
    }
    return _write(folder, stored, facts | sizes)


def as_served(model: SequenceModel, state: dict[str, Tensor], export: Literal["float32", "int8"]) -> dict[str, Tensor]:
    """The float32 weights that `load_model` would read after `save_model` wrote these full weights."""
    return _as_float32(_stored(foldable(model, state), export))


def save_rules(folder: Path, rules: SequentialRules, facts: dict[str, Any]) -> dict[str, Any]:
    """Write a rule model in the form of `save_model`. Its rules count as parameters; all of them grow with the catalogue."""
    tensors, options = rules_state(rules)
    sizes = {
        "options": options,
        "num_items": rules.num_items,
        "export": "float32",
        "parameters": len(rules.weights_N),
        "parameters_without_item_tables": 0,
        "item_table_bytes": sum(value.numel() * value.element_size() for value in tensors.values()),
    }
    return _write(folder, tensors, facts | sizes)


def save_function(folder: Path, model: ScoringFunction, facts: dict[str, Any], *, version: str) -> dict[str, Any]:
    """Write a function of the user's own in the form of `save_model`. The sizes are None, because they are unknown.

    Args:
      folder: an existing folder.
      model: its path and the item ids are written.
      facts: as in `save_model`.
      version: hash of the function's source.
    """
    tensors, options = function_state(model)
    sizes = ("parameters", "parameters_without_item_tables", "item_table_bytes")
    known = {"options": options, "num_items": model.num_items, "export": None} | dict.fromkeys(sizes)
    return _write(folder, tensors, facts | known, bytes=None, version=version)


def is_whole(folder: Path) -> bool:
    """Whether the folder has a model that can be loaded."""
    try:
        load_predictor(folder)
    except ModelError:
        return False
    return True


def serves(folder: Path) -> bool:
    """Whether `load_model` can read the model in the folder. It cannot read rules and functions, which only teach."""
    return json.loads((folder / MODEL_FILE).read_text())["options"]["kind"] not in ("rules", "function")


def _write(folder: Path, stored: dict[str, Tensor], facts: dict[str, Any], **own: Any) -> dict[str, Any]:
    save_file(stored, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    facts = facts | {"bytes": (folder / WEIGHTS).stat().st_size, "sha256": digest, "version": digest[:12]} | own
    written = folder / f"{MODEL_FILE}.part"
    written.write_text(json.dumps(facts, indent=1))
    for path in (folder / WEIGHTS, written):  # on disk first: `model.json` marks the model as complete
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    written.replace(folder / MODEL_FILE)
    return facts


def _stored(folded: dict[str, Tensor], export: Literal["float32", "int8"]) -> dict[str, Tensor]:
    return _as_int8(folded) if export == "int8" else folded


def _as_int8(state: dict[str, Tensor]) -> dict[str, Tensor]:
    stored = {}
    for name, value in state.items():
        if value.is_floating_point() and value.ndim > 1:
            stored[name], stored[name + SCALE] = quantise_rows(value)
        else:
            stored[name] = value
    return stored


def _as_float32(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights from either export."""
    return {
        name: value if (scale := stored.get(name + SCALE)) is None else value.float() * scale[..., None]
        for name, value in stored.items()
        if not name.endswith(SCALE)
    }


def load_model(folder: Path) -> tuple[SequenceModel, dict[str, Any]]:
    """A sequence model in evaluation mode on the CPU, and its metadata.

    Raises:
      ModelError: files are missing or damaged, they do not fit each other, or the model is of another kind.
    """
    model, facts = load_predictor(folder)
    if not isinstance(model, SequenceModel):
        found = "sequential rules" if isinstance(model, SequentialRules) else f"the function {model.function}"
        raise ModelError(f"the model at {folder} must be a sequence model, found {found}. It can only teach")
    return model, facts


def load_predictor(folder: Path) -> tuple[Predictor, dict[str, Any]]:
    """A model of any kind in evaluation mode on the CPU, and its metadata. For errors see `load_model`.

    A function of the user's own is not imported yet.
    """
    try:
        facts = json.loads((folder / MODEL_FILE).read_text())
        raw = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read a model at {folder}: {error}. Train it again with `distilrec distill`") from None
    if (found := hashlib.sha256(raw).hexdigest()) != facts["sha256"]:
        raise ModelError(
            f"the model at {folder} is damaged: {WEIGHTS} should have the hash {facts['sha256'][:12]}…,"
            f" found {found[:12]}…. Train it again with `distilrec distill`"
        )
    try:
        # copies are aligned in memory, parts of a file are not; the last bits of a product depend on that
        weights = {name: value.clone() for name, value in load_file(folder / WEIGHTS).items()}
        if facts["options"]["kind"] == "rules":
            return rules_from_state(weights, facts["options"]), facts
        if facts["options"]["kind"] == "function":
            return function_from_state(weights, facts["options"]), facts
        with torch.device("meta"):
            model = SequenceModel(**facts["options"])
        model.load_state_dict(_as_float32(weights), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"the weights at {folder} do not fit {MODEL_FILE}: {error}. Train the model again with `distilrec distill`"
        ) from None
    return model.requires_grad_(False).eval(), facts
