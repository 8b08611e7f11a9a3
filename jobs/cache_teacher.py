"""Store what the finished teachers say at every training position (Ray Data), for offline distillation."""

import sys
from pathlib import Path
from typing import Any

from jobs.runtime.console import command, say
from jobs.runtime.published import features, target_settings, versions
from jobs.runtime.step import run_step
from jobs.runtime.teachers import judge, teacher_folders, write_targets
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.store.partitions import Manifest


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `teacher_targets`."""
    if config.distillation.mode == "joint":
        raise ConfigError("distillation.mode is joint: teacher and student learn together, there is nothing to cache")
    source = features(config)
    folders = teacher_folders(config, source.vocabulary_facts()["vocabulary_hash"])
    teachers = versions(config, *(name for teacher in config.teachers for name in teacher.models))

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        judged = judge(config, source, folders)
        write_targets(config, source, folders, judged.weights, staging["teacher_targets"])
        names, total = [teacher.name for teacher in config.teachers], sum(judged.weights)
        details = {
            "settings": target_settings(config),
            "teachers": {name: weight / total for name, weight in zip(names, judged.weights, strict=True)},
            "log_probability": {
                kind: dict(zip(names, rows.mean(1).tolist(), strict=True))
                for kind, rows in zip(("training", "validation"), judged[:2], strict=True)
                if rows.shape[1]
            },
        }
        return {"teacher_targets": details}

    made = run_step(
        config,
        ("teacher_targets",),
        settings=target_settings(config),
        inputs={**source.versions, **teachers},
        build=build,
    )
    manifest = made["teacher_targets"]
    shares = ", ".join(f"{name} {share:.3f}" for name, share in manifest.details["teachers"].items())
    say(
        f"cache_teacher: {manifest.rows:,} windows, {sum(f['bytes'] for f in manifest.files) / 2**20:.1f} MiB;"
        f" shares of the teachers ({config.distillation.weights}): {shares}"
    )
    if len(means := manifest.details["log_probability"]) == 2:
        for name, training in means["training"].items():
            validation = means["validation"][name]
            say(
                f"  {name}: the next item's log-probability is {training:.2f} at the last training position,"
                f" {validation:.2f} in validation: {training - validation:+.2f} nats"
            )
    return made


def main(argv: list[str] | None = None) -> int:
    return command("cache_teacher", run, argv, description=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
