"""Each user's top-k: histories and student in, one published partition of `recommendations` out."""

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.runtime.actors import write_by_shards
from jobs.runtime.console import command, say
from jobs.runtime.published import Features, features, versions
from jobs.runtime.ray_cluster import check_room, start_ray
from jobs.runtime.step import run_step
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.inference.recommender import check_recommendations, check_vocabulary, read_vocabulary
from kdlib.inference.shard_recommender import ShardRecommender
from kdlib.models.files import load_model
from kdlib.store import partitions
from kdlib.store.partitions import Manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `recommendations` for the run's date.

    Raises:
      InputError: features or student are not published for the date.
      ConfigError: `recommend.k` or `recommend.actors` is more than there is.
      ModelError: the student was trained on another vocabulary, or its scores are not finite.
      ContractError: what was written is not what the table promises; nothing is published then.
    """
    found = features(config)
    student = partitions.current(config.root, "models/student", config.day)
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
        staging,
        found.histories,
        k=settings.k,
        because=settings.because,
        item_ids=item_ids,
        unavailable=frozenset(item_ids.filter(pa.array(~available)).to_pylist()),
    )
    return {
        "users": sum(counts.values()),
        **counts,
        "k": settings.k,
        "model_version": facts["version"],
        "inference_seconds": round(seconds, 3),
    }


def _infer(config: RunConfig, found: Features, student: Path, staging: Path) -> None:
    """Hand the histories, shard by shard, to the actors, which write into the staging folder."""
    settings = config.recommend
    check_room(config, "recommend.actors", settings.actors)
    end_of_day = datetime.fromisoformat(config.day).replace(tzinfo=UTC) + timedelta(days=1)
    write_by_shards(
        found.histories,
        ShardRecommender,
        {
            "folder": str(staging),
            "batch_size": settings.batch_size,
            "settings": {
                "model_folder": str(student),
                "vocabulary_folder": str(found.vocabulary),
                "statistics_folder": str(found.statistics),
                "k": settings.k,
                "because": settings.because,
                "item_block": settings.item_block,
                "generated_at": end_of_day,
                "threads": 1,
            },
        },
        actors=settings.actors,
        batch_size=settings.batch_size,
    )


def main(argv: list[str] | None = None) -> int:
    return command("recommend", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
