"""The student's sub-words: the teacher's that the shop uses, cut out of its tokeniser.

Most of a small encoder's weights are its sub-word table, and of a pretrained vocabulary a catalogue uses a fifth. What is
saved there goes into the width. A word whose piece is left out is read in smaller ones, as the tokeniser does with any word
that it lacks.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models

from kdlib.data.queries import normalise_query

WORD_START = "▁"
"""SentencePiece vocabularies put it before a piece that begins a word."""
BYTE_WORD_START = "Ġ"
"""Byte-level BPE vocabularies write a blank so: it begins a word there."""
PART = "##"
"""WordPiece vocabularies put it before a piece that goes on."""


def known_words(file: Path) -> list[str]:
    """What a vocabulary has in one piece of letters alone, in the order of its pieces: the words that the teacher knows.

    Args:
      file: a Hugging Face `tokenizer.json`.
    """
    whole = Tokenizer.from_file(str(file))
    pieces = whole.get_vocab(with_added_tokens=False)
    known: Iterable[str] = sorted(pieces, key=lambda piece: pieces[piece])
    if any(piece.startswith(WORD_START) for piece in pieces):
        known = (piece.removeprefix(WORD_START) for piece in known if piece.startswith(WORD_START))
    elif isinstance(whole.model, models.BPE) and any(piece.startswith(BYTE_WORD_START) for piece in pieces):
        # its other letters stand for bytes, too
        text = decoders.ByteLevel()
        known = (text.decode([piece]).removeprefix(" ") for piece in known if piece.startswith(BYTE_WORD_START))
    return list(dict.fromkeys(normalise_query(piece) for piece in known if len(piece) > 1 and piece.isalpha()))


def smaller_tokenizer(file: Path, texts: Sequence[str], *, size: int) -> tuple[str, list[int]]:
    """A tokeniser with fewer pieces: special ones, letters and digits, those of the texts by frequency, then in the teacher's
    order. It puts no special piece around a text.

    Args:
      file: a Hugging Face `tokenizer.json`. Of a model other than WordPiece and Unigram all pieces stay, for byte-pair
        merges build on each other.
      texts: what the student will read of.
      size: number of pieces, at least that of the special ones.

    Returns:
      the JSON of the new tokeniser; for each of its pieces, in the order of the new ids, the teacher's id.
    """
    whole, facts = Tokenizer.from_file(str(file)), json.loads(file.read_text())
    model, pieces = facts["model"], whole.get_vocab(with_added_tokens=True)
    # what it puts around each text tells the student nothing, and is half of a short query
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
    """Leave only the pieces with a new id, in every place where a tokeniser's file names one."""
    model = facts["model"]
    if model["type"] == "WordPiece":
        kept = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
        model["vocab"] = dict(sorted(kept.items(), key=lambda one: one[1]))
    else:
        model["vocab"] = [one for old, one in enumerate(model["vocab"]) if old in new]
        model["unk_id"] = new.get(model["unk_id"])
    for token in facts.get("added_tokens", []):
        token["id"] = new[token["id"]]
