"""Encode typed and made-up queries with the search teacher. The search student learns from them (Ray Data)."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.encoding import encode
from jobs.runtime.product_search import product_search, read_products, search_teacher, typed_queries
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.search.catalogue_queries import catalogue_queries
from kdlib.search.tokenizer import known_words, words_file

QUERY_TOKENS = 32


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search teacher."""
    return search_teacher(config, inputs)


def build(job: Job) -> Details:
    """Write queries and their vectors: typed queries, queries made of the catalogue's words, and single words."""
    config, settings = job.config, product_search(job.config)
    products, limit = read_products(job.input("products")), settings.catalogue_queries
    typed = typed_queries(job.inputs)
    parts = [[value or "" for value in products[n].to_pylist()] for n in ("title", "description", "category")]
    made_up = catalogue_queries(*parts, limit=limit, seed=config.seed)
    known = known_words(words_file(job.found))
    queries = list(dict.fromkeys([*typed, *made_up, *known[: limit // 5]]))
    vectors = encode(config, settings.text, job.found, queries, "queries", max_tokens=QUERY_TOKENS)
    table = pa.table({"query": pa.array(queries), "vector": vectors})
    pq.write_table(table, job.output / "part-00000.parquet")
    return {"search_targets": {"typed": len(typed), "made_up": len(queries) - len(typed)}}
