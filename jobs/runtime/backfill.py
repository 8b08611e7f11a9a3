"""Several nights, one after the other."""

import argparse
import sys
from collections.abc import Callable
from datetime import date, timedelta

from jobs.runtime.console import in_utf8
from kdlib.errors import ConfigError


def add_days(parser: argparse.ArgumentParser) -> None:
    """The options of `nights`, for the help."""
    parser.add_argument("--from", metavar="YYYY-MM-DD", help="with --to, in place of --ds: all nights of these days")
    parser.add_argument("--to", metavar="YYYY-MM-DD", help="the last of these days")


def nights(argv: list[str] | None, night: Callable[[list[str]], int]) -> int:
    """Run `night` with the arguments, or with `--from` and `--to` once a day, with `--ds` for these.

    Args:
      argv: the command line's; None: this process's.
      night: arguments → exit status.

    Returns:
      The exit status of the last night; the first that fails is the last.
    """
    in_utf8(argv)
    backfill = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    backfill.add_argument("--from", dest="first")
    backfill.add_argument("--to", dest="last")
    days, others = backfill.parse_known_args(argv)
    if days.first is None and days.last is None:
        return night(others)
    try:
        first, last = date.fromisoformat(days.first or ""), date.fromisoformat(days.last or "")
    except ValueError:
        first, last = date.max, date.min
    if first > last or any(one.split("=")[0] == "--ds" for one in others):
        print(
            f"distilrec: error: a backfill needs --from and --to, YYYY-MM-DD, in this order and without --ds; found --from"
            f" {days.first} --to {days.last}",
            file=sys.stderr,
        )
        return ConfigError.exit_status
    for number in range((last - first).days + 1):
        day = (first + timedelta(days=number)).isoformat()
        if status := night([*others, "--ds", day]):
            print(f"distilrec: the backfill of {days.first} to {days.last} ended at {day}", file=sys.stderr)
            return status
    return 0
