"""Title vectors: a table for each way of reading titles, made once a vocabulary (Ray Data)."""

from pathlib import Path
from typing import Any

from jobs.runtime.published import Features, parquet_files
from jobs.runtime.ray_cluster import check_workers_room, read_parquet
from jobs.runtime.step import run_step
from kdlib.config.models import TextConfig
from kdlib.config.run import RunConfig
from kdlib.store.partitions import current, fingerprint_of, read_manifest


def title_vectors(config: RunConfig, source: Features, text: TextConfig) -> tuple[Path, str]:
    """Encode all titles with Ray Data actors, once per vocabulary and text settings; the folder and its version. Ray must run.

    The table is `title_vectors/<hash of the settings>`, so that teachers with different ones do not meet.
    """
    import ray.data

    from jobs.train_text_encoder import encoder_and_version
    from kdlib.teachers.text import TitleEncoder, whiten_files

    encoder, encoder_version = encoder_and_version(config, source, text)
    name = f"title_vectors/{fingerprint_of(text.model_dump(mode='json'))[:8]}"
    items = read_parquet(parquet_files(source.vocabulary)).select_columns(["item_index", "title"])

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        how = config.training
        check_workers_room(config, how.workers)
        (
            items.repartition(4 * config.training.workers)
            .map_batches(
                TitleEncoder,
                fn_constructor_kwargs={
                    "encoder": encoder,
                    "max_tokens": text.max_tokens,
                    "batch_size": text.batch_size,
                    "threads": config.training.threads_per_worker,
                },
                compute=ray.data.ActorPoolStrategy(size=config.training.workers),
                num_cpus=config.training.cpus_per_worker,
                num_gpus=config.training.gpus_per_worker,
                batch_format="pyarrow",
                batch_size=text.batch_size * 8,
            )
            .write_parquet(str(staging[name]))
        )
        if not text.whiten:
            return {}
        return {name: {"whitening": whiten_files(staging[name], width=text.whiten_width, scale=text.scale)}}

    run_step(
        config,
        (name,),
        settings=text.model_dump(mode="json"),
        inputs={"item_vocabulary": source.versions["item_vocabulary"], "encoder": encoder_version},
        build=build,
    )
    manifest = read_manifest(config.root, name, config.day)
    assert manifest is not None
    return current(config.root, name, config.day), manifest.version
