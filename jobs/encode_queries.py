"""Encode typed and made-up queries with the search teacher. The search student learns from them (Ray Data)."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import say
from jobs.runtime.encoding import encode
from jobs.runtime.product_search import product_search, read_products, search_teacher, typed_queries
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.search.catalogue_queries import catalogue_queries
from kdlib.search.dictionaries import dictionary_version
from kdlib.search.other_languages import Meanings, check_languages, products_of_words, translated_queries
from kdlib.search.tokenizer import known_words, words_file

QUERY_TOKENS = 32


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search teacher, and the dictionaries of other languages."""
    languages = product_search(config).languages
    check_languages(languages)
    found = search_teacher(config, inputs)
    versions = {f"dictionary_{language}": dictionary_version(Path(path)) for language, path in languages.items()}
    words = {"word_lists": metadata.version("wordfreq")} if languages else {}
    return Found(dict(found.versions) | versions | words, found.value)


def build(job: Job) -> Details:
    """Write queries and their vectors: typed queries, queries made of the catalogue's words, and single words.

    With `search.languages`, also words of these languages, and translated queries. Each has the vector of what it means, and
    the mark `foreign`.
    """
    settings = product_search(job.config)
    products, limit = read_products(job.input("products")), settings.catalogue_queries
    typed = typed_queries(job.inputs)
    parts = [[value or "" for value in products[n].to_pylist()] for n in ("title", "description", "category")]
    made_up = catalogue_queries(*parts, limit=limit, seed=job.config.seed)
    read = dict.fromkeys([*typed, *made_up, *known_words(words_file(job.found))[: limit // 5]])
    meant = _foreign(job, made_up, [f"{title} {category}" for title, _, category in zip(*parts, strict=True)])
    ours = set(made_up)  # words that both languages have keep the catalogue's meaning
    own = [query for query in read if query in ours or query not in meant]
    foreign = [query for query in meant if query not in ours]
    texts = list(dict.fromkeys([*own, *(meaning for query in foreign for meaning in meant[query])]))
    [name] = job.outputs
    vectors = encode(job.config, settings.text, job.found, texts, "queries", table=name, max_tokens=QUERY_TOKENS)
    of_text = dict(zip(texts, vectors.to_numpy(zero_copy_only=False), strict=True))
    table = pa.table(
        {
            "query": pa.array([*own, *foreign], pa.string()),
            "vector": pa.array(
                [*(of_text[query] for query in own), *(_mean(of_text, meant[query]) for query in foreign)],
                pa.list_(pa.float32()),
            ),
            "foreign": pa.array([False] * len(own) + [True] * len(foreign)),
        }
    )
    pq.write_table(table, job.output / "part-00000.parquet")
    from_log = len(set(typed) & set(own))
    return {name: {"typed": from_log, "made_up": len(own) - from_log, "foreign": len(foreign)}}


def _foreign(job: Job, made_up: list[str], texts: list[str]) -> dict[str, dict[str, int]]:
    """Query in another language → its meanings with weights.

    Each language gets an equal share of `search.catalogue_queries`, once for words and once for queries.
    """
    settings, found = product_search(job.config), dict[str, dict[str, int]]()
    if not settings.languages:
        return found
    products, limit = products_of_words(texts), settings.catalogue_queries // len(settings.languages)
    for language, path in settings.languages.items():
        meanings = Meanings(language, path, products)
        words = meanings.words(limit=limit)
        queries = translated_queries(
            made_up, meanings.translations(), language=language, limit=limit, seed=job.config.seed
        )
        say(f"encode_queries: {language}: {len(words):,} words, {len(queries):,} translated queries")
        for said, weights in (*words.items(), *((said, {query: 1}) for said, query in queries.items())):
            found.setdefault(said, weights)
    return found


def _mean(of_text: Mapping[str, np.ndarray], meanings: Mapping[str, int]) -> np.ndarray:
    """The weighted mean of the vectors of what a query means, of length 1: float32 [E]."""
    mean_E = np.sum([weight * of_text[meaning] for meaning, weight in meanings.items()], axis=0)
    return (mean_E / max(float(np.linalg.norm(mean_E)), 1e-12)).astype(np.float32)
