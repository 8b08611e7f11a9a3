"""Store what the finished teachers predict at every training position (Ray Data), for offline distillation."""

from collections.abc import Mapping

from jobs.runtime.console import say, warn
from jobs.runtime.own_teachers import check_sources
from jobs.runtime.published import features_of
from jobs.runtime.stage import Details, Job
from jobs.runtime.teachers import judge, teacher_folders, write_targets
from kdlib.config.run import RunConfig
from kdlib.store.partitions import Manifest


def build(job: Job) -> Details:
    """Judge the teachers, set their shares, and write `teacher_targets`."""
    config, source = job.config, features_of(job.inputs)
    folders = teacher_folders(config, job.inputs, source.vocabulary_facts()["vocabulary_hash"])
    check_sources(config, folders)
    judged = judge(config, source, folders)
    write_targets(config, source, folders, judged.weights, job.output)
    names, total = [teacher.name for teacher in config.teachers], sum(judged.weights)
    by_kind = zip(("training", "validation"), judged[:2], strict=True)
    return {
        "teacher_targets": {
            "teachers": {name: weight / total for name, weight in zip(names, judged.weights, strict=True)},
            "log_probability": {
                kind: dict(zip(names, rows.mean(1).tolist(), strict=True)) for kind, rows in by_kind if rows.shape[1]
            },
        }
    }


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say how large the cache is, and how much better the teachers are on their training data."""
    manifest = manifests["teacher_targets"]
    megabytes = sum(file["bytes"] for file in manifest.files) / 2**20
    shares = ", ".join(f"{name} {share:.3f}" for name, share in manifest.details["teachers"].items())
    say(
        f"cache_teacher: {manifest.rows:,} windows, {megabytes:.1f} MiB;"
        f" shares of the teachers ({config.distillation.weights}): {shares}"
    )
    if len(means := manifest.details["log_probability"]) == 2:
        for name, training in means["training"].items():
            validation = means["validation"][name]
            say(
                f"  {name}: the next item's log-probability is {training:.2f} at the last training position,"
                f" {validation:.2f} in validation: {training - validation:+.2f} nats"
            )
    if (of_a_worker := megabytes / config.training.workers) > config.training.resident_megabytes:
        warn(
            f"  a worker's targets, {of_a_worker:,.0f} MiB, do not fit training.resident_megabytes"
            f" {config.training.resident_megabytes:,}: each epoch reads them again, and on few cores takes up to three times"
            " as long. Raise it if the memory allows: while the targets are loaded they take twice their size"
        )
