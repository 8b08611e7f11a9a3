"""Each user's top-k: histories and student in, one published partition of `recommendations` out."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs._console import command, say
from jobs._published import Features, features, parquet_files, versions
from jobs._ray import cluster_address, start_ray
from jobs._step import run_step
from kdlib import publish
from kdlib.config import RunConfig
from kdlib.errors import ConfigError, DistilrecError, InputError
from kdlib.inference.recommender import check_recommendations, check_vocabulary, read_vocabulary
from kdlib.inference.shards import ShardRecommender, history_shards
from kdlib.models.files import load_model
from kdlib.publish import Manifest

MOST_BATCHES = 64
"""Batches in a shard, which is one task of an actor and one file of the table."""


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `recommendations` for the run's date.

    Raises:
      InputError: features or student are not published for the date.
      ConfigError: `recommend.k` or `recommend.actors` is more than there is.
      ModelError: the student was trained on another vocabulary, or its scores are not finite.
      ContractError: what was written is not what the table promises; nothing is published then.
    """
    found = features(config)
    student = publish.current(config.root, "models/student", config.day)
    built: dict[str, Any] = {}

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        built.update(_build(config, found, student, staging["recommendations"]))
        return {"recommendations": built}

    manifests = run_step(
        config,
        ("recommendations",),
        settings=config.recommend.model_dump(mode="json"),
        inputs={**found.versions, **versions(config, "models/student")},
        build=build,
    )
    if built:
        say(
            f"recommend: {built['users']:,} users ({built['model']:,} model, {built['popular']:,} popular) in "
            f"{built['inference_seconds']:.1f} s, {built['users'] / built['inference_seconds']:,.0f} users/s "
            f"→ {config.root / 'recommendations' / f'ds={config.day}'}"
        )
    return manifests


def _build(config: RunConfig, found: Features, student: Path, staging: Path) -> dict[str, Any]:
    settings = config.recommend
    facts = load_model(student)[1]
    item_ids, available = read_vocabulary(found.vocabulary)
    check_vocabulary(facts, item_ids)
    num_available = int(available[: facts["num_items"]].sum())
    if settings.k > num_available:
        raise ConfigError(
            f"recommend.k is {settings.k}, but only {num_available} items are known to the model and available: "
            f"lower recommend.k"
        )
    with start_ray(config):
        started = time.monotonic()
        _infer(config, found, student, staging)
        seconds = time.monotonic() - started
    counts = check_recommendations(
        staging, found.histories, k=settings.k, because=settings.because, item_ids=item_ids,
        unavailable=frozenset(item_ids.filter(pa.array(~available)).to_pylist()),
    )  # fmt: skip
    return {
        "users": sum(counts.values()),
        **counts,
        "k": settings.k,
        "model_version": facts["version"],
        "inference_seconds": round(seconds, 3),
    }


def _infer(config: RunConfig, found: Features, student: Path, staging: Path) -> None:
    """Hand the histories, shard by shard, to the actors, which write into the staging folder."""
    import ray
    import ray.data
    import ray.exceptions

    settings = config.recommend
    if cluster_address(config) is None and settings.actors >= (num_cpus := int(ray.cluster_resources().get("CPU", 0))):
        raise ConfigError(  # a cluster at an address may grow; a local one would wait for ever
            f"recommend.actors is {settings.actors}, one CPU each, and reading needs another, "
            f"but the local Ray has {num_cpus}: lower recommend.actors or raise ray.num_cpus"
        )
    files = parquet_files(found.histories)
    end_of_day = datetime.fromisoformat(config.day).replace(tzinfo=UTC) + timedelta(days=1)
    shard_rows = _shard_rows(
        sum(pq.read_metadata(file).num_rows for file in files), settings.actors, settings.batch_size
    )
    shards = history_shards(files, num_rows=shard_rows)
    if not shards:
        raise InputError(f"the histories at {found.histories} hold no user: there is nobody to recommend to")
    written = ray.data.from_items([asdict(s) for s in shards], override_num_blocks=len(shards)).map_batches(
        ShardRecommender,
        fn_constructor_kwargs={
            "folder": str(staging),
            "batch_size": settings.batch_size,
            "settings": {
                "model_folder": str(student), "vocabulary_folder": str(found.vocabulary),
                "statistics_folder": str(found.statistics), "k": settings.k, "because": settings.because,
                "item_block": settings.item_block, "generated_at": end_of_day, "threads": 1,
            },
        },
        compute=ray.data.ActorPoolStrategy(size=settings.actors),
        num_cpus=1,
        batch_size=1,
        batch_format="pyarrow",
    )  # fmt: skip
    try:
        written.materialize()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DistilrecError):
            raise error.cause from error
        raise


def _shard_rows(num_users: int, actors: int, batch_size: int) -> int:
    """Rows of a shard: whole batches, and four shards an actor, so that none waits long for the others."""
    batches = -(-num_users // (actors * 4 * batch_size))
    return batch_size * min(batches, MOST_BATCHES)


def main(argv: list[str] | None = None) -> int:
    return command("recommend", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
