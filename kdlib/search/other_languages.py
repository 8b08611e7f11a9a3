"""Training queries in languages that the catalogue is not written in, made with bilingual dictionaries.

A query in another language gets the teacher's vector of what it means in the catalogue's language. So the teacher need not
read the other language (Reimers & Gurevych 2020, arXiv 2004.09813, with translated sentences). There are two kinds:
- Words of the dictionary whose meaning consists of the catalogue's words.
- Queries made from the catalogue, translated word by word. Brands, models and units have no translation and stay.

The package wordfreq (Speer 2022) says which of several translations people use.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kdlib.data.queries import normalise_query
from kdlib.errors import ConfigError, extra_hint
from kdlib.search.dictionaries import check_dictionary, read_dictionary
from kdlib.search.words import typed_words

PACKAGE = "wordfreq"
FREQUENT_WORDS = 40_000
"""Words of a language whose frequency is read."""
TRANSLATIONS = 3
"""Words of the other language that a word of the catalogue may become."""
_CODE = re.compile("[a-z]{2}")
_ARTICLE = re.compile(r"^(?:to|an?|the)\s+|\s+(?:sb|sth)$")
"""What an English dictionary writes beside a word."""
UNSPACED = ("zh", "ja")
"""Languages that are written without blanks between words."""


def check_languages(languages: Mapping[str, str]) -> None:
    """Check the codes of the languages, their dictionaries, and the package with the lists of words.

    Args:
      languages: code as `zh` → path of a dictionary.

    Raises:
      ConfigError: a code is wrong, a dictionary is missing, or the package wordfreq is not installed.
    """
    for language, path in languages.items():
        if not _CODE.fullmatch(language):
            raise ConfigError(
                f"search.languages has {language!r}: expected a code of two letters (ISO 639-1), de for German"
            )
        check_dictionary(Path(path))
    if languages and find_spec(PACKAGE) is None:
        raise ConfigError(
            f"search.languages: the lists of words are not installed here: install {extra_hint('search-multilingual')}"
        )


def products_of_words(texts: Sequence[str]) -> dict[str, set[int]]:
    """Word → the places of the texts that have it."""
    found: dict[str, set[int]] = defaultdict(set)
    for place, text in enumerate(texts):
        for word in normalise_query(text).split():
            found[word].add(place)
    return dict(found)


class Meanings:
    """What the words of another language mean in the catalogue's language.

    Args:
      language: a code of `check_languages`. A language that wordfreq lacks has translations in the order of the dictionary.
      dictionary: path of a dictionary between the two languages, in either direction.
      products: from `products_of_words`, of titles and categories.

    Raises:
      ConfigError: there is no dictionary, or no word of it means what the catalogue's words say.
    """

    def __init__(self, language: str, dictionary: str, products: Mapping[str, set[int]]) -> None:
        self._places = products
        pairs = [(word, one) for word, meanings in read_dictionary(Path(dictionary)) for one in meanings]
        plain = [tuple(_ARTICLE.sub("", side) for side in pair) for pair in pairs]
        ours = [[self._is_known(side) for side in pair] for pair in plain]
        left, right = (sum(known[side] for known in ours) for side in (0, 1))
        here = int(right >= left)  # the dictionary's side in the catalogue's language
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for pair, bare, known in zip(pairs, plain, ours, strict=True):
            word, meaning = pair[1 - here], bare[here]
            # several words of the catalogue are an explanation in its language
            explains = known[1 - here] and " " in word
            says = all(any(sign.isalpha() for sign in side) for side in pair)
            if known[here] and word != meaning and says and not explains:
                found[meaning][word] = None
        if not found:
            raise ConfigError(
                f"search.languages.{language}: the dictionary {dictionary} has no word for what the catalogue's words say. Give a"
                f" dictionary between {language} and the catalogue's language"
            )
        rank = _ranks(language)
        self._of_meaning = {
            meaning: sorted(words, key=lambda word: rank.get(word, len(rank))) for meaning, words in found.items()
        }
        """Meaning → the words for it, the most frequent first."""

    def _is_known(self, text: str) -> bool:
        return all(word in self._places for word in text.split())

    def _products(self, text: str) -> int:
        """Number of products with all words of a text."""
        return len(set.intersection(*(self._places[word] for word in text.split())))

    def words(self, *, limit: int) -> dict[str, dict[str, int]]:
        """Word of the language → each meaning with its number of products.

        The words with most products come first. A meaning's second word counts half, its third word a third.

        Args:
          limit: most words.
        """
        found: dict[str, dict[str, int]] = defaultdict(dict)
        value: Counter[str] = Counter()
        for meaning, words in self._of_meaning.items():
            products = self._products(meaning)
            for place, word in enumerate(words if products else ()):
                found[word][meaning] = products
                value[word] = max(value[word], products // (place + 1))
        return {word: found[word] for word, _ in value.most_common(limit)}

    def translations(self) -> dict[str, list[str]]:
        """Word of the catalogue → its translations, at most `TRANSLATIONS`, the most frequent first."""
        return {meaning: words[:TRANSLATIONS] for meaning, words in self._of_meaning.items() if " " not in meaning}


def _ranks(language: str) -> dict[str, int]:
    """Frequent word → its place among the language's words; empty where wordfreq lacks the language."""
    from wordfreq import available_languages, top_n_list

    if language not in available_languages():
        return {}
    words: Iterable[str] = map(normalise_query, top_n_list(language, FREQUENT_WORDS))
    return {word: place for place, word in enumerate(dict.fromkeys(words))}


def translated_queries(
    queries: Sequence[str], meanings: Mapping[str, Sequence[str]], *, language: str, limit: int, seed: int
) -> dict[str, str]:
    """Queries, translated word by word, → what they were made from. At least one word of each has changed.

    In Chinese and Japanese, half of the queries have no blanks.

    Args:
      queries: made from the catalogue.
      meanings: from `Meanings.translations`. A word gets one of its translations at random.
      language: the code of the other language.
      limit: most queries.
      seed: of the choice of queries and translations.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, str] = {}
    for place in generator.permutation(len(queries)):
        if len(found) >= limit:
            break
        query = queries[int(place)]
        words = typed_words(query)
        said = [str(generator.choice(meanings[word])) if word in meanings else word for word in words]
        if said != words:
            blank = "" if language in UNSPACED and generator.random() < 0.5 else " "
            found.setdefault(normalise_query(blank.join(said)), query)
    return found
