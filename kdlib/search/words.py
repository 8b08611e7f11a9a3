"""Words of a text, as the lexical index counts them, and the mending of misspelt ones."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import Stemmer
from rapidfuzz.distance import OSA

from kdlib.errors import ConfigError

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
"""Scripts that are written without spaces between words."""
_RUNS = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_IS_CJK = re.compile(rf"[{_CJK}]")
MOST_CHARACTERS = 20_000
"""Of a text that are read: a page of description is enough to find a product by."""
LEAST_LETTERS = 4
"""Shorter words are never taken for misspelt ones."""


def words(text: str) -> list[str]:
    """Runs of letters and digits, case-folded; of a run of Chinese, Japanese or Korean each character and each pair of neighbours.

    Such a run has no spaces to split it by; its pairs are the usual stand-in for words (Manning et al. 2008, section 2.2.1).
    """
    found: list[str] = []
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text[:MOST_CHARACTERS]).casefold()):
        if _IS_CJK.match(run):
            found += [*run, *(run[place : place + 2] for place in range(len(run) - 1))]
        else:
            found.append(run)
    return found


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
