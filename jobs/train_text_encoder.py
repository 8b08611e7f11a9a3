"""Train the text encoders on the titles of items that follow each other (Ray Data, Ray Train, DeepSpeed)."""

from collections.abc import Mapping

from jobs.runtime.console import say
from jobs.runtime.encoders import EncoderData, describe_encoder, fit_encoder
from jobs.runtime.encoding import find_encoder
from jobs.runtime.published import features_of, parquet_files
from jobs.runtime.ray_cluster import read_parquet
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.store import partitions
from kdlib.store.partitions import Manifest
from kdlib.teachers.contrastive import training_pairs


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The pretrained encoder."""
    return find_encoder(config, part.subject)


def build(job: Job) -> Details:
    """Train one encoder on pairs of neighbouring training items."""
    source = features_of(job.inputs)
    histories = parquet_files(source.histories)
    pairs = read_parquet(job.config, histories).select_columns(["item_indices", "num_train"])
    data = EncoderData(texts=str(source.vocabulary), statistics=str(source.statistics), histories=histories)
    pairs = pairs.map_batches(training_pairs, batch_format="pyarrow", batch_size=None)
    fit_encoder(job, job.part.subject, pairs, data)
    return {}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say what each encoder has learnt."""
    for name in manifests:
        say(f"train_text_encoder: {describe_encoder(partitions.current(config.root, name, config.day))}")
