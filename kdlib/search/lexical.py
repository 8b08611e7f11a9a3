"""BM25 over the products' texts (Robertson & Zaragoza 2009), by the library bm25s.

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
"""Product texts are short and repeat a word by chance: less is made of repeats and of length than for web pages (1.2, 0.75)."""
LEAST_TEXTS = 3
"""A word of fewer texts may be a misspelling itself: it is left alone, but none is mended to it."""
_WORDS = "words.json"


class LexicalIndex:
    """Which words stand in which product's text. Made by `build_lexical`, kept as files."""

    def __init__(self, index: bm25s.BM25, frequencies: dict[str, int], language: str, num_products: int) -> None:
        self._index, self._frequencies, self._language, self._num_products = index, frequencies, language, num_products
        self._targets = {word: count for word, count in frequencies.items() if count >= LEAST_TEXTS}

    def mended(self, query: str, is_word: Callable[[str], bool]) -> str:
        """The query with misspelt words replaced by the catalogue's, all else as it is.

        Args:
          query: from `kdlib.data.queries.normalise_query`.
          is_word: tells words that are right although no product has them, nor another form of them.
        """

        def right(word: str) -> str:
            return word if self._is_known(word) or is_word(word) else mend(word, self._targets)

        return replace_words(query, right)

    def _is_known(self, word: str) -> bool:
        return word in self._frequencies or stems([word], language=self._language)[0] in self._index.vocab_dict

    def scores(self, query: str, allowed_V: np.ndarray | None = None) -> np.ndarray:
        """BM25 of each product, float32 [V], divided by the best product's; zeros where no word of the query is known.

        Args:
          query: from `kdlib.data.queries.normalise_query`.
          allowed_V: bool [V]; the others get zero, and none of them is the best.
        """
        known = [stem for stem in stems(words(query), language=self._language) if stem in self._index.vocab_dict]
        if not known:
            return np.zeros(self._num_products, np.float32)
        scores_V = np.asarray(self._index.get_scores(known), np.float32)
        if allowed_V is not None:
            scores_V = scores_V * allowed_V
        return scores_V / max(float(scores_V.max()), 1e-9)

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        self._index.save(str(folder), show_progress=False)
        facts = {"language": self._language, "products": self._num_products, "frequencies": self._frequencies}
        (folder / _WORDS).write_text(json.dumps(facts, ensure_ascii=False))


def build_lexical(texts: Sequence[str], *, language: str) -> LexicalIndex:
    """Index the products' texts, in the order of the products.

    Args:
      texts: may be empty ones.
      language: of the stemmer.
    """
    counts: Counter[str] = Counter()
    stem_numbers = {"\0": 0}  # a text without words still needs a place, and a word that no query holds
    of_word: dict[str, int] = {}
    documents: list[array[int]] = []  # of the texts' words the numbers of their stems
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
    """What `LexicalIndex.save` wrote."""
    facts = json.loads((folder / _WORDS).read_text())
    index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False)
    return LexicalIndex(index, facts["frequencies"], facts["language"], facts["products"])
