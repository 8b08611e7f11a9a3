"""The night's report: one HTML page of all that was published for a date, whatever the night has got to."""

import argparse
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.runtime.console import command, log_file, one_line, say
from jobs.runtime.report_tables import TABLES, stages_with
from jobs.runtime.step import run_step
from kdlib.config.run import RunConfig
from kdlib.errors import InputError
from kdlib.report.gather import find_partitions, gather, use_of
from kdlib.report.page import page
from kdlib.report.rendering import template_files
from kdlib.store.partitions import Manifest

MADE_UP_TIMES = "The input has no times: a user's last item falls on the run's day, each earlier one a day before."


def models_of(config: RunConfig) -> list[str]:
    """The models that the report speaks of, teachers first."""
    return [*(name for teacher in config.teachers for name in teacher.models), "models/student", "models/control"]


def run(config: RunConfig) -> dict[str, Manifest]:
    """Publish `reports`.

    Raises:
      InputError: nothing at all is published for the date.
    """
    models = models_of(config)
    found = find_partitions(config.root, config.day, models, TABLES)
    if all(night != config.day for _, night in found):
        raise InputError(
            f"nothing is published for {config.day} under {config.root}, so there is nothing to report:"
            " run `distilrec nightly` first"
        )
    sequences = config.input.events is not None and config.input.events.format == "sequences"
    notes = [MADE_UP_TIMES] if sequences else []
    k = config.evaluation.judged_k

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        night = gather(
            config.root,
            config.day,
            name=config.name,
            k=k,
            models=models,
            found=found,
            stages=stages_with(models),
            notes=notes,
        )
        (staging["reports"] / "index.html").write_text(page(night))
        return {}

    made = run_step(
        config,
        ("reports",),
        settings=[config.name, k, models, notes, asdict(use_of(config.root, config.day, found)), template_files()],
        inputs={f"{table}/ds={night}": manifest.version for (table, night), manifest in found.items()},
        build=build,
    )
    say(f"report    {config.root / 'reports' / f'ds={config.day}' / 'index.html'}")
    return made


def run_or_warn(config: RunConfig) -> None:
    """`run`, at the end of a night whose table is published: a failure is a warning, the rest of it goes to the log."""
    try:
        run(config)
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {one_line(error)}"
        say(f"report    warning: no page was written ({what}); full text: {log_file(config, 'nightly')}")


def _run_and_tell(config: RunConfig, status: int | None) -> None:
    """The last job of a night that an orchestrator runs job by job tells monitoring too, also where there is nothing to show."""
    from jobs import telemetry

    try:
        run(config)
    finally:
        if status is None:
            telemetry.tell(config)
        else:
            telemetry.write_or_warn(config, status)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--status",
        type=int,
        help="the night's exit status, for telemetry; without it the night that was told last stays",
    )


def main(argv: list[str] | None = None) -> int:
    return command(
        "report",
        lambda config: None,
        argv,
        description=__doc__ or "",
        add_arguments=_add_arguments,
        with_arguments=lambda config, arguments: _run_and_tell(config, arguments.status),
        in_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
