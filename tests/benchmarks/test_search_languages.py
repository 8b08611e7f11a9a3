"""The translated queries of the search benchmark, and how they are judged."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdlib.search.fusion import Weights
from kdlib.search.index import SearchIndex
from kdlib.search.lexical import build_lexical
from tests.benchmarks.quality_search import judgements
from tests.benchmarks.search_languages import BM25, _ndcg, drawn, read_translations


def test_the_translated_queries_are_the_drawn_ones() -> None:
    """60 queries have a Chinese form, and the first 30 a German, a Spanish and a Japanese one, in the order of the draw."""
    translations = read_translations()
    assert {language: len(typed) for language, typed in translations.items()} == {
        "zh": 60,
        "de": 30,
        "es": 30,
        "ja": 30,
    }
    english = list(translations["zh"])
    assert all(list(typed) == english[: len(typed)] for typed in translations.values())
    file = Path(os.environ.get("DISTILREC_DATA", "")) / "chorus" / "judgements.csv"
    if not file.exists():
        pytest.skip("the data set chorus is not here")
    with file.open() as stream:
        items = [row["product_id"] for row in csv.DictReader(stream)]
    assert drawn(list(judgements(file, items))) == english


def test_a_translated_query_has_the_ratings_and_the_weights_of_the_english_one() -> None:
    """With words alone, a German word that the catalogue lacks finds nothing. Its vector finds the rated product."""
    products = pa.table({"item_id": ["a", "b", "c"], "title": ["x", "y", "notebook"], "available": [True] * 3})
    lexical = build_lexical(products["title"].to_pylist(), language="english")
    student = (torch.nn.Identity(), None)
    index = SearchIndex(products, torch.eye(3), torch.zeros(1, 3, dtype=torch.int64), lexical, BM25, student)  # type: ignore[arg-type]
    rated = {"laptop": {0: 0, 2: 3}, "desk": {0: 0, 2: 3}}
    found = _ndcg(
        index,
        lambda queries: torch.eye(3)[[2] * len(queries)],
        {"laptop": "Tragbarer", "desk": "Tisch"},
        rated,
        {"laptop": BM25, "desk": Weights(1.0, 0.0)},
    )
    np.testing.assert_allclose(found, [1 / np.log2(3), 1.0])
