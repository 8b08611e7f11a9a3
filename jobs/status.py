"""List distilrec's jobs on a Ray cluster: state, start, duration, exit status."""

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import Any

from jobs.runtime.console import say
from jobs.runtime.ray_jobs import SUBMISSION, add_address, connect, jobs_of
from kdlib.errors import DistilrecError


def run(arguments: argparse.Namespace) -> None:
    """Print a line a job, the newest last."""
    found = []
    for job in jobs_of(connect(arguments.address)):
        submission = SUBMISSION.fullmatch(job.submission_id or "")
        if submission and arguments.ds in (None, submission["ds"]):
            found.append(job)
    if not found:
        of_the_day = f" for {arguments.ds}" if arguments.ds else ""
        say(f"no distilrec job{of_the_day} at {arguments.address} (a cluster forgets its jobs when it ends)")
        return
    width = max(len(job.submission_id) for job in found)
    say(f"{'job':{width}}  {'state':9}  {'started (UTC)':16}  {'minutes':>7}  message")
    for job in sorted(found, key=lambda job: job.start_time):
        say(f"{job.submission_id:{width}}  {_line(job, now=time.time())}")


def _line(job: Any, *, now: float) -> str:
    """State, start, duration and message of a job; Ray's times are milliseconds."""
    start, end = job.start_time / 1000, (job.end_time or now * 1000) / 1000
    message = (job.message or "").partition("\n")[0].removesuffix(", last available logs (truncated to 20,000 chars):")
    started = datetime.fromtimestamp(start, UTC)
    return f"{job.status.value:9}  {started:%Y-%m-%d %H:%M}  {(end - start) / 60:7.1f}  {message[:100]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="distilrec status", description=__doc__)
    add_address(parser)
    parser.add_argument("--ds", help="only jobs for this day, YYYY-MM-DD")
    arguments = parser.parse_args(argv)
    try:
        run(arguments)
    except DistilrecError as error:
        print(f"distilrec: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
