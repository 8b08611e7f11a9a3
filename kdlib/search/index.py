"""The published search index: a folder with the products, their vectors, clusters and words, and the weights of a score.

    catalogue/products.parquet   item_id, title, category, available, in the order of the vectors
    vectors.safetensors          vectors float16 [V, E], clusters int64 [R, V]
    lexical/                     files of kdlib.search.lexical
    index.json                   weights, versions

Shapes: Q queries, V products, E text-vector width, R clusterings.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from kdlib.data.queries import normalise_query
from kdlib.errors import InputError, ModelError
from kdlib.search.fusion import Weights, cluster, fuse, intent, top_products
from kdlib.search.lexical import LexicalIndex, build_lexical, load_lexical
from kdlib.search.student import QueryEncoder, QueryTokens, encode_queries, load_student
from kdlib.search.words import words

PRODUCTS, VECTORS, LEXICAL, INDEX_FILE = "catalogue/products.parquet", "vectors.safetensors", "lexical", "index.json"
MOSTLY_UNKNOWN = 0.5
"""Share of unknown sub-words from which a query without a word of the catalogue is not understood."""
RERANKED, RECENT_ITEMS = 100, 20
"""A history ranks this many first products again, and this many of its last items count."""
SCORES_AT_A_TIME = 1 << 24
"""Scores (queries × products) held at a time."""


@dataclass(frozen=True)
class Answer:
    """The result of one search."""

    query: str
    """The query after normalisation and correction of misspelt words."""
    places: np.ndarray
    """Product indices, int64, best first; empty if the query is not understood."""
    scores: np.ndarray
    """Scores of these products, float32."""
    note: str
    """A message for the person who searches; empty if nothing is unusual."""


def product_texts(products: pa.Table) -> list[str]:
    """The text of each product that is indexed and encoded: category, title and description, without missing parts."""
    rows = zip(*(products[name].to_pylist() for name in ("category", "title", "description")), strict=True)
    return [" ".join(part for part in row if part) for row in rows]


class SearchIndex:
    """Answers queries without the teacher.

    Args:
      products: item_id, title, category (may be null), available.
      vectors_VE: the teacher's unit vectors, in the order of the products.
      clusters_RV: int64, from `kdlib.search.fusion.cluster`.
      lexical: index of the products' texts.
      weights: of the parts of a score.
      student: model and tokens, from `kdlib.search.student.load_student`.
      history_weight: weight of a product's cosine to a history.
    """

    def __init__(
        self,
        products: pa.Table,
        vectors_VE: Tensor,
        clusters_RV: Tensor,
        lexical: LexicalIndex,
        weights: Weights,
        student: tuple[QueryEncoder, QueryTokens],
        history_weight: float = 0.0,
    ) -> None:
        self.products, self._vectors_VE, self._clusters_RV = products, vectors_VE.float(), clusters_RV
        self._lexical, self.weights, (self._model, self._tokens) = lexical, weights, student
        self._available_V, self._history_weight = products["available"].to_numpy(), history_weight

    def leave_out(self, item_ids: Iterable[str]) -> None:
        """From now on no answer holds these items. A call replaces the items of the call before."""
        found = pc.call_function(
            "is_in", [self.products["item_id"]], pc.SetLookupOptions(pa.array(item_ids, pa.string()))
        )
        self._available_V = self.products["available"].to_numpy() & ~found.to_numpy()

    def answer(
        self,
        queries: Sequence[str],
        *,
        k: int,
        category: str | None = None,
        weights: Weights | None = None,
        history: Sequence[str] = (),
    ) -> list[Answer]:
        """The k best available products of each query. Every query gets an `Answer`, even an empty text.

        Args:
          queries: any texts.
          k: most products per query.
          category: answer only with products of this category.
          weights: use these in place of the index's own weights.
          history: items that the person who asks has viewed, oldest first. The first `RERANKED` products are ranked again:
            a product scores higher if it is like these items. Unknown items do not count.

        Raises:
          InputError: no product has the category.
        """
        typed = [normalise_query(query) for query in queries]
        understood = [self._lexical.mended(query, self._tokens.is_word) for query in typed]
        allowed_V = self._available_V
        if category is not None:
            there_V = np.array([one == category for one in self.products["category"].to_pylist()])
            if not there_V.any():
                raise InputError(f"no product has the category {category!r}. Use a category of the catalogue, or none")
            allowed_V = allowed_V & there_V
        if not allowed_V.any():
            places, scores, note = np.zeros(0, np.int64), np.zeros(0, np.float32), "none of the products is available"
            return [Answer(query, places, scores, note) for query in typed]
        liked_V = self._liked(history)
        most = k if liked_V is None else max(k, RERANKED)
        found: list[Answer] = []
        size = max(1, SCORES_AT_A_TIME // max(len(self.products), 1))
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            lexical_QV, scores_QV = self.scores(understood[part], weights=weights, allowed_V=allowed_V)
            for query, original, lexical_V, scores_V in zip(
                understood[part], typed[part], lexical_QV, scores_QV, strict=True
            ):
                note, is_understood = self._note(query, original, has_words=bool((lexical_V > 0).any()))
                ranked_V = scores_V.numpy()
                places = top_products(ranked_V, k=most, allowed_V=allowed_V) if is_understood else np.zeros(0, np.int64)
                if liked_V is not None:
                    ranked_V = ranked_V + liked_V
                    places = places[np.lexsort((places, -ranked_V[places]))][:k]
                found.append(Answer(query, places, ranked_V[places], note))
        return found

    def _liked(self, history: Sequence[str]) -> np.ndarray | None:
        """What a history adds to each product's score, float32 [products]; None without a known item."""
        if not history:
            return None
        ids = pa.array(history[-RECENT_ITEMS:], pa.string())
        of_items = pc.SetLookupOptions(self.products["item_id"].combine_chunks())
        places = pc.call_function("index_in", [ids], of_items).drop_null().to_numpy()
        if not len(places):
            return None
        profile_E = F.normalize(self._vectors_VE[places].sum(0), dim=0)
        return self._history_weight * (self._vectors_VE @ profile_E).numpy()

    def scores(
        self,
        queries: Sequence[str],
        vectors_QE: Tensor | None = None,
        *,
        weights: Weights | None = None,
        allowed_V: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The lexical part and the full score of every product: two tensors float32 [queries, products].

        Args:
          queries: normalised.
          vectors_QE: the queries' vectors from another encoder, for example the teacher; None: the student's vectors.
          weights: use these in place of the index's own weights.
          allowed_V: bool [products], at least one true. Other products do not influence the scores of allowed products,
            and their own scores mean nothing.
        """
        lexical_QV = torch.from_numpy(np.stack([self._lexical.scores(query, allowed_V) for query in queries]))
        if vectors_QE is None:
            vectors_QE = encode_queries(
                self._model, self._tokens, [self._lexical.wanted(query)[0] for query in queries]
            )
        cosines_QV = vectors_QE @ self._vectors_VE.T
        allowed = None if allowed_V is None else torch.tensor(allowed_V)
        intent_QV = intent(cosines_QV, self._clusters_RV, allowed)
        return lexical_QV, fuse(lexical_QV, cosines_QV, intent_QV, weights or self.weights)

    def _note(self, query: str, typed: str, *, has_words: bool) -> tuple[str, bool]:
        """The note of an answer, and whether the query is understood."""
        if not words(query):
            return "nothing to search for: the query has no letters or digits", False
        unknown = self._tokens.unknown_share(query)
        if not has_words and unknown >= MOSTLY_UNKNOWN:
            return (
                f"not understood: no product has these words, and the model does not know {unknown:.0%} of them",
                False,
            )
        if query != typed:
            return f"searched for {query!r} in place of {typed!r}", True
        return "" if has_words else "no product has these words: these are the nearest in meaning", True


def build_index(
    folder: Path,
    products: pa.Table,
    vectors_VE: Tensor,
    *,
    language: str,
    weights: Weights,
    seed: int,
    facts: dict[str, Any],
) -> None:
    """Write a search index.

    Args:
      folder: an existing, empty folder.
      products: rows of `search_tables.PRODUCTS` in the order of `product_index`.
      vectors_VE: the teacher's vectors of the products.
      language: of the stemmer.
      weights: of the parts of a score.
      seed: of the clusters.
      facts: metadata for `index.json`, JSON-ready.
    """
    texts = product_texts(products)
    (folder / PRODUCTS).parent.mkdir()
    pq.write_table(products.select(["item_id", "title", "category", "available"]), folder / PRODUCTS)
    clusters_RV = cluster(vectors_VE.float(), seed=seed)
    save_file({"vectors": vectors_VE.half().contiguous(), "clusters": clusters_RV}, folder / VECTORS)
    (folder / LEXICAL).mkdir()
    build_lexical(texts, language=language).save(folder / LEXICAL)
    (folder / INDEX_FILE).write_text(
        json.dumps({**facts, "weights": asdict(weights), "products": len(products)}, indent=1)
    )


def load_index(folder: Path, student: Path) -> SearchIndex:
    """The index that `build_index` wrote, with a student.

    Raises:
      ModelError: the index is damaged or incomplete, or the student belongs to another teacher.
    """
    try:
        facts = json.loads((folder / INDEX_FILE).read_text())
        tensors = load_file(folder / VECTORS)
        products = pq.read_table(folder / PRODUCTS)
        lexical = load_lexical(folder / LEXICAL)
        weights = Weights(**facts["weights"])
    except Exception as error:  # each library raises its own errors
        raise ModelError(
            f"the search index in {folder} is damaged or incomplete: {error}. Run `distilrec train-search` for this date again"
        ) from None
    model, tokens, student_facts = load_student(student)
    if student_facts.get("teacher") != facts.get("teacher"):
        raise ModelError(
            f"the search student in {student} belongs to the teacher {student_facts.get('teacher')}, but the index in {folder}"
            f" holds vectors of the teacher {facts.get('teacher')}. Run `distilrec train-search` for this date again"
        )
    return SearchIndex(
        products,
        tensors["vectors"],
        tensors["clusters"],
        lexical,
        weights,
        (model, tokens),
        facts.get("history_weight", 0.0),
    )
