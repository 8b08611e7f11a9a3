"""One command for each stage, made from `jobs.pipeline`."""

from typing import Any

import click

from jobs.pipeline import STAGES
from jobs.runtime.command import Invocation, execute
from jobs.runtime.extras import check_search_extra
from jobs.runtime.options import FORCE, IN_USE_DAY, REASON, configured
from jobs.runtime.stage import Stage

OF_SEARCH = (
    "train-search-encoder",
    "encode-products",
    "encode-queries",
    "train-search",
    "build-search-index",
    "rank-search",
)
"""Stages that need the extra `search`."""


def _command(stage: Stage) -> click.Command:
    def run(invocation: Invocation, **options: Any) -> int:
        from jobs.runtime.runner import run_stage

        if stage.name in OF_SEARCH:
            check_search_extra()
        return execute(
            stage.name.replace("-", "_"),
            invocation,
            lambda config: run_stage(config, stage, pipeline=STAGES, options=options),
            in_use=stage.last,
            quiet_engines=True,
        )

    run.__doc__ = f"{stage.summary[0].upper()}{stage.summary[1:]}."
    for name in stage.options:
        run = {"force": FORCE, "reason": REASON}[name](run)
    return click.command(stage.name)(configured(run, ds=IN_USE_DAY if stage.last else ""))


COMMANDS = tuple(map(_command, STAGES))
