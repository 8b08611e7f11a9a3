"""Made-up queries in languages that the catalogue is not written in.

The teacher reads many languages, so its vectors are a dictionary: the translation of a word is the word of the other language
with the nearest vector. Two kinds of queries come from it:
- The frequent words of the language.
- Queries made from the catalogue, translated word by word. Some words have no translation and stay: brands, models, units.

A wrong or clumsy translation does little harm. The teacher gives each made-up query the vector of what the query says, and
the student learns this vector.

The words come from the package wordfreq (Speer 2022), which has lists for about 40 languages.

Shapes: W words of the catalogue, O words of the other language, E text-vector width, N nearest words.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdlib.data.queries import normalise_query
from kdlib.errors import ConfigError, extra_hint
from kdlib.search.words import typed_words

PACKAGE = "wordfreq"
FREQUENT_WORDS = 20_000
"""Words of each language that the student learns."""
TRANSLATIONS = 2
"""Words of the other language that a word of the catalogue may become."""
NEIGHBOURS = 10
"""Nearest words whose mean cosine says how crowded the place of a word is."""
LEAST_NEARNESS = 0.25
"""Least nearness of a word to its translation, see `translations`. Below it, most pairs are wrong, and brands have no other."""
WORDS_AT_A_TIME = 1_000
UNSPACED = ("zh", "ja")
"""Languages that are written without blanks between words."""


def check_languages(languages: Sequence[str]) -> None:
    """Check that there is a list of words for each language.

    Args:
      languages: codes as `zh`.

    Raises:
      ConfigError: the package wordfreq is not installed, or it lacks a language.
    """
    if not languages:
        return
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"search.languages: the lists of words are not installed here: install {extra_hint('search-multilingual')}"
        )
    from wordfreq import available_languages

    known = available_languages()
    if missing := [language for language in languages if language not in known]:
        raise ConfigError(
            f"search.languages: there is no list of words for {', '.join(missing)}. Use some of {', '.join(sorted(known))}"
        )


def frequent_words(language: str, *, limit: int = FREQUENT_WORDS) -> list[str]:
    """The most frequent words of a language, as `normalise_query` gives them, without numbers and single letters a–z.

    Args:
      language: from `check_languages`.
      limit: most words.
    """
    from wordfreq import top_n_list

    # a list also has numbers and other forms of the same word
    found = dict.fromkeys(normalise_query(word) for word in top_n_list(language, 2 * limit))
    words = [word for word in found if any(sign.isalpha() for sign in word)]
    return [word for word in words if len(word) > 1 or not word.isascii()][:limit]


def translations(
    words: Sequence[str], vectors_WE: Tensor, others: Sequence[str], others_OE: Tensor
) -> dict[str, list[str]]:
    """Word of the catalogue → the nearest words of the other language, the nearest first. A word without a near word is left out.

    The nearness of two words is twice their cosine, minus the mean cosines of both to their `NEIGHBOURS` nearest words (CSLS,
    Conneau et al. 2018). With the cosine alone, a few words would translate many.

    Args:
      words: of the catalogue.
      vectors_WE: the teacher's vectors of these, float32 [words, E].
      others: of the other language.
      others_OE: the teacher's vectors of these, float32 [other words, E].
    """
    if not words or not others:
        return {}
    # the mean of the vectors says mostly the language
    vectors_WE, others_OE = (F.normalize(found - found.mean(0), dim=-1) for found in (vectors_WE, others_OE))
    crowded_W, crowded_O = _crowded(vectors_WE, others_OE), _crowded(others_OE, vectors_WE)
    found: dict[str, list[str]] = {}
    for start in range(0, len(words), WORDS_AT_A_TIME):
        part = slice(start, start + WORDS_AT_A_TIME)
        near_WO = 2 * vectors_WE[part] @ others_OE.T - crowded_W[part, None] - crowded_O
        best_WN = near_WO.topk(min(TRANSLATIONS, len(others)), dim=1)
        for word, nearness, places in zip(words[part], best_WN.values.tolist(), best_WN.indices.tolist(), strict=True):
            there = [others[int(place)] for near, place in zip(nearness, places, strict=True) if near > LEAST_NEARNESS]
            if there:
                found[word] = there
    return found


def _crowded(vectors_WE: Tensor, others_OE: Tensor) -> Tensor:
    """The mean cosine of each word to its nearest words on the other side, float32 [words]."""
    count = min(NEIGHBOURS, len(others_OE))
    return torch.cat(
        [(part @ others_OE.T).topk(count, dim=1).values.mean(1) for part in vectors_WE.split(WORDS_AT_A_TIME)]
    )


def translated_queries(
    queries: Sequence[str], meanings: Mapping[str, Sequence[str]], *, language: str, limit: int, seed: int
) -> list[str]:
    """Distinct queries, translated word by word, in which at least one word has changed.

    In Chinese and Japanese, half of the queries have no blanks.

    Args:
      queries: made from the catalogue.
      meanings: from `translations`. A word gets one of its translations at random.
      language: the code of the other language.
      limit: most queries.
      seed: of the choice of queries and translations.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, None] = {}
    for place in generator.permutation(len(queries)):
        if len(found) >= limit:
            break
        words = typed_words(queries[int(place)])
        said = [str(generator.choice(meanings[word])) if word in meanings else word for word in words]
        if said != words:
            blank = "" if language in UNSPACED and generator.random() < 0.5 else " "
            found[normalise_query(blank.join(said))] = None
    return list(found)
