"""Run a stage as it is declared: find its inputs, skip what is up to date, else build in staging, check, publish.

This is the common work of all stages. A stage's own module has:

    build(job) -> details        fill `job.outputs`; with `Stage.together`, build(jobs)
    find(config, part, inputs) -> Found  optional: inputs from outside the run
    wait_for_input(config)       optional: return once the inputs from outside the run are whole
    tell(config, manifests)      optional: print a summary, after building or skipping
    run(config, **options)       in place of these, for a stage that acts
"""

import importlib
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any

from jobs.runtime.code import code_of
from jobs.runtime.console import say
from jobs.runtime.lineage import lineage
from jobs.runtime.ray_cluster import start_ray
from jobs.runtime.stage import Found, Input, Job, Part, Stage
from kdlib.config.run import RunConfig
from kdlib.config.settings import flat, settings_of
from kdlib.errors import InputError, LateInputError
from kdlib.store import partitions, tables
from kdlib.store.partitions import Manifest

FEW = 6
"""Most names in the line of what is up to date. Of more names the line has only the number."""


def run_stage(
    config: RunConfig, stage: Stage, *, pipeline: Sequence[Stage] = (), options: Mapping[str, Any] | None = None
) -> dict[str, Manifest]:
    """Run a stage for the config's date; parts that are up to date are skipped.

    Args:
      config: the run config.
      stage: what to run.
      pipeline: all stages, to find the stage that makes an input.
      options: of the command line, for a stage that acts.

    Returns:
      Table or model → manifest, of all that the stage makes.

    Raises:
      InputError: an input is not published, or is stale.
      LateInputError: an input from outside the run is not whole, or changed while a Spark stage read it.
    """
    if not stage.when(config):
        say(f"{stage.name}: skipped, {stage.otherwise}")
        return {}
    module = importlib.import_module(stage.module)
    if stage.acts:
        needed = [_inputs_of(config, stage, part, pipeline) for part in stage.parts_of(config)]
        with lineage(config, stage.name, needed):
            module.run(config, **(options or {}))
        return {}
    if hasattr(module, "wait_for_input"):
        module.wait_for_input(config)
    made: dict[str, Manifest] = {}
    stale: list[Job] = []
    for part in stage.parts_of(config):
        job = prepare(config, stage, part, pipeline=pipeline)
        present = {name: up_to_date(config, name, job.fingerprint) for name in part.makes}
        if all(present.values()):
            made |= {name: manifest for name, manifest in present.items() if manifest is not None}
        else:
            stale.append(job)
    if made:
        names = ", ".join(made) if len(made) <= FEW else f"{len(made)} tables and models"
        say(f"{names}: up to date")
    if stale:
        with start_ray(config) if stage.engine == "ray" else nullcontext():
            for jobs in [stale] if stage.together else [[job] for job in stale]:
                makes = [name for job in jobs for name in job.part.makes]
                with lineage(config, stage.name, [job.inputs for job in jobs], makes) as built:
                    built |= _build(stage, module, jobs)
                made |= built
    if hasattr(module, "tell"):
        module.tell(config, made)
    return made


def prepare(config: RunConfig, stage: Stage, part: Part, *, pipeline: Sequence[Stage] = ()) -> Job:
    """Find a part's inputs, and all that its result depends on.

    Raises:
      InputError: an input is not published, or is stale.
    """
    module = importlib.import_module(stage.module)
    inputs = _inputs_of(config, stage, part, pipeline)
    found = module.find(config, part, inputs) if hasattr(module, "find") else Found()
    versions = {name: one.version for name, one in inputs.items()} | dict(found.versions)
    return Job(config, stage.name, part, inputs, found.value, made_by(config, stage, part, versions))


def made_by(config: RunConfig, stage: Stage, part: Part, versions: Mapping[str, str]) -> dict[str, Any]:
    """All that a part's result depends on; see `Job.made_by`."""
    settings, code = _settings_of(config, part), code_of(stage.module)
    return {"stage": stage.name, "settings": settings, "inputs": dict(versions), "code": code}


def _settings_of(config: RunConfig, part: Part) -> dict[str, Any]:
    """The settings that a part declares, and the values that its stage works out from settings."""
    settings = settings_of(config, part.settings)
    for name, value in part.values.items():
        settings |= flat(value, name)
    return settings


def up_to_date(config: RunConfig, name: str, fingerprint: str) -> Manifest | None:
    """The manifest of a published partition if it has this fingerprint and its files are whole; else None."""
    manifest = partitions.read_manifest(config.root, name, config.day)
    if manifest is None or manifest.fingerprint != fingerprint:
        return None
    if broken := partitions.damaged(config.root, manifest):
        say(f"{name}: {broken[0]} is missing or cut off, so the table is made again")
        return None
    return manifest


