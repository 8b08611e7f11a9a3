"""Words of a text, as the lexical index counts them and as people type them, and the mending of misspelt ones."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import Stemmer
from rapidfuzz.distance import OSA

from kdlib.data.queries import folded, normalise_query
from kdlib.errors import ConfigError

_UNSPACED = "\u3040-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Chinese characters and Hiragana: nothing shows where a word ends."""
_KATAKANA, _HANGUL = "\u30a0-\u30ff", "\uac00-\ud7af"
"""Runs of these are words that people type whole, though other words may hold them."""
_CJK = _UNSPACED + _KATAKANA + _HANGUL
_IS_MARK = "".join("01"[unicodedata.category(sign) in ("Mn", "Mc")] for sign in map(chr, range(0x20000)))
_MARKS = "".join(f"{chr(run.start())}-{chr(run.end() - 1)}" for run in re.finditer("1+", _IS_MARK))
"""Accents, and the vowel signs of Hindi, Thai and others: a word goes on with them, though Python's `\\w` has none of them."""
_WORD = rf"[^\W_{_CJK}]+(?:[{_MARKS}]+[^\W_{_CJK}]*)*"
_RUNS = re.compile(rf"[{_CJK}]+|{_WORD}")
_TYPED = re.compile(rf"[{_UNSPACED}]+|[{_KATAKANA}]+|[{_HANGUL}]+|{_WORD}")
_PIECES = re.compile(rf"[{_UNSPACED}]|[{_KATAKANA}]+|[{_HANGUL}]+|{_WORD}")
_IS_CJK, _IS_UNSPACED = re.compile(rf"[{_CJK}]"), re.compile(rf"[{_UNSPACED}]")
MOST_CHARACTERS = 20_000
"""Of a text that are read: a page of description is enough to find a product by."""
LEAST_LETTERS = 4
"""Shorter words are never taken for misspelt ones."""


def words(text: str) -> list[str]:
    """Runs of letters and digits, accents and vowel signs included, case-folded; of a run of Chinese, Japanese or Korean each
    character and each pair of neighbours.

    Such a run has no spaces to split it by; its pairs are the usual stand-in for words (Manning et al. 2008, section 2.2.1).
    """
    found: list[str] = []
    for run in _RUNS.findall(_folded(text)):
        if _IS_CJK.match(run):
            found += [*run, *_pairs(run)]
        else:
            found.append(run)
    return found


def typed_words(text: str) -> list[str]:
    """The words of a text that people may type alone: as `words`, but runs of Katakana or Korean whole, and of Chinese
    characters or Hiragana the pairs of neighbours, or the one that has no neighbour."""
    found: list[str] = []
    for run in _TYPED.findall(_folded(text)):
        found += _pairs(run) if len(run) > 1 and _IS_UNSPACED.match(run) else [run]
    return found


def some_words(text: str, generator: np.random.Generator, *, least: int, most: int) -> str:
    """Neighbouring words of a text, as someone may type them; empty where the text has none.

    They are joined by one blank. Of a text with Chinese, Japanese or Korean in it they are one piece, signs between them
    included; where most of its words are Chinese characters or Hiragana, which say half as much each, two to twice `most`.

    Args:
      text: any.
      generator: draws how many words, then the first one.
      least, most: how many; fewer where the text has fewer.
    """
    text = _folded(text)
    if not _IS_CJK.search(text):
        found = _RUNS.findall(text)
        return " ".join(found[_part(len(found), generator, least, most)])
    places = [piece.span() for piece in _PIECES.finditer(text)]
    if 2 * len(_IS_UNSPACED.findall(text)) > len(places):
        least, most = 2, 2 * most
    chosen = places[_part(len(places), generator, least, most)]
    return normalise_query(text[chosen[0][0] : chosen[-1][1]])


def _part(count: int, generator: np.random.Generator, least: int, most: int) -> slice:
    """`least` to `most` neighbours of `count`, as far as there are so many."""
    if not count:
        return slice(0)
    length = int(generator.integers(min(least, count), min(most, count) + 1))
    start = int(generator.integers(count - length + 1))
    return slice(start, start + length)


def replace_words(text: str, change: Callable[[str], str]) -> str:
    """The text with each run of letters and digits changed, and all that stands between them as it was.

    Args:
      text: from `kdlib.data.queries.normalise_query`.
      change: the run → what stands in its place.
    """
    return _RUNS.sub(lambda run: change(run.group()), text)


def _folded(text: str) -> str:
    return folded(text[:MOST_CHARACTERS])


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]


def stems(found: Iterable[str], *, language: str) -> list[str]:
    """The words without their endings, by the Snowball stemmer of a language (`english`, …).

    Raises:
      ConfigError: there is no stemmer of that language.
    """
    return _stemmer(language).stemWords(list(found))


@lru_cache(maxsize=4)
def _stemmer(language: str) -> Any:
    try:
        return Stemmer.Stemmer(language)
    except KeyError:
        raise ConfigError(
            f"search.language: no stemmer of {language!r}; there are {', '.join(sorted(Stemmer.algorithms()))}"
        ) from None


def mend(word: str, frequencies: Mapping[str, int]) -> str:
    """A known word for an unknown one that is one letter (two from eight letters on) away from it, else the word itself.

    Letters may be missing, added, wrong, or swapped with their neighbour (optimal string alignment), but the first one, which
    is rarely mistyped. Of several words the nearest wins, then the most frequent. Words with a digit, short ones and those
    of other scripts stay as they are.

    Args:
      word: from `words`.
      frequencies: known word → how many texts hold it.
    """
    if word in frequencies or len(word) < LEAST_LETTERS or not (word.isascii() and word.isalpha()):
        return word
    most = 1 if len(word) < 8 else 2
    best: tuple[int, int, str] | None = None
    for known, frequency in frequencies.items():
        if known[0] != word[0] or abs(len(known) - len(word)) > most or not known.isalpha():
            continue
        distance = OSA.distance(word, known, score_cutoff=most)
        if distance <= most and (best is None or (distance, -frequency, known) < best):
            best = (distance, -frequency, known)
    return best[2] if best else word


def in_first_half(query: str) -> bool:
    """Which half of all queries this one is in, the same for ever: one half chooses, the other one judges."""
    return hashlib.sha256(query.encode()).digest()[-1] % 2 == 0


def teaches(query: str) -> bool:
    """Half of the choosing half: the clicks after it may adapt an encoder, and then choose nothing."""
    return in_first_half(query) and hashlib.sha256(query.encode()).digest()[-2] % 2 == 0
