"""A model as files: `model.safetensors` with the weights, `model.json` with its shape and provenance. Never a pickle."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdlib.errors import ModelError
from kdlib.models.sequence import SequenceModel

WEIGHTS = "model.safetensors"
FACTS = "model.json"


def foldable(model: SequenceModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the text tower folded into the item table, so that the text encoder is not needed to serve."""
    state = {name: value.detach().float().cpu().contiguous() for name, value in state.items()}
    projection = state.pop("text_projection.weight", None)
    if projection is not None:
        text_VE = model.get_buffer("text_vectors_VE").float().cpu()
        state["item_embedding"] = state["item_embedding"] + text_VE @ projection.T
    return state


def save_model(folder: Path, model: SequenceModel, state: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
    """Write the model; return what stands in `model.json`: `facts` plus options, version and sizes.

    Args:
      folder: an existing folder.
      model: for its options (and its text vectors).
      state: full weights, for instance gathered from a ZeRO engine.
      facts: provenance: vocabulary hash and version, metrics, seed.
    """
    folded = foldable(model, state)
    save_file(folded, folder / WEIGHTS)
    item_tables = {"item_embedding", "output_embedding", "output_bias"}
    facts = {
        **facts,
        "options": model.options,
        "num_items": model.num_items,
        "parameters": sum(value.numel() for value in folded.values()),
        "parameters_without_item_tables": sum(v.numel() for name, v in folded.items() if name not in item_tables),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }
    facts["version"] = facts["sha256"][:12]
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    return facts


def load_model(folder: Path) -> tuple[SequenceModel, dict[str, Any]]:
    """The model in evaluation mode on the CPU, and its facts.

    Raises:
      ModelError: files missing, damaged, or not of each other.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        raw = (folder / WEIGHTS).read_bytes()
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"no usable model at {folder}: {error}. Train it again with `distilrec distill`") from None
    if (found := hashlib.sha256(raw).hexdigest()) != facts["sha256"]:
        raise ModelError(
            f"the model at {folder} is damaged: {WEIGHTS} should have the hash {facts['sha256'][:12]}…, found {found[:12]}…. Train it again"
        )
    with torch.device("meta"):
        model = SequenceModel(**facts["options"])
    try:
        # copies, because PyTorch's memory is aligned and a file's is not: the last bits of a product depend on that
        weights = {name: value.clone() for name, value in load_file(folder / WEIGHTS).items()}
        model.load_state_dict(weights, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"the model at {folder} does not fit its {FACTS}: {error}") from None
    return model.requires_grad_(False).eval(), facts
