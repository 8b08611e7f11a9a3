"""BM25 over the products' texts (Robertson & Zaragoza 2009), by the library bm25s.

Shapes: V products.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np

from kdlib.search.words import mend, stems, words

K1, B = 0.8, 0.5
"""Product texts are short and repeat a word by chance: less is made of repeats and of length than for web pages (1.2, 0.75)."""
LEAST_TEXTS = 3
"""A word of fewer texts may be a misspelling itself: none is mended to it."""
_WORDS = "words.json"


class LexicalIndex:
    """Which words stand in which product's text. Made by `build_lexical`, kept as files."""

    def __init__(self, index: bm25s.BM25, frequencies: dict[str, int], language: str, num_products: int) -> None:
        self._index, self._frequencies, self._language, self._num_products = index, frequencies, language, num_products

    def mended(self, query: str, is_word: Callable[[str], bool]) -> str:
        """The query with misspelt words replaced by the catalogue's; a query without any comes back as it is.

        Args:
          query: as typed.
          is_word: tells words that are right although no product has them.
        """
        found = words(query)
        mended = [word if is_word(word) else mend(word, self._frequencies) for word in found]
        return query if mended == found else " ".join(mended)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of each product, float32 [V], divided by the best product's; zeros where no word of the query is known."""
        known = [stem for stem in stems(words(query), language=self._language) if stem in self._index.vocab_dict]
        if not known:
            return np.zeros(self._num_products, np.float32)
        scores_V = np.asarray(self._index.get_scores(known), np.float32)
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
    found = [words(text) for text in texts]
    counts = Counter(word for one in found for word in set(one))
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    # a text without words still needs a place, and a word that no query holds
    index.index([stems(one, language=language) or ["\0"] for one in found], show_progress=False)
    frequencies = {word: count for word, count in sorted(counts.items()) if count >= LEAST_TEXTS}
    return LexicalIndex(index, frequencies, language, len(texts))


def load_lexical(folder: Path) -> LexicalIndex:
    """What `LexicalIndex.save` wrote."""
    facts = json.loads((folder / _WORDS).read_text())
    index = bm25s.BM25.load(str(folder), mmap=True, show_progress=False)
    return LexicalIndex(index, facts["frequencies"], facts["language"], facts["products"])
