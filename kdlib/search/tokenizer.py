"""The student's tokenizer: the teacher's tokenizer with only the pieces that the shop uses.

Most weights of a small encoder are its table of sub-words, and a catalogue uses about a fifth of a pretrained vocabulary.
A smaller table leaves more weights for the width. The tokenizer splits a word without its own piece into smaller pieces, as
it does with every unknown word.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from kdlib.data.queries import normalise_query

WORD_START = "▁"
"""Mark of a piece that begins a word, in SentencePiece vocabularies."""
BYTE_WORD_START = "Ġ"
"""Mark of a piece that begins a word, in byte-level BPE vocabularies: their sign for a blank."""
PART = "##"
"""Mark of a piece that continues a word, in WordPiece vocabularies."""


def known_words(file: Path) -> list[str]:
    """The words that the teacher knows: whole words of at least two letters in one piece, in the order of the pieces.

    Args:
      file: a Hugging Face `tokenizer.json`.
    """
    whole = Tokenizer.from_file(str(file))
    pieces = whole.get_vocab(with_added_tokens=False)
    known: Iterable[str] = sorted(pieces, key=lambda piece: pieces[piece])
    if any(piece.startswith(WORD_START) for piece in pieces):
        known = (piece.removeprefix(WORD_START) for piece in known if piece.startswith(WORD_START))
    elif isinstance(whole.model, models.BPE) and any(piece.startswith(BYTE_WORD_START) for piece in pieces):
        # other letters of a piece stand for bytes too
        text = decoders.ByteLevel()
        known = (text.decode([piece]).removeprefix(" ") for piece in known if piece.startswith(BYTE_WORD_START))
    return list(dict.fromkeys(normalise_query(piece) for piece in known if len(piece) > 1 and piece.isalpha()))


def smaller_tokenizer(file: Path, texts: Sequence[str], *, size: int) -> tuple[str, list[int]]:
    """A tokenizer with fewer pieces, which adds no special pieces around a text.

    It keeps pieces in this order, up to `size`: special pieces, single ASCII letters and digits, pieces of the texts by
    frequency, other pieces in the teacher's order.

    Args:
      file: a Hugging Face `tokenizer.json`. Models other than WordPiece and Unigram keep all pieces, because byte-pair
        merges build on each other.
      texts: examples of the texts that the student will read.
      size: number of pieces to keep, at least the number of special pieces.

    Returns:
      The JSON of the new tokenizer, and the teacher's id of each of its pieces, in the order of the new ids.
    """
    whole, facts = Tokenizer.from_file(str(file)), json.loads(file.read_text())
    model, pieces = facts["model"], whole.get_vocab(with_added_tokens=True)
    # special pieces around a text tell the student nothing, and would be half of a short query
    facts["post_processor"] = None
    if model["type"] not in ("WordPiece", "Unigram") or len(pieces) <= size:
        return json.dumps(facts, ensure_ascii=False), list(range(max(pieces.values()) + 1))
    whole.no_truncation()
    whole.no_padding()
    counts: Counter[int] = Counter()
    for found in whole.encode_batch([normalise_query(text) for text in texts], add_special_tokens=False):
        counts.update(found.ids)
    unknown = model["unk_id"] if model["type"] == "Unigram" else pieces.get(model["unk_token"])
    special: set[int] = {one["id"] for one in facts.get("added_tokens", [])} | (
        {unknown} if unknown is not None else set()
    )
    letters = [number for piece, number in pieces.items() if len(bare := _bare(piece)) == 1 and bare.isascii()]
    in_order = [
        *sorted(special),
        *sorted(letters),
        *(number for number, _ in counts.most_common()),
        *sorted(pieces.values()),
    ]
    kept = sorted(list(dict.fromkeys(in_order))[:size])
    _renumber(facts, {old: new for new, old in enumerate(kept)})
    return json.dumps(facts, ensure_ascii=False), kept


def _bare(piece: str) -> str:
    return piece.removeprefix(PART).removeprefix(WORD_START)


def _renumber(facts: dict[str, Any], new: dict[int, int]) -> None:
    """Keep only the pieces with a new id, wherever the tokenizer's JSON names pieces. Changes `facts` in place."""
    model = facts["model"]
    if model["type"] == "WordPiece":
        kept = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
        model["vocab"] = dict(sorted(kept.items(), key=lambda one: one[1]))
    else:
        model["vocab"] = [one for old, one in enumerate(model["vocab"]) if old in new]
        model["unk_id"] = new.get(model["unk_id"])
    for token in facts.get("added_tokens", []):
        token["id"] = new[token["id"]]
