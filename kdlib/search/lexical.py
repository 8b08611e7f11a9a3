"""BM25 over the products' texts (Robertson & Zaragoza 2009) with the library bm25s.

The terms of a text are its words, its sizes and model numbers in one spelling (`kdlib.search.sizes`), and its negated words:
"without camera" also has the term "¬camera".

Shapes: V products.
"""

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import bm25s
import numpy as np

from kdlib.search.sizes import UNITS, split_sizes
from kdlib.search.words import MOST_CHARACTERS, mend, replace_words, stems, words

K1, B = 0.8, 0.5
"""Weights of repeated words and of text length. They are below those for web pages (1.2 and 0.75), because product texts
are short and repeat words by chance."""
LEAST_TEXTS = 3
"""A word in fewer texts may itself be a misspelling, so no other word is corrected to it."""
NEGATIONS = {
    "english": ("without", "no"),
    "german": ("ohne", "kein", "keine"),
    "french": ("sans",),
    "spanish": ("sin",),
    "italian": ("senza",),
    "dutch": ("zonder", "geen"),
    "portuguese": ("sem",),
}
"""Words that negate the words after them, by the language of the stemmer."""
NOT = "¬"
_WORDS = "words.json"


class LexicalIndex:
    """BM25 index of the words in the products' texts. Made by `build_lexical`."""

    def __init__(self, index: bm25s.BM25, frequencies: dict[str, int], language: str, num_products: int) -> None:
        self._index, self._frequencies, self._language, self._num_products = index, frequencies, language, num_products
        self._targets = {word: count for word, count in frequencies.items() if count >= LEAST_TEXTS}
        self._negations = NEGATIONS.get(language, ())

    def mended(self, query: str, is_word: Callable[[str], bool]) -> str:
        """The query with misspelt words replaced by words of the catalogue. All other text stays.

        Args:
          query: from `kdlib.data.queries.normalise_query`.
          is_word: whether a word is right although neither the word nor another form of it is in the catalogue.
        """

        def right(word: str) -> str:
            return word if self._is_known(word) or is_word(word) else mend(word, self._targets)

        return replace_words(query, right)

    def _is_known(self, word: str) -> bool:
        return (
            word in self._frequencies
            or word in UNITS
            or stems([word], language=self._language)[0] in self._index.vocab_dict
        )

    def wanted(self, query: str) -> tuple[str, list[str]]:
        """The query without its negated words, and the negated words, one text per negation.

        - "laptop without camera" → "laptop", ["camera"]. A negation goes up to the next negation or the end.
        - "no frost fridge" → "fridge", ["frost"]. A negation at the start is of one word.
        - "no frost" → "no frost", []. Without any other words nothing is negated.

        Args:
          query: from `kdlib.data.queries.normalise_query`.
        """
        if not self._negations:
            return query, []
        before, *negated = (part.strip() for part in re.split(rf"\b(?:{'|'.join(self._negations)})\b", query))
        negated = [part for part in negated if words(part)]
        if not words(before) and negated:
            one, _, before = negated[0].partition(" ")
            negated[0] = one
        return (before, negated) if negated and words(negated[0]) and words(before) else (query, [])

    def scores(self, query: str, allowed_V: np.ndarray | None = None) -> np.ndarray:
        """BM25 of each product, divided by that of the best allowed product: float32 [products].

        All scores are zero if no word of the query is in the catalogue. A product that has all words of a negation has a
        score lower by 1, unless its text negates them too.

        Args:
          query: from `kdlib.data.queries.normalise_query`.
          allowed_V: bool [products]; other products get zero. None: all products are allowed.
        """
        wanted, negated = self.wanted(query)
        absent = [NOT + words(part)[0] for part in negated]
        scores_V = self._bm25([*_terms(wanted, self._negations), *absent])
        if allowed_V is not None:
            scores_V = scores_V * allowed_V
        scores_V = scores_V / max(float(scores_V.max(initial=0.0)), 1e-9)
        for part, term in zip(negated, absent, strict=True):
            holds_V = np.all([self._bm25([word]) > 0 for word in words(part)], axis=0)
            scores_V -= holds_V & (self._bm25([term]) == 0)
        return scores_V

    def _bm25(self, terms: Sequence[str]) -> np.ndarray:
        """BM25 of each product, float32 [products]; zeros if the catalogue has none of the terms."""
        known = [stem for stem in stems(terms, language=self._language) if stem in self._index.vocab_dict]
        if not known:
            return np.zeros(self._num_products, np.float32)
        return np.asarray(self._index.get_scores(known), np.float32)

    def save(self, folder: Path) -> None:
        """Write the index into an empty folder."""
        self._index.save(str(folder), show_progress=False)
        facts = {"language": self._language, "products": self._num_products, "frequencies": self._frequencies}
        (folder / _WORDS).write_text(json.dumps(facts, ensure_ascii=False))


def build_lexical(texts: Sequence[str], *, language: str) -> LexicalIndex:
    """Index the products' texts.

    Args:
      texts: one per product, in the order of the products; a text may be empty.
      language: of the stemmer.
    """
    counts: Counter[str] = Counter()
    stem_numbers = {"\0": 0}  # stands in for a text without words; no query holds this stem
    of_term: dict[str, int] = {}
    documents: list[array[int]] = []  # stem numbers of each text's terms
    for text in texts:
        terms = _terms(text, NEGATIONS.get(language, ()))
        counts.update(set(terms))
        new = [term for term in dict.fromkeys(terms) if term not in of_term]
        for term, stem in zip(new, stems(new, language=language), strict=True):
            of_term[term] = stem_numbers.setdefault(stem, len(stem_numbers))
        documents.append(array("i", [of_term[term] for term in terms] or [0]))
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index((documents, stem_numbers), show_progress=False)
    frequencies = dict(sorted(counts.items()))
    return LexicalIndex(index, frequencies, language, len(texts))


def _terms(text: str, negations: Sequence[str]) -> list[str]:
    """The terms of a text.

    Args:
      text: any.
      negations: words that negate the next word.
    """
    text, sizes = split_sizes(text[:MOST_CHARACTERS])
    found = words(text)
    return [*found, *sizes, *(NOT + second for first, second in pairwise(found) if first in negations)]


def load_lexical(folder: Path) -> LexicalIndex:
    """The index that `LexicalIndex.save` wrote."""
    facts = json.loads((folder / _WORDS).read_text())
    index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False)
    return LexicalIndex(index, facts["frequencies"], facts["language"], facts["products"])
