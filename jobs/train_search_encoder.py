"""Train the encoder that teaches product search on the shop's own language (Ray Train, DeepSpeed)."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.console import say
from jobs.runtime.encoders import EncoderData, describe_encoder, fit_encoder
from jobs.runtime.encoding import find_encoder
from jobs.runtime.names import SEARCH_ENCODER
from jobs.runtime.product_search import clicked, product_search, read_products, typed_queries
from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import read_parquet
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.search.adaptation import adaptation_pairs
from kdlib.search.index import product_texts
from kdlib.search.words import teaches
from kdlib.store import partitions
from kdlib.store.mirror import drop
from kdlib.store.partitions import Manifest
from kdlib.teachers.contrastive import PAIRS_SCHEMA


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The pretrained encoder."""
    return find_encoder(config, product_search(config).text)


def build(job: Job) -> Details:
    """Train on pairs of texts: title and description, a product and its words, query and clicked product."""
    config = job.config
    folder = config.root / partitions.CHECKPOINTS / f"{config.name}.search_pairs.ds={config.day}"
    data = _write_pairs(job, folder)
    pairs = read_parquet(config, parquet_files(folder / "pairs"))
    fit_encoder(job, product_search(config).text, pairs, data)
    drop(folder)
    shutil.rmtree(folder)
    return {}


def _write_pairs(job: Job, folder: Path) -> EncoderData:
    """Write texts and pairs as files that every worker reads."""
    config, products = job.config, read_products(job.input("products"))
    adapt = product_search(config).text.adapt
    assert adapt is not None
    titles, descriptions = ([value or "" for value in products[name].to_pylist()] for name in ("title", "description"))
    gains = clicked(typed_queries(job.inputs), job.inputs, products)
    texts, learnt, judging = adaptation_pairs(
        titles,
        descriptions,
        product_texts(products),
        {query: items for query, items in gains.items() if teaches(query)},
        held_out=adapt.validation_pairs,
        seed=config.seed,
    )
    for name in ("pairs", "texts", "judging"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbered = pa.table({"item_index": pa.array(range(len(texts)), pa.int32()), "title": pa.array(texts, pa.string())})
    pq.write_table(numbered, folder / "texts" / "part-00000.parquet")
    for name, found in (("pairs", learnt), ("judging", judging)):
        table = pa.table([pa.array(found[:, 0]), pa.array(found[:, 1])], schema=PAIRS_SCHEMA)
        pq.write_table(table, folder / name / "part-00000.parquet")
    return EncoderData(texts=str(folder / "texts"), judging=str(folder / "judging" / "part-00000.parquet"))


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say what the encoder has learnt."""
    folder = partitions.current(config.root, SEARCH_ENCODER, config.day)
    say(f"train_search_encoder: {describe_encoder(folder)}")
