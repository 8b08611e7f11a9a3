"""Encode the product titles, one table for each text setting (Ray Data)."""

from collections.abc import Mapping

import pyarrow.parquet as pq

from jobs.runtime.encoding import encoded, find_encoder
from jobs.runtime.names import adapted_encoder
from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import read_parquet
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The encoder: pretrained, or trained on the shop's titles."""
    text = part.subject
    if text.adapt:
        return Found(value=str(inputs[adapted_encoder(text)].folder))
    return find_encoder(config, text)


def build(job: Job) -> Details:
    """Encode all titles, and whiten the vectors if `text.whiten` is set."""
    from kdlib.teachers.text import whiten_files

    text = job.part.subject
    items = read_parquet(job.config, parquet_files(job.input("item_vocabulary"))).select_columns(
        ["item_index", "title"]
    )
    [table] = job.outputs
    vectors = encoded(
        job.config, text, job.found, items, "passages", table=table, max_tokens=text.max_tokens, bf16=False
    )
    # Ray's own write_parquet may write the batches of a block in another order
    for number, block in enumerate(vectors):
        pq.write_table(block, job.output / f"part-{number:05}.parquet")
    if not text.whiten:
        return {}
    whitening = whiten_files(job.output, width=text.whiten_width, scale=text.scale)
    return {name: {"whitening": whitening} for name in job.outputs}