def maker_of(config: RunConfig, name: str, pipeline: Sequence[Stage]) -> tuple[Stage, Part] | None:
    """The stage and the part that make a table or model under this config."""
    for stage in pipeline:
        if not stage.acts and stage.when(config):
            for part in stage.parts_of(config):
                if name in part.makes:
                    return stage, part
    return None


def _inputs_of(config: RunConfig, stage: Stage, part: Part, pipeline: Sequence[Stage]) -> dict[str, Input]:
    """A part's inputs; InputError where one is not published, or is stale. An optional stage takes what there is."""
    inputs = {}
    for name in part.needs:
        manifest = partitions.read_manifest(config.root, name, config.day)
        if manifest is None and stage.optional:
            continue
        if manifest is None:
            raise InputError(_missing(config, stage, name, pipeline))
        if not stage.optional:
            _check_fresh(config, manifest, pipeline)
        inputs[name] = Input(partitions.linked(config.root, name, config.day), manifest)
    return inputs


def _check_fresh(config: RunConfig, manifest: Manifest, pipeline: Sequence[Stage]) -> None:
    """Raise InputError where an input is stale: made with other settings, or from older versions of tables."""
    made = maker_of(config, manifest.table, pipeline)
    if made is None:
        return
    stage, part = made
    now = {name: partitions.read_manifest(config.root, name, config.day) for name in part.needs}
    for name, version in manifest.inputs.items():
        newer = now.get(name)
        if newer is not None and newer.version != version:
            raise InputError(
                f"{manifest.table} of {config.day} is stale: it was made from {name} {version}, and {newer.version} is"
                f" published now. Run `distilrec {stage.name}` first"
            )
    if "settings" in manifest.made_by:
        before, wanted = manifest.made_by["settings"], _settings_of(config, part)
        if changed := changes(before, wanted):
            raise InputError(
                f"{manifest.table} of {config.day} is stale: it was made with other settings ({'; '.join(changed[:3])})."
                f" Run `distilrec {stage.name}` first"
            )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two flat mappings, `name: before → now` each."""
    names = sorted(before.keys() | now.keys())
    return [f"{name}: {before.get(name)} → {now.get(name)}" for name in names if before.get(name) != now.get(name)]


def _missing(config: RunConfig, stage: Stage, name: str, pipeline: Sequence[Stage]) -> str:
    made = maker_of(config, name, pipeline)
    advice = (
        f"Run `distilrec {made[0].name}` first, or `distilrec nightly` for all stages"
        if made
        else "Run `distilrec nightly`"
    )
    return f"{stage.name} needs {name} of {config.day}, and none is published under {config.place()}. {advice}"


def _filled(stage: Stage, module: ModuleType, staged: list[Job]) -> Any:
    """The details of what the stage's `build` makes. LateInputError: the input of a Spark stage changed meanwhile."""
    try:
        details = module.build(staged) if stage.together else module.build(staged[0])
    except InputError:  # maybe a file that was replaced while it was read
        _check_unchanged(stage, module, staged)
        raise
    _check_unchanged(stage, module, staged)
    return details


def _check_unchanged(stage: Stage, module: ModuleType, jobs: list[Job]) -> None:
    """Raise LateInputError where the shop's files are no longer those of the fingerprint. Only Spark stages read them."""
    if stage.engine != "spark" or not hasattr(module, "find"):
        return
    for job in jobs:
        try:
            now = module.find(job.config, job.part, job.inputs).versions
            changed = [name for name, version in now.items() if version != job.versions.get(name)]
        except InputError as error:
            changed = [str(error)]
        if changed:
            raise LateInputError(
                f"the input changed while {stage.name} read it: {', '.join(changed)}. Nothing is published. Run the same"
                " command again once the export is whole; with input.events.ready a run waits for the export's marker"
            )


def _build(stage: Stage, module: ModuleType, jobs: list[Job]) -> dict[str, Manifest]:
    """Build jobs in staging folders, check each table against its contract, publish all."""
    config, started = jobs[0].config, time.monotonic()
    staged = [
        replace(job, outputs={name: partitions.new_staging(config.root, name, config.day) for name in job.part.makes})
        for job in jobs
    ]
    try:
        details = _filled(stage, module, staged)
        for job in staged:
            for name, folder in job.outputs.items():
                if table := tables.ALL.get(name.partition("/")[0]):
                    tables.check_files(table, folder)
    except BaseException:
        for job in staged:
            for folder in job.outputs.values():
                shutil.rmtree(folder, ignore_errors=True)
        raise
    spent: dict[str, Any] = {"seconds": round(time.monotonic() - started, 2)}
    if stage.together:
        spent["trained_together"] = len(jobs)
    return {
        name: partitions.publish(
            folder,
            config.root,
            name,
            config.day,
            fingerprint=job.fingerprint,
            inputs=job.versions,
            details={**(details or {}).get(name, {}), **spent},
            made_by=job.made_by,
        )
        for job in staged
        for name, folder in job.outputs.items()
    }
