"""Write the run's report: one HTML page of all that is published for a date, also after a run that failed."""

from collections.abc import Mapping
from dataclasses import asdict

from jobs.runtime.console import say
from jobs.runtime.names import models_of
from jobs.runtime.published import REFITTED
from jobs.runtime.stage import Details, Found, Input, Job, Part
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.report.gather import find_partitions, gather, use_of
from kdlib.report.page import page
from kdlib.store.fingerprint import fingerprint_of
from kdlib.store.partitions import Manifest

MADE_UP_TIMES = "The input has no times: a user's last item is on the run's day, each earlier item one day before."


def find(config: RunConfig, part: Part, inputs: Mapping[str, Input]) -> Found:
    """What the page shows: all that is published for the date, tables of earlier runs, and what is in use.

    Raises:
      InputError: nothing is published for the date.
    """
    found = find_partitions(config.root, config.day)
    if all(day != config.day for _, day in found):
        raise InputError(
            f"nothing is published for {config.day} under {config.place()}, so there is nothing to report:"
            " run `distilrec nightly` first"
        )
    versions = {f"{table}/ds={day}": manifest.version for (table, day), manifest in found.items()}
    in_use = fingerprint_of(asdict(use_of(config.root, config.day, found)))
    return Found(versions | {"in use": in_use}, found)


def build(job: Job) -> Details:
    """Write the page."""
    config = job.config
    sequences = config.input.events is not None and config.input.events.format == "sequences"
    run = gather(
        config.root,
        config.day,
        name=config.name,
        k=config.evaluation.judged_k,
        models=models_of(config),
        found=job.found,
        notes=[*([MADE_UP_TIMES] if sequences else []), *([REFITTED] if config.student.refit else [])],
    )
    (job.output / "index.html").write_text(page(run))
    return {}


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say where the page lies."""
    say(f"report    {config.root / 'reports' / f'ds={config.day}' / 'index.html'}")
