"""Words of a text, as the lexical index counts them and as people type them, and the correction of misspelt words."""

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
"""Chinese characters and Hiragana, scripts without a mark between words."""
_KATAKANA, _HANGUL = "\u30a0-\u30ff", "\uac00-\ud7af"
"""Scripts in which people type a run of characters whole, as one word."""
RUN_TOGETHER = _UNSPACED + _KATAKANA
"""Scripts that are written without blanks, as ranges of a regular expression."""
_CJK = _UNSPACED + _KATAKANA + _HANGUL
_IS_MARK = "".join("01"[unicodedata.category(sign) in ("Mn", "Mc")] for sign in map(chr, range(0x20000)))
_MARKS = "".join(f"{chr(run.start())}-{chr(run.end() - 1)}" for run in re.finditer("1+", _IS_MARK))
"""Accents, and the vowel signs of Hindi, Thai and other scripts. They are parts of a word, but Python's `\\w` lacks them."""
_WORD = rf"[^\W_{_CJK}]+(?:[{_MARKS}]+[^\W_{_CJK}]*)*"
_RUNS = re.compile(rf"[{_CJK}]+|{_WORD}")
_TYPED = re.compile(rf"[{_UNSPACED}]+|[{_KATAKANA}]+|[{_HANGUL}]+|{_WORD}")
_PIECES = re.compile(rf"[{_UNSPACED}]|[{_KATAKANA}]+|[{_HANGUL}]+|{_WORD}")
_IS_CJK, _IS_UNSPACED = re.compile(rf"[{_CJK}]"), re.compile(rf"[{_UNSPACED}]")
MOST_CHARACTERS = 20_000
"""Most characters of a text that are read. A page of description is enough to find a product."""
LEAST_LETTERS = 4
"""Shorter words are never corrected."""


def words(text: str) -> list[str]:
    """The words of a text for the lexical index: case-folded runs of letters and digits with accents and vowel signs.

    A run of Chinese, Japanese or Korean gives each character and each pair of neighbours. These scripts may have no spaces,
    and pairs are the usual replacement for words (Manning et al. 2008, section 2.2.1).
    """
    found: list[str] = []
    for run in _RUNS.findall(_folded(text)):
        if _IS_CJK.match(run):
            found += [*run, *_pairs(run)]
        else:
            found.append(run)
    return found


def typed_words(text: str) -> list[str]:
    """The words of a text that people may type alone.

    As `words`, but a run of Katakana or Korean is one word. A run of Chinese characters or Hiragana gives its pairs of
    neighbours, or its only character.
    """
    found: list[str] = []
    for run in _TYPED.findall(_folded(text)):
        found += _pairs(run) if len(run) > 1 and _IS_UNSPACED.match(run) else [run]
    return found


def some_words(text: str, generator: np.random.Generator, *, least: int, most: int) -> str:
    """Random neighbouring words of a text, as someone may type them, with one blank between them. Empty without words.

    In a text with Chinese, Japanese or Korean, the words are cut out of the text as one piece, with the signs between them.
    If most of these words are single Chinese characters or Hiragana, the piece has 2 to 2 · `most` of them. One character
    says about half as much as a word.

    Args:
      text: any.
      generator: draws the number of words, then the first word.
      least, most: number of words; fewer if the text has fewer.
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
    """A random slice of `least` to `most` neighbours out of `count`; fewer if `count` is smaller."""
    if not count:
        return slice(0)
    length = int(generator.integers(min(least, count), min(most, count) + 1))
    start = int(generator.integers(count - length + 1))
    return slice(start, start + length)


def replace_words(text: str, change: Callable[[str], str]) -> str:
    """The text with each run of letters and digits replaced. The text between the runs stays.

    Args:
      text: from `kdlib.data.queries.normalise_query`.
      change: run → its replacement.
    """
    return _RUNS.sub(lambda run: change(run.group()), text)


def _folded(text: str) -> str:
    return folded(text[:MOST_CHARACTERS])


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]


def stems(found: Iterable[str], *, language: str) -> list[str]:
    """The words without their endings, by the Snowball stemmer of a language (`english`, …).

    Raises:
      ConfigError: the language has no stemmer.
    """
    return _stemmer(language).stemWords(list(found))


@lru_cache(maxsize=4)
def _stemmer(language: str) -> Any:
    try:
        return Stemmer.Stemmer(language)
    except KeyError:
        raise ConfigError(
            f"search.language: no stemmer for {language!r}. Use one of {', '.join(sorted(Stemmer.algorithms()))}"
        ) from None


def mend(word: str, frequencies: Mapping[str, int]) -> str:
    """The known word nearest to a misspelt word, or the word itself if no known word is near.

    A known word is near if it differs by one error; a word of eight or more letters may have two. An error is a missing,
    added, wrong or swapped letter (optimal string alignment). The first letter must be right, because it is rarely mistyped.
    Of equally near words the most frequent wins. Known words, words of fewer than `LEAST_LETTERS` letters and words with
    signs other than a–z stay.

    Args:
      word: from `words`.
      frequencies: known word → number of texts that hold it.
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
    """Whether the query is in the half that chooses weights; the other half judges. A query never changes its half."""
    return hashlib.sha256(query.encode()).digest()[-1] % 2 == 0


def teaches(query: str) -> bool:
    """Whether the clicks of the query may adapt an encoder: half of the choosing half. These clicks then choose nothing."""
    return in_first_half(query) and hashlib.sha256(query.encode()).digest()[-2] % 2 == 0
