"""The command line of the benchmarks that read a run config: `--config`, `--ds` and `--set`, as `distilrec` has them."""

import argparse

from jobs.runtime.command import Invocation
from jobs.runtime.console import USUAL_CONFIG


def run_config_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every command with a run config has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", default=USUAL_CONFIG, metavar="FILE", help="run config (default: %(default)s)")
    parser.add_argument("--ds", metavar="YYYY-MM-DD", help="the run's date (default: the run config's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated"
    )
    return parser


def invocation_of(arguments: argparse.Namespace) -> Invocation:
    """What these options say."""
    return Invocation(arguments.config, arguments.ds, tuple(arguments.set))
