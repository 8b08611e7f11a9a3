"""Put an earlier night in use again, table and model together: `distilrec rollback --to 2026-11-21`."""

import argparse
import sys

from jobs import deliver, telemetry
from jobs._console import command, say
from kdlib import promotions
from kdlib.config import RunConfig, load_config


def run(config: RunConfig, to: str, reason: str) -> None:
    """Switch `promoted` back.

    Raises:
      InputError: that night was never promoted, or its files are gone.
    """
    before = promotions.current(config.root)
    promotions.rollback(config.root, to, reason=reason)
    was = f", {before.ds} no more" if before and before.ds != to else ""
    say(f"rollback: {to} is in use{was}: {config.root / promotions.LINK / 'recommendations'}")
    mends: tuple[int, ...] = ()
    try:
        if config.delivery:
            deliver.run(config)
            mends = (74,)
    finally:
        telemetry.tell(config, mends=mends)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", required=True, metavar="DS", help="the promoted night to go back to, YYYY-MM-DD")
    parser.add_argument("--reason", default="", help="kept on record")


def main(argv: list[str] | None = None) -> int:
    return command(
        "rollback", lambda config: None, argv, description=__doc__ or "", add_arguments=_add_arguments,
        with_arguments=lambda config, arguments: run(config, arguments.to, arguments.reason),
        load=lambda arguments: load_config(arguments.config, overrides=tuple(arguments.set), ds=arguments.to),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
