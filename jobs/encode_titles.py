"""Encode the product titles, one table for each text setting (Ray Data)."""

from collections.abc import Mapping

import pyarrow.parquet as pq

from jobs.runtime.actors import map_by_actors
from jobs.runtime.names import adapted_encoder
from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import check_workers_room, read_parquet
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The encoder: pretrained, or trained on the shop's titles."""
    from kdlib.teachers.text import encoder_folder, encoder_version, from_anywhere

    text = part.subject
    if text.adapt:
        return Found(value=str(inputs[adapted_encoder(text)].folder))
    return Found({"encoder": encoder_version(encoder_folder(text.encoder))}, from_anywhere(text.encoder))


def build(job: Job) -> Details:
    """Encode all titles with Ray Data actors, and whiten the vectors if `text.whiten` is set."""
    from kdlib.teachers.text import TitleEncoder, whiten_files

    text, training = job.part.subject, job.config.training
    check_workers_room(job.config, training.workers)
    items = read_parquet(job.config, parquet_files(job.input("item_vocabulary"))).select_columns(
        ["item_index", "title"]
    )
    vectors = map_by_actors(
        job.config,
        items.repartition(4 * training.workers),
        TitleEncoder,
        {
            "encoder": job.found,
            "max_tokens": text.max_tokens,
            "batch_size": text.batch_size,
            "threads": training.threads_per_worker,
        },
        actors=training.workers,
        num_cpus=training.cpus_per_worker,
        num_gpus=training.gpus_per_worker,
        batch_size=text.batch_size * 8,
    )
    # Ray's own write_parquet may write the batches of a block in another order
    for number, block in enumerate(vectors.iter_batches(batch_size=None, batch_format="pyarrow")):
        pq.write_table(block, job.output / f"part-{number:05}.parquet")
    if not text.whiten:
        return {}
    whitening = whiten_files(job.output, width=text.whiten_width, scale=text.scale)
    return {name: {"whitening": whitening} for name in job.outputs}
