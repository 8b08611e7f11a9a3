"""Encode the products with the search teacher (Ray Data)."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.encoding import encode
from jobs.runtime.names import SEARCH_ENCODER
from jobs.runtime.product_search import product_search, read_products, search_teacher
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.search.index import product_texts


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The search teacher."""
    return search_teacher(config, inputs)


def build(job: Job) -> Details:
    """Write a vector for each product."""
    products, text = read_products(job.input("products")), product_search(job.config).text
    texts = product_texts(products)
    [name] = job.outputs
    vectors = encode(job.config, text, job.found, texts, "passages", table=name, max_tokens=text.max_tokens)
    table = pa.table({"product_index": products["product_index"], "vector": vectors})
    pq.write_table(table, job.output / "part-00000.parquet")
    return {
        "product_vectors": {"teacher": job.made_by["inputs"].get("encoder", job.made_by["inputs"].get(SEARCH_ENCODER))}
    }
