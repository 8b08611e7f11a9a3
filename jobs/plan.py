"""What a run would do: each stage up to date, or the reason why not, with time and bytes of its last run."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.pipeline import STAGES
from jobs.runtime.console import say
from jobs.runtime.runner import changes, made_by, prepare
from jobs.runtime.stage import Part, Stage
from kdlib.config.run import RunConfig
from kdlib.errors import DistilrecError
from kdlib.store import partitions
from kdlib.store.fingerprint import fingerprint_of
from kdlib.store.partitions import Manifest

FEW = 3
"""Up to this many reasons of a stage are named."""


@dataclass(frozen=True)
class Step:
    """What a run would do with a stage."""

    stage: Stage
    reasons: tuple[str, ...]
    """Why the stage runs; empty: it is up to date."""
    seconds: float | None
    """Of its last run, for this date or an earlier one."""
    num_bytes: int | None


def run(config: RunConfig) -> None:
    """Print the plan of the config's date. Nothing is written."""
    steps = plan(config)
    width = max(len(step.stage.name) for step in steps)
    say(f"plan of {config.name} for {config.day}, in {config.root}")
    for step in steps:
        last = (
            "" if step.seconds is None else f"{step.seconds:,.0f} s, {(step.num_bytes or 0) / 2**20:,.1f} MiB last time"
        )
        if step.stage.acts:
            say(f"  {step.stage.name:{width}}  runs each time")
        elif not step.reasons:
            say(f"  {step.stage.name:{width}}  up to date ({last})")
        else:
            say(f"  {step.stage.name:{width}}  runs{f' ({last})' if last else ''}")
            for reason in step.reasons[:FEW]:
                say(f"  {'':{width}}    {reason}")
            if (more := len(step.reasons) - FEW) > 0:
                say(f"  {'':{width}}    and {more} more")
    due = [step for step in steps if step.reasons]
    if not due:
        say("up to date: a run would make nothing again")
        return
    known = [step for step in due if step.seconds is not None]
    seconds, size = sum(step.seconds or 0 for step in known), sum(step.num_bytes or 0 for step in known)
    unknown = f"; {len(due) - len(known)} of them have never run" if len(known) < len(due) else ""
    say(f"{len(due)} stages run: {seconds:,.0f} s and {size / 2**20:,.1f} MiB, going by their last time{unknown}")


def plan(config: RunConfig, pipeline: Sequence[Stage] = STAGES) -> list[Step]:
    """What a run would do with each stage that applies to the config."""
    steps, changing = list[Step](), set[str]()
    for stage in pipeline:
        if not stage.when(config):
            continue
        reasons, last = list[str](), list[Manifest]()
        for part in () if stage.acts else stage.parts_of(config):
            found = _reasons(config, stage, part, changing, pipeline)
            if found:
                changing |= set(part.makes)
            reasons += found
            last += [one for name in part.makes if (one := _last(config, name)) is not None]
        times = {one.details.get("seconds", 0.0) for one in last}  # what was made together has the same
        size = sum(file["bytes"] for one in last for file in one.files)
        unique = tuple(dict.fromkeys(reasons))
        steps.append(Step(stage, unique, sum(times) if last else None, size if last else None))
    return steps


def _reasons(config: RunConfig, stage: Stage, part: Part, changing: set[str], pipeline: Sequence[Stage]) -> list[str]:
    """Why a part would be made again; empty: it is up to date."""
    manifests = {name: partitions.read_manifest(config.root, name, config.day) for name in part.makes}
    missing = [name for name in part.makes if manifests[name] is None]
    if missing:
        return [f"{name}: none of {config.day} yet" for name in missing]
    reasons = [f"input {name}: is made again" for name in part.needs if name in changing]
    manifest = next(iter(manifests.values()))
    assert manifest is not None
    if not manifest.made_by:
        return [*reasons, "made by an earlier version of distilrec, which did not note from what"]
    before = manifest.made_by
    if reasons:
        now = made_by(config, stage, part, {})
    else:
        try:
            now = prepare(config, stage, part, pipeline=()).made_by
        except DistilrecError as error:
            return [f"cannot be looked at: {error}"]
        reasons += [f"input {change}" for change in changes(before["inputs"], now["inputs"])]
    reasons += [f"setting {change}" for change in changes(before["settings"], now["settings"])]
    reasons += [f"source {change.partition(':')[0]}" for change in changes(before["code"], now["code"])]
    if not reasons and manifest.fingerprint != fingerprint_of(now):
        reasons.append("made by another version of the stage")
    damaged = [
        f"{name}: {broken[0]} is missing or cut off"
        for name, one in manifests.items()
        if one is not None and (broken := partitions.damaged(config.root, one))
    ]
    return reasons + damaged


def _last(config: RunConfig, name: str) -> Manifest | None:
    """The newest manifest of a table or model up to the config's date."""
    now = partitions.read_manifest(config.root, name, config.day)
    if now is not None:
        return now
    before = partitions.latest(config.root, name, before=config.day)
    return partitions.read_manifest(config.root, name, before) if before else None
