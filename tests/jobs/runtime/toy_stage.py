"""A stage for the tests of the runner: writes its inputs' names and a setting into each output."""

from collections.abc import Mapping
from pathlib import Path

from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.store.partitions import Manifest

OUTSIDE = Path("outside.txt")
"""In the output folder: a file of the shop's."""
built: list[str] = []
"""What was built, in order."""
told: list[str] = []


def wait_for_input(config: RunConfig) -> None:
    """The shop's file arrives during the wait, where it is on its way."""
    if (coming := config.root / "coming").exists():
        coming.replace(config.root / OUTSIDE)


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """The file, if it is there."""
    file = config.root / OUTSIDE
    return Found({"outside": file.read_text()}, "seen") if file.exists() else Found()


def build(job: Job) -> Details:
    """Write a file into each output."""
    if (job.config.root / "fail").exists():
        raise RuntimeError("the stage broke")
    if (change := job.config.root / "change").exists():  # the shop replaces its file while the stage reads it
        change.replace(job.config.root / OUTSIDE)
    if (job.config.root / "lost").exists():
        raise InputError("a file is gone")
    for name, folder in job.outputs.items():
        built.append(name)
        (folder / "made.txt").write_text(f"{sorted(job.inputs)} {job.found}")
    return {name: {"note": "kept"} for name in job.outputs}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Note what there is."""
    told.extend(manifests)
