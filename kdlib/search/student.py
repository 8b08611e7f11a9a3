"""The student of product search: a small query encoder that gives vectors in the teacher's vector space.

The teacher computes the products' vectors in the nightly run. The student learns to give a query the same vector as the
teacher does, so a search needs no large model.

Shapes: Q queries, L tokens of the longest query, T tokens of all queries without padding, D width, E text-vector width.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from kdlib.data.queries import normalise_query
from kdlib.errors import ModelError
from kdlib.search.tokenizer import TOKENIZER, WORD_START

WEIGHTS, STUDENT_FILE, WORDS = "model.safetensors", "model.json", "words.txt"
MAX_TOKENS = 32
"""Longer queries are cut."""


class QueryEncoder(nn.Module):
    """Sub-word embeddings, one Transformer block or LSTM, the mean over the tokens, and a map to the teacher's width.

    Args:
      vocabulary: number of sub-words.
      width: D, of the embeddings and the layer.
      out: E.
      kind: `transformer`, or `lstm` (bidirectional).
    """

    def __init__(
        self, *, vocabulary: int, width: int, out: int, kind: Literal["transformer", "lstm"] = "transformer"
    ) -> None:
        super().__init__()
        self.options = {"vocabulary": vocabulary, "width": width, "out": out, "kind": kind}
        self.tokens = nn.Embedding(vocabulary, width)
        if kind == "transformer":
            self.places = nn.Embedding(MAX_TOKENS, width)
            nn.init.normal_(self.places.weight, std=0.02)
            self.layer: nn.Module = nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
        else:
            self.layer = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.projection = nn.Linear(width, out, bias=False)
        # a linear map alone could reach only `width` directions of the teacher's space
        last = nn.Linear(3 * width, out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.bend = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), last)

    @torch.no_grad()
    def start_from(self, teacher_embeddings: Tensor) -> None:
        """Start from the teacher's sub-word embeddings, reduced to the `width` directions with the most variance.

        The new student then gives about the mean of the teacher's embeddings of the query's sub-words.

        Args:
          teacher_embeddings: float [vocabulary, E].
        """
        width = min(self.options["width"], *teacher_embeddings.shape)  # a tiny shop may have fewer sub-words
        _, _, directions = torch.pca_lowrank(teacher_embeddings, q=width, center=False, niter=4)
        low = teacher_embeddings @ directions
        scale = low.std().clamp_min(1e-6)
        self.tokens.weight.zero_()[:, :width] = low / scale
        self.projection.weight[:, :width] = directions * scale

    def forward(self, tokens_QL: Tensor, lengths_Q: Tensor) -> Tensor:
        """Unit vectors of queries, float32 [queries, E].

        Args:
          tokens_QL: sub-words int64 [queries, tokens], padded with any value.
          lengths_Q: number of sub-words of each query, at least 1, int64 [queries].
        """
        count, longest = tokens_QL.shape
        there_QL, where_T = None, None
        if int(lengths_Q.sum()) < count * longest:
            there_QL = torch.arange(longest, device=tokens_QL.device) < lengths_Q[:, None]
            where_T = there_QL.flatten().nonzero()[:, 0]  # places of the tokens that are not padding
        x_TD = self.tokens(_at(tokens_QL.flatten(), where_T))
        if isinstance(self.layer, nn.LSTM):
            x_QLD = _padded(x_TD, where_T, count, longest)
            packed = nn.utils.rnn.pack_padded_sequence(x_QLD, lengths_Q.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)
            x_TD = x_TD + _at(states.flatten(0, 1), where_T)
        else:
            places_LD = self.places.weight[:longest]
            x_TD = x_TD + _at(places_LD.repeat(count, 1), where_T)
            x_TD = _ragged_block(self.layer, x_TD, where_T, there_QL, (count, longest))
        mean_QD = _padded(x_TD, where_T, count, longest).sum(1) / lengths_Q[:, None]
        return F.normalize((self.projection(mean_QD) + self.bend(mean_QD)).float(), dim=-1)


def _at(x: Tensor, where_T: Tensor | None) -> Tensor:
    """The rows of x at the places; None: all rows, because no token is padding, as in a single query."""
    return x if where_T is None else x[where_T]


def _padded(x_TD: Tensor, where_T: Tensor | None, count: int, longest: int) -> Tensor:
    """The tokens x_TD at their places, zeros at the padding: [queries, tokens, D]."""
    if where_T is not None:
        x_TD = x_TD.new_zeros(count * longest, x_TD.shape[1]).index_copy_(0, where_T, x_TD)
    return x_TD.view(count, longest, -1)


def _ragged_block(
    layer: Any, x_TD: Tensor, where_T: Tensor | None, there_QL: Tensor | None, shape: tuple[int, int]
) -> Tensor:
    """The output of a pre-norm `nn.TransformerEncoderLayer` without dropout, at tokens that are not padding: [T, D].

    Only the attention is computed with padding. This saves time, because half of a batch of queries is padding.
    """
    count, longest = shape
    attention, width = layer.self_attn, x_TD.shape[1]
    mixed_T = F.linear(layer.norm1(x_TD), attention.in_proj_weight, attention.in_proj_bias)
    heads = _padded(mixed_T, where_T, count, longest).view(count, longest, 3, attention.num_heads, -1)
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    mask = None if there_QL is None else there_QL[:, None, None, :]
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    x_TD = x_TD + attention.out_proj(_at(seen.transpose(1, 2).reshape(-1, width), where_T))
    return x_TD + layer.linear2(F.gelu(layer.linear1(layer.norm2(x_TD))))


class QueryTokens:
    """Queries → padded sub-words.

    Args:
      tokenizer: the text of a Hugging Face `tokenizer.json`, from `kdlib.search.tokenizer.smaller_tokenizer`.
      words: words that the teacher knows.
    """

    def __init__(self, tokenizer: str, words: Iterable[str] = ()) -> None:
        self._tokenizer, self._words = Tokenizer.from_str(tokenizer), frozenset(words)
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def __call__(self, queries: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sub-words int64 [queries, tokens] and lengths int64 [queries]; see `ids`. Needs at least one query."""
        found = self.ids(queries)
        lengths = [len(ids) for ids in found]
        longest = max(lengths)
        padded = [ids + [0] * (longest - length) for ids, length in zip(found, lengths, strict=True)]
        return torch.tensor(padded), torch.tensor(lengths)

    def ids(self, queries: Sequence[str]) -> list[list[int]]:
        """The sub-words of each query, at most `MAX_TOKENS`. A query without any sub-word gets the sub-word 0."""
        found = self._tokenizer.encode_batch_fast([normalise_query(query) for query in queries])
        return [one.ids or [0] for one in found]

    @property
    def size(self) -> int:
        """Number of sub-words in the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def is_word(self, word: str) -> bool:
        """Whether the teacher knows the word. A known word is not a misspelling."""
        return word in self._words

    def unknown_share(self, query: str) -> float:
        """Share of a query's sub-words that the vocabulary lacks, without special sub-words and marks of a word's start."""
        found = self._tokenizer.encode(normalise_query(query), add_special_tokens=False).tokens
        pieces = [piece for piece in found if piece != WORD_START]
        return sum(piece in ("[UNK]", "<unk>") for piece in pieces) / max(len(pieces), 1)


@torch.inference_mode()
def encode_queries(
    model: QueryEncoder, tokens: QueryTokens, queries: Sequence[str], *, batch_size: int = 256
) -> Tensor:
    """Unit vectors of at least one query, float32 [queries, E]."""
    parts = [model(*tokens(queries[start : start + batch_size])) for start in range(0, len(queries), batch_size)]
    return torch.cat(parts)


def save_student(
    folder: Path,
    options: dict[str, Any],
    weights: dict[str, Tensor],
    tokenizer: str,
    words: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write a student: weights, tokenizer, words and metadata.

    Args:
      folder: an existing folder.
      options: of `QueryEncoder`.
      weights: float32 state of the encoder.
      tokenizer: text of a `tokenizer.json`.
      words: words that the teacher knows.
      facts: metadata for `model.json`, JSON-ready. The version, number of parameters and bytes are added.
    """
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    raw = (folder / WEIGHTS).read_bytes()
    (folder / TOKENIZER).write_text(tokenizer)
    (folder / WORDS).write_text("\n".join(words))
    own = {
        "options": options,
        "version": hashlib.sha256(raw).hexdigest()[:12],
        "parameters": sum(value.numel() for value in weights.values()),
        "bytes": len(raw),
    }
    (folder / STUDENT_FILE).write_text(json.dumps({**facts, **own}, indent=1))


def load_student(folder: Path) -> tuple[QueryEncoder, QueryTokens, dict[str, Any]]:
    """Model in evaluation mode, tokens and metadata.

    Raises:
      ModelError: the student is damaged or incomplete.
    """
    try:
        facts = json.loads((folder / STUDENT_FILE).read_text())
        raw_version = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]
        if raw_version != facts["version"]:
            raise ValueError(f"the weights have version {raw_version}, expected {facts['version']}")
        model = QueryEncoder(**facts["options"])
        model.load_state_dict(load_file(folder / WEIGHTS))
        tokens = QueryTokens((folder / TOKENIZER).read_text(), (folder / WORDS).read_text().splitlines())
    except Exception as error:  # the tokenizer's library raises plain `Exception`
        raise ModelError(
            f"the search student in {folder} is damaged or incomplete: {error}. Run `distilrec train-search` for this date again"
        ) from None
    return model.eval(), tokens, facts
