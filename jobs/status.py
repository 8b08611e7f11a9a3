"""List distilrec's jobs on a Ray cluster: state, start, duration, exit status."""

import time
from datetime import UTC, datetime
from typing import Any

from jobs.runtime.console import say
from jobs.runtime.ray_jobs import SUBMISSION, connect, jobs_of


def run(address: str | None, ds: str | None) -> None:
    """Print one line for each job, the newest last. With `ds`, only jobs of this date."""
    found = []
    for job in jobs_of(connect(address)):
        submission = SUBMISSION.fullmatch(job.submission_id or "")
        if submission and ds in (None, submission["ds"]):
            found.append(job)
    if not found:
        of_the_day = f" for {ds}" if ds else ""
        say(f"no distilrec job{of_the_day} at {address} (a cluster forgets its jobs when it ends)")
        return
    width = max(len(job.submission_id) for job in found)
    say(f"{'job':{width}}  {'state':9}  {'started (UTC)':16}  {'minutes':>7}  message")
    for job in sorted(found, key=lambda job: job.start_time):
        say(f"{job.submission_id:{width}}  {_line(job, now=time.time())}")


def _line(job: Any, *, now: float) -> str:
    """State, start, duration and message of a job. Ray's times are in milliseconds."""
    start, end = job.start_time / 1000, (job.end_time or now * 1000) / 1000
    message = (job.message or "").partition("\n")[0].removesuffix(", last available logs (truncated to 20,000 chars):")
    started = datetime.fromtimestamp(start, UTC)
    return f"{job.status.value:9}  {started:%Y-%m-%d %H:%M}  {(end - start) / 60:7.1f}  {message[:100]}"
