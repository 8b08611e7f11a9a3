"""Runs single stages, as the tests need it."""

from typing import Any

from jobs.pipeline import STAGES, stage_named
from jobs.runtime.runner import run_stage
from kdlib.config.run import RunConfig
from kdlib.store.partitions import Manifest


def run(name: str, config: RunConfig, **options: Any) -> dict[str, Manifest]:
    """Run a stage in this process; table or model → manifest."""
    return run_stage(config, stage_named(name), pipeline=STAGES, options=options)
