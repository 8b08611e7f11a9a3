"""Write each user's top-k items to the table `recommendations`, from histories and student (Ray Data)."""

import time
from collections.abc import Mapping

import pyarrow as pa

from jobs.runtime.actors import write_by_shards
from jobs.runtime.console import say
from jobs.runtime.names import policy_features, served_student
from jobs.runtime.published import features_of
from jobs.runtime.ray_cluster import check_room
from jobs.runtime.stage import Details, Job
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.inference.checks import check_recommendations
from kdlib.inference.recommender import check_vocabulary, read_vocabulary
from kdlib.inference.shard_recommender import ShardRecommender
from kdlib.models.files import load_model
from kdlib.serving.made_with import made_with
from kdlib.store.days import day_end
from kdlib.store.partitions import Manifest


def build(job: Job) -> Details:
    """Write every user's list, and check what was written.

    Raises:
      ConfigError: there are fewer items than `recommend.k`, or no room for `recommend.actors`.
      ModelError: the student was trained on another vocabulary, or its scores are not finite.
      ContractError: the written rows break the table's contract. Nothing is published then.
    """
    settings, source = job.config.recommend, features_of(job.inputs)
    facts = load_model(job.input(served_student(job.config)))[1]
    item_ids, available = read_vocabulary(source.vocabulary)
    check_vocabulary(facts, item_ids)
    num_available = int(available[: facts["num_items"]].sum())
    if settings.k > num_available:
        raise ConfigError(
            f"recommend.k is {settings.k}, but only {num_available} items are known to the model and available: "
            f"lower recommend.k"
        )
    started = time.monotonic()
    _infer(job)
    seconds = time.monotonic() - started
    counts = check_recommendations(
        job.output,
        source.histories,
        k=settings.k,
        because=settings.because,
        variants=frozenset(job.config.experiment.shares if job.config.experiment else ()),
        item_ids=item_ids,
        unavailable=frozenset(item_ids.filter(pa.array(~available)).to_pylist()),
    )
    own = {"k": settings.k, "model_version": facts["version"], "inference_seconds": round(seconds, 3)}
    return {"recommendations": {"users": sum(counts.values()), **counts, **own, "made_with": made_with(job.config)}}


def _infer(job: Job) -> None:
    """Give the histories to the actors, shard by shard. The actors write into the staging folder."""
    config, settings = job.config, job.config.recommend
    check_room(config, "recommend.actors", settings.actors)
    write_by_shards(
        config,
        job.input("histories"),
        ShardRecommender,
        job.output,
        {
            "batch_size": settings.batch_size,
            "settings": {
                "model_folder": str(job.input(served_student(config))),
                "vocabulary_folder": str(job.input("item_vocabulary")),
                "statistics_folder": str(job.input("item_statistics")),
                "k": settings.k,
                "because": settings.because,
                "item_block": settings.item_block,
                "generated_at": day_end(config.last_day, config.features.time_zone),
                "threads": 1,
                "policy": settings.policy,
                "experiment": config.experiment,
                **{f"{name}_folder": str(job.input(name)) for name in policy_features(config)},
            },
        },
        actors=settings.actors,
        batch_size=settings.batch_size,
    )


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how many users have a list, and how long it took."""
    made = manifests["recommendations"].details
    seconds = made["inference_seconds"]
    say(
        f"recommend: {made['users']:,} users ({made['model']:,} model, {made['popular']:,} popular) in {seconds:.1f} s,"
        f" {made['users'] / seconds:,.0f} users/s → {config.place('recommendations')}"
    )
