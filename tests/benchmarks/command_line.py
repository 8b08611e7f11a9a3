"""The command line of benchmarks that read a run config: `--config`, `--ds` and `--set`, as `distilrec` has them."""

import argparse
from collections.abc import Callable

from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import USUAL_CONFIG, in_utf8
from kdlib.config.run import RunConfig


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


def measure(name: str, run: Callable[[RunConfig], object], *, description: str | None) -> int:
    """Run a benchmark that reads a finished run and has no other options; returns its exit status."""
    in_utf8(None)
    return execute(name, invocation_of(run_config_parser(description).parse_args()), run, reads_only=True)
