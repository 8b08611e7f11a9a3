"""One step of the night: skip it when nothing it depends on has changed, else build in staging, check, publish."""

import functools
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jobs.runtime.console import say
from kdlib.config.run import RunConfig
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest


@functools.cache
def code_version() -> str:
    """A hash of the project's own source: a changed program makes its outputs anew."""
    import kdlib

    home = Path(kdlib.__file__).parent.parent
    return partitions.fingerprint_of(
        [
            (str(p.relative_to(home)), p.read_text())
            for part in ("jobs", "kdlib")
            for p in sorted((home / part).rglob("*.py"))
        ]
    )


def run_step(
    config: RunConfig,
    outputs: tuple[str, ...],
    *,
    settings: Any,
    inputs: Mapping[str, str],
    build: Callable[[dict[str, Path]], dict[str, dict[str, Any]]],
) -> dict[str, Manifest]:
    """Build and publish the partition `ds` of one or more outputs, unless they are up to date.

    Args:
      config: the run config.
      outputs: table names, or `<table>/<variant>` (their contract is checked), or `models/<name>`.
      settings: the JSON-ready part of the config that the content depends on.
      inputs: input name → version.
      build: gets output → staging folder, fills them, and returns output → details for the manifest.

    Returns:
      Output → manifest.
    """
    step = partitions.fingerprint_of(code_version(), settings, dict(inputs))
    present = {name: up_to_date(config, name, step) for name in outputs}
    if all(present.values()):
        say(f"{', '.join(outputs)}: up to date")
        return {name: manifest for name, manifest in present.items() if manifest is not None}
    started = time.monotonic()
    staging = {name: partitions.new_staging(config.root, name, config.day) for name in outputs}
    try:
        details = build(staging)
        for name, folder in staging.items():
            if table := tables.ALL.get(name.partition("/")[0]):
                tables.check_files(table, folder)
    except BaseException:
        for folder in staging.values():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = round(time.monotonic() - started, 2)
    return {
        name: partitions.publish(
            folder,
            config.root,
            name,
            config.day,
            fingerprint=step,
            inputs=dict(inputs),
            details={**details.get(name, {}), "seconds": seconds},
        )
        for name, folder in staging.items()
    }


def up_to_date(config: RunConfig, name: str, fingerprint: str) -> Manifest | None:
    """The manifest of the published partition if it was made in just this way and its files are there, whole; else None."""
    manifest = partitions.read_manifest(config.root, name, config.day)
    if manifest is None or manifest.fingerprint != fingerprint:
        return None
    if broken := partitions.damaged(config.root, manifest):
        say(f"{name}: {broken[0]} is gone or cut off: made anew")
        return None
    return manifest
