"""What a run would do with each stage and why, with time and bytes of the stage's last run."""

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

FEW = 4
"""Up to this many reasons of a stage are printed."""


@dataclass(frozen=True)
class Step:
    """What a run would do with a stage."""

    stage: Stage
    reasons: tuple[str, ...]
    """Why the stage is stale by itself; maybe empty."""
    after: tuple[str, ...]
    """Stages that make inputs of this stage again."""
    seconds: float | None
    """Time of the last run, for this date or an earlier one. None: the stage has never run."""
    num_bytes: int
    """Size of all that the last run made."""

    @property
    def runs(self) -> bool:
        """Whether the stage has anything to make."""
        return bool(self.reasons or self.after)


def run(config: RunConfig) -> None:
    """Print the plan of the config's date. Nothing is written."""
    steps = plan(config)
    width = max(len(step.stage.name) for step in steps)
    say(f"plan of {config.name} for {config.day}, in {config.place()}; times and sizes are those of the last run")
    for step in steps:
        status = "acts each time" if step.stage.acts else "runs" if step.runs else "up to date"
        size = "" if step.seconds is None else f"{step.seconds:>7,.0f} s {step.num_bytes / 2**20:>9,.1f} MiB"
        why = [f"after {', '.join(step.after)}"] if step.after else []
        why = [*step.reasons[:FEW], *([f"and {len(step.reasons) - FEW} more"] if len(step.reasons) > FEW else []), *why]
        say(f"  {step.stage.name:{width}}  {status:14}  {size:24} {why[0] if why else ''}".rstrip())
        for reason in why[1:]:
            say(f"  {'':{width}}  {'':14}  {'':24} {reason}")
    due = [step for step in steps if step.runs]
    if not due:
        say("everything is up to date")
        return
    known = [step for step in due if step.seconds is not None]
    seconds, size = sum(step.seconds or 0.0 for step in known), sum(step.num_bytes for step in known)
    new = len(due) - len(known)
    unknown = f"{new} {'has' if new == 1 else 'have'} never run" if new else ""
    taken = f"about {seconds:,.0f} s and {size / 2**20:,.1f} MiB" if known else ""
    say(f"{len(due)} of {len(steps)} stages run: {'; '.join(filter(None, (taken, unknown)))}")


def plan(config: RunConfig, pipeline: Sequence[Stage] = STAGES) -> list[Step]:
    """What a run would do with each stage that applies to the config."""
    steps, remade = list[Step](), dict[str, str]()
    for stage in pipeline:
        if not stage.when(config):
            continue
        reasons, after, last = list[str](), list[str](), list[Manifest]()
        for part in () if stage.acts else stage.parts_of(config):
            before = [remade[name] for name in part.needs if name in remade]
            found = _reasons(config, stage, part, known=not before)
            if found or before:
                remade |= dict.fromkeys(part.makes, stage.name)
            reasons += found
            after += before
            last += [one for name in part.makes if (one := _last(config, name)) is not None]
        # a set: parts that were made together have the same time, which counts once
        times = {one.details.get("seconds", 0.0) for one in last}
        size = sum(file["bytes"] for one in last for file in one.files)
        steps.append(Step(stage, _once(reasons), _once(after), sum(times) if last else None, size))
    return steps


def _once(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _reasons(config: RunConfig, stage: Stage, part: Part, *, known: bool) -> list[str]:
    """Why a part is stale by itself. Empty: it is up to date, unless a stage makes its inputs again.

    Args:
      config: the run config.
      stage: the part's stage.
      part: the part.
      known: whether the inputs stay as they are. Only then their versions are compared.
    """
    manifests = {name: partitions.read_manifest(config.root, name, config.day) for name in part.makes}
    if any(manifest is None for manifest in manifests.values()):
        return [f"not made for {config.day} yet"]
    reasons = [
        f"{name}: {broken[0]} is missing or cut off"
        for name, one in manifests.items()
        if one is not None and (broken := partitions.damaged(config.root, one))
    ]
    manifest = next(iter(manifests.values()))
    assert manifest is not None
    before = manifest.made_by
    if not before:
        return [*reasons, "made by an earlier version of distilrec, which did not record the inputs"]
    if known:
        try:
            now = prepare(config, stage, part).made_by
        except DistilrecError as error:
            return [*reasons, f"cannot be checked: {error}"]
        reasons += [f"input {change}" for change in changes(before["inputs"], now["inputs"])]
    else:
        now = made_by(config, stage, part, before["inputs"])
    reasons += [f"setting {change}" for change in changes(before["settings"], now["settings"])]
    reasons += [f"source {change.partition(':')[0]}" for change in changes(before["code"], now["code"])]
    if not reasons and manifest.fingerprint != fingerprint_of(now):
        reasons.append("made by another stage")
    return reasons


def _last(config: RunConfig, name: str) -> Manifest | None:
    """The newest manifest of a table or model up to the config's date."""
    now = partitions.read_manifest(config.root, name, config.day)
    if now is not None:
        return now
    before = partitions.latest(config.root, name, before=config.day)
    return partitions.read_manifest(config.root, name, before) if before else None
