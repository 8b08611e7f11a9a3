"""Encode typed and made-up queries with the search teacher. The search student learns from them (Ray Data)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.encoding import encode
from jobs.runtime.product_search import product_search, read_products, search_teacher, typed_queries
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.search.catalogue_queries import catalogue_queries
from kdlib.search.dictionaries import dictionary_version
from kdlib.search.other_languages import Meanings, check_languages, translated_queries
from kdlib.search.tokenizer import known_words, words_file

QUERY_TOKENS = 32


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search teacher, and the dictionaries of other languages."""
    languages = product_search(config).languages
    check_languages(languages)
    found = search_teacher(config, inputs)
    versions = {f"dictionary_{language}": dictionary_version(Path(path)) for language, path in languages.items()}
    return Found(dict(found.versions) | versions, found.value)


def build(job: Job) -> Details:
    """Write queries and their vectors: typed queries, queries made of the catalogue's words, and single words.

    With `search.languages`, also words of these languages, and translated queries. Each has the vector of what it means.
    """
    settings = product_search(job.config)
    products, limit = read_products(job.input("products")), settings.catalogue_queries
    typed = typed_queries(job.inputs)
    parts = [[value or "" for value in products[n].to_pylist()] for n in ("title", "description", "category")]
    made_up = catalogue_queries(*parts, limit=limit, seed=job.config.seed)
    read = [*typed, *made_up, *known_words(words_file(job.found))[: limit // 5]]
    meant = _foreign(job, made_up, [f"{title} {category}" for title, _, category in zip(*parts, strict=True)])
    [name] = job.outputs
    texts = list(dict.fromkeys([*read, *(meaning for of in meant.values() for meaning in of)]))
    vectors = encode(job.config, settings.text, job.found, texts, "queries", table=name, max_tokens=QUERY_TOKENS)
    own = dict.fromkeys(read)
    learnt = [one for one in meant if one not in own]
    place = {text: number for number, text in enumerate(texts)}
    all_NE = (
        pa.chunked_array([vectors]).combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(texts), -1)
    )
    vectors_NE = np.concatenate(
        [all_NE[[place[one] for one in own]], *(_mean(all_NE, place, meant[one]) for one in learnt)]
    )
    table = pa.table({"query": [*own, *learnt], "vector": pa.array(list(vectors_NE), pa.list_(pa.float32()))})
    pq.write_table(table, job.output / "part-00000.parquet")
    return {name: {"typed": len(typed), "made_up": len(own) - len(typed), "other_languages": len(learnt)}}


def _foreign(job: Job, made_up: list[str], texts: list[str]) -> dict[str, dict[str, int]]:
    """Query in another language → what it means, with weights. Each language has as many words, and as many queries, as its share of `search.catalogue_queries`."""
    settings, found = product_search(job.config), dict[str, dict[str, int]]()
    for language, path in settings.languages.items():
        meanings, limit = Meanings(language, path, texts), settings.catalogue_queries // len(settings.languages)
        said = translated_queries(
            made_up, meanings.translations(), language=language, limit=limit, seed=job.config.seed
        )
        for one, of in (*meanings.words(limit=limit).items(), *((one, {query: 1}) for one, query in said.items())):
            found.setdefault(one, of)
    return found


def _mean(vectors_NE: np.ndarray, place: Mapping[str, int], meanings: Mapping[str, int]) -> np.ndarray:
    """The weighted mean of the vectors of what a query means, of length 1: float32 [1, E]."""
    weights_M = np.array(list(meanings.values()), np.float32)
    mean_E = weights_M @ vectors_NE[[place[one] for one in meanings]]
    return (mean_E / np.linalg.norm(mean_E))[None].astype(np.float32)
