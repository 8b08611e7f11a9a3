"""Put an earlier night in use again, table and model together: `distilrec rollback --to 2026-11-21`."""

import argparse
import sys
from contextlib import nullcontext
from datetime import date

from jobs import deliver, report, telemetry
from jobs.runtime.console import command, one_line, say
from jobs.runtime.lock import run_lock
from kdlib.config.load import load_config
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.release import promotions
from kdlib.store import partitions


def run(config: RunConfig, to: str, reason: str) -> None:
    """Switch `promoted` back; the pages of that night and of the withdrawn ones say so.

    Raises:
      ConfigError: `delivery` names a place that nothing can be delivered to.
      InputError: that night was never promoted, or its files are gone.
      DeliveryError: that night is in use here, but did not get to where others read it.
    """
    deliver.check(config)
    before = promotions.current(config.root)
    promotions.rollback(config.root, to, reason=reason)
    was = f", {before.ds} no more" if before and before.ds != to else ""
    say(f"rollback: {to} is in use{was}: {config.root / promotions.LINK / 'recommendations'}")
    try:
        if config.delivery:
            deliver.run_and_tell(config)
        else:
            telemetry.tell(config)
    finally:
        _remake_pages(config, to)


def _remake_pages(config: RunConfig, to: str) -> None:
    """Of the nights that were put in use or out of it; one that fails is a warning."""
    for ds in sorted({switch.ds for switch in promotions.history(config.root) if switch.ds >= to}):
        night = config.model_copy(update={"ds": date.fromisoformat(ds)})
        try:
            if partitions.read_manifest(config.root, "reports", ds):
                with nullcontext() if ds == to else run_lock(night, "report"):
                    report.run(night)
        except Exception as error:
            say(f"report    warning: the page of {ds} is as it was ({type(error).__name__}: {one_line(error)})")


def _load(arguments: argparse.Namespace) -> RunConfig:
    if arguments.ds is not None:
        raise ConfigError(
            f"--ds {arguments.ds}: rollback takes no date but that of the night to go back to: give it with --to"
        )
    return load_config(arguments.config, overrides=tuple(arguments.set), ds=arguments.to)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", required=True, metavar="DS", help="the promoted night to go back to, YYYY-MM-DD")
    parser.add_argument("--reason", default="", help="kept on record")


def main(argv: list[str] | None = None) -> int:
    return command(
        "rollback",
        lambda config: None,
        argv,
        description=__doc__ or "",
        add_arguments=_add_arguments,
        with_arguments=lambda config, arguments: run(config, arguments.to, arguments.reason),
        load=_load,
        ds_help=argparse.SUPPRESS,
    )


if __name__ == "__main__":
    sys.exit(main())
