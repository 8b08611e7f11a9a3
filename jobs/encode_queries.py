"""Encode typed and made-up queries with the search teacher. The search student learns from them (Ray Data)."""

from collections.abc import Iterable, Mapping
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from jobs.runtime.encoding import encode
from jobs.runtime.product_search import product_search, read_products, search_teacher, typed_queries
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.search.catalogue_queries import catalogue_queries
from kdlib.search.other_languages import check_languages, frequent_words, translated_queries, translations
from kdlib.search.tokenizer import known_words, words_file

QUERY_TOKENS = 32


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search teacher."""
    check_languages(product_search(config).languages)
    return search_teacher(config, inputs)


def build(job: Job) -> Details:
    """Write queries and their vectors: typed queries, queries made of the catalogue's words, and single words.

    With `search.languages`, also the frequent words of these languages, and translated queries.
    """
    settings = product_search(job.config)
    products, limit = read_products(job.input("products")), settings.catalogue_queries
    typed = typed_queries(job.inputs)
    parts = [[value or "" for value in products[n].to_pylist()] for n in ("title", "description", "category")]
    made_up = catalogue_queries(*parts, limit=limit, seed=job.config.seed)
    known = known_words(words_file(job.found))
    frequent = {language: frequent_words(language) for language in settings.languages}
    [name] = job.outputs
    read = [*typed, *made_up, *known[: limit // 5], *chain.from_iterable(frequent.values())]
    table = _encoded(job, read, table=name)
    if new := sorted(set(_translated(job, table, made_up, frequent)).difference(table["query"].to_pylist())):
        table = pa.concat_tables([table, _encoded(job, new, table=f"{name}_translated")])
    pq.write_table(table, job.output / "part-00000.parquet")
    return {"search_targets": {"typed": len(typed), "made_up": len(table) - len(typed)}}


def _encoded(job: Job, queries: Iterable[str], *, table: str) -> pa.Table:
    """The distinct queries and the teacher's vectors of them. An endpoint's answers are kept under the name `table`."""
    distinct, text = list(dict.fromkeys(queries)), product_search(job.config).text
    vectors = encode(job.config, text, job.found, distinct, "queries", table=table, max_tokens=QUERY_TOKENS)
    return pa.table({"query": pa.array(distinct, pa.string()), "vector": vectors})


def _translated(job: Job, encoded: pa.Table, made_up: list[str], frequent: dict[str, list[str]]) -> list[str]:
    """Made-up queries in the other languages: together at most as many as `search.catalogue_queries`."""
    if not frequent:
        return []
    vectors = encoded["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors_QE = torch.from_numpy(vectors.reshape(len(encoded), -1))
    place = {query: number for number, query in enumerate(encoded["query"].to_pylist())}
    words, found = [query for query in made_up if query.isalpha()], []
    for language, others in frequent.items():
        of_words, of_others = (vectors_QE[[place[word] for word in side]] for side in (words, others))
        found += translated_queries(
            made_up,
            translations(words, of_words, others, of_others),
            language=language,
            limit=product_search(job.config).catalogue_queries // len(frequent),
            seed=job.config.seed,
        )
    return found
