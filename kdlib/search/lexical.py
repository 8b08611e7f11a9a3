"""BM25 over the products' texts (Robertson & Zaragoza 2009) with the library bm25s.

Shapes: V products.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np

from kdlib.search.words import mend, replace_words, stems, words

K1, B = 0.8, 0.5
"""Weights of repeated words and of text length. They are below those for web pages (1.2 and 0.75), because product texts
are short and repeat words by chance."""
LEAST_TEXTS = 3
"""A word in fewer texts may itself be a misspelling, so no other word is corrected to it."""
_WORDS = "words.json"


class LexicalIndex:
    """BM25 index of the words in the products' texts. Made by `build_lexical`."""

    def __init__(self, index: bm25s.BM25, frequencies: dict[str, int], language: str, num_products: int) -> None:
        self._index, self._frequencies, self._language, self._num_products = index, frequencies, language, num_products
        self._targets = {word: count for word, count in frequencies.items() if count >= LEAST_TEXTS}

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
        return word in self._frequencies or stems([word], language=self._language)[0] in self._index.vocab_dict

    def scores(self, query: str, allowed_V: np.ndarray | None = None) -> np.ndarray:
        """BM25 of each product, divided by that of the best allowed product: float32 [products].

        All scores are zero if no word of the query is in the catalogue.

        Args:
          query: from `kdlib.data.queries.normalise_query`.
          allowed_V: bool [products]; other products get zero. None: all products are allowed.
        """
        known = [stem for stem in stems(words(query), language=self._language) if stem in self._index.vocab_dict]
        if not known:
            return np.zeros(self._num_products, np.float32)
        scores_V = np.asarray(self._index.get_scores(known), np.float32)
        if allowed_V is not None:
            scores_V = scores_V * allowed_V
        return scores_V / max(float(scores_V.max()), 1e-9)

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
    of_word: dict[str, int] = {}
    documents: list[array[int]] = []  # stem numbers of each text's words
    for text in texts:
        found = words(text)
        counts.update(set(found))
        new = [word for word in dict.fromkeys(found) if word not in of_word]
        for word, stem in zip(new, stems(new, language=language), strict=True):
            of_word[word] = stem_numbers.setdefault(stem, len(stem_numbers))
        documents.append(array("i", [of_word[word] for word in found] or [0]))
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index((documents, stem_numbers), show_progress=False)
    frequencies = dict(sorted(counts.items()))
    return LexicalIndex(index, frequencies, language, len(texts))


def load_lexical(folder: Path) -> LexicalIndex:
    """The index that `LexicalIndex.save` wrote."""
    facts = json.loads((folder / _WORDS).read_text())
    index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False)
    return LexicalIndex(index, facts["frequencies"], facts["language"], facts["products"])
