"""The search benchmark in other languages: teacher, student and BM25 on translated queries.

`translated_queries.csv` has 60 of the judged queries in Chinese, and the first 30 of them in German, Spanish and Japanese. They
are `drawn` with seed 1. We translated them ourselves, as a shopper of the country types them, before any result was there:
an AA battery is 5号电池 in Chinese and 単3電池 in Japanese. Some queries are the same in all languages: ipad, ps4 pro.

A translated query has the ratings of the English query, and the weights that English queries of the other half chose.
"""

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kdlib.data.queries import normalise_query
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.metrics.judged import judged_metrics
from kdlib.search.fusion import Weights
from kdlib.search.index import SearchIndex

TRANSLATIONS = Path(__file__).parent / "translated_queries.csv"
QUERIES, SEED, SAMPLES = 60, 1, 10_000
ENGLISH = "english"
SHOWN = ("笔记本电脑", "笔记本电脑包", "无线鼠标", "打印机", "drucker", "ratón inalámbrico", "ノートパソコン")
"""Queries whose ten products are written into the results."""
ODD = {
    "typo": "wireles muose",
    "emoji": "🎧",
    "10,000 characters": "x" * 10_000,
    "2,000 words": "laptop " * 2_000,
    "SQL": "'; DROP TABLE products; --",
    "mixed scripts": "dell 笔记本 ノート",
    "full width": "ｌａｐｔｏｐ　１５",
    "empty": "",
}
"""Queries that must not fail or take long."""
BM25 = Weights(0.0, 0.0)


def drawn(queries: list[str]) -> list[str]:
    """The queries that are translated, in the order of the draw.

    Args:
      queries: all judged queries in alphabetical order.
    """
    places = np.random.default_rng(SEED).choice(len(queries), min(QUERIES, len(queries)), replace=False)
    return [queries[place] for place in places]


def read_translations(path: Path = TRANSLATIONS) -> dict[str, dict[str, str]]:
    """Language → English query → what a shopper types in its place, in the order of the file."""
    with path.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    languages = [name for name in rows[0] if name != ENGLISH]
    return {language: {row[ENGLISH]: row[language] for row in rows if row[language]} for language in languages}


def language_results(
    index: SearchIndex,
    encoders: dict[str, Callable[[list[str]], Tensor]],
    rated: dict[str, dict[int, int]],
    weights_of: Mapping[str, Weights],
) -> dict[str, Any]:
    """Figures and 95% intervals of each language, the translations, and the answers to shown and odd queries.

    `zh_student_ndcg10_judged` is the student's NDCG@10 over the rated products on the Chinese queries.
    `zh_student_ndcg10_judged / english` divides it by the student's figure on the same queries in English.

    Args:
      index: of the run.
      encoders: name, `student` among them → queries → unit vectors without the centre.
      rated: English query → product index → rating.
      weights_of: English query → weights of the score.
    """
    translations, figures, intervals = read_translations(), {}, {}
    for language, rows in translations.items():
        typed = {query: said for query, said in rows.items() if query in rated}
        if not typed:
            continue
        for name, encode in {**encoders, "bm25": encoders["student"]}.items():
            weights = dict.fromkeys(typed, BM25) if name == "bm25" else weights_of
            in_english = _ndcg(index, encode, {query: query for query in typed}, rated, weights)
            found = _ndcg(index, encode, typed, rated, weights)
            key = f"{language}_{name}_ndcg10_judged"
            figures[key] = round(float(found.mean()), 4)
            figures[f"{key} / english"] = round(float(found.mean() / in_english.mean()), 4)
            intervals[key] = [round(float(one), 4) for one in bootstrap_interval(found, samples=SAMPLES, seed=1)]
    titles = index.products["title"].to_pylist()
    answers = index.answer(SHOWN, k=10)
    shown = {query: [titles[place] for place in answer.places] for query, answer in zip(SHOWN, answers, strict=True)}
    odd = {}
    for name, query in ODD.items():
        began = time.perf_counter()
        (answer,) = index.answer([query], k=10)
        milliseconds = round(1e3 * (time.perf_counter() - began), 1)
        first = titles[answer.places[0]] if len(answer.places) else None
        odd[name] = {"milliseconds": milliseconds, "first": first, "note": answer.note[:100]}
    return {
        "figures_languages": figures,
        "intervals_languages": intervals,
        "translations": translations,
        "shown": shown,
        "odd_queries": odd,
    }


def _ndcg(
    index: SearchIndex,
    encode: Callable[[list[str]], Tensor],
    typed: dict[str, str],
    rated: dict[str, dict[int, int]],
    weights_of: Mapping[str, Weights],
) -> np.ndarray:
    """NDCG@10 over the rated products, float64 [queries].

    Args:
      typed: English query → what is typed.
    """
    queries, english = [normalise_query(query) for query in typed.values()], list(typed)
    vectors_QE, found_Q = encode(queries), np.zeros(len(queries))
    weights_Q = [weights_of[query] for query in english]
    for weights in dict.fromkeys(weights_Q):
        places = [place for place, one in enumerate(weights_Q) if one == weights]
        _, scores_QV = index.scores([queries[place] for place in places], vectors_QE[places], weights=weights)
        for place, scores_V in zip(places, scores_QV, strict=True):
            found_Q[place] = judged_metrics(scores_V.numpy(), rated[english[place]])["ndcg_judged"]
    return found_Q
