"""Talk to the job server of a Ray cluster: connect, name submissions, follow one to its end."""

import os
import re
import socket
import sys
import time
from typing import Any
from urllib.parse import urlparse

from jobs.runtime.console import say
from kdlib.errors import BusyError, ConfigError, DistilrecError, UnreachableError

POLL_SECONDS = 2.0
CONNECT_SECONDS = 10.0
START_SECONDS = 180.0
"""How long to retry a submission. A job server answers before its node can take jobs."""
LOST_SECONDS = 600.0
"""How long to retry a job server that does not answer. The job itself may go on."""
STOP_SECONDS = 30.0
"""How long to wait for a job that was told to stop. Ray kills it after three seconds."""

SUBMISSION = re.compile(
    r"distilrec-(?P<name>[a-z0-9_]+)-(?P<stage>[a-z-]+)-(?P<ds>\d{4}-\d\d-\d\d)(?:-(?P<attempt>\d+))?"
)
"""Submission ids: one for each run config, stage and date. Later attempts are numbered from 2."""


def connect(address: str | None) -> Any:
    """A `JobSubmissionClient` for the job server at an address.

    Raises:
      ConfigError: the address is missing, or is not the URL of a job server.
      UnreachableError: nothing answers there.
      DistilrecError: the server refuses the token, or cannot talk to this version of Ray.
    """
    if not address:
        raise ConfigError("no cluster: give --address http://HEAD:8265 or set RAY_API_SERVER_ADDRESS")
    url = urlparse(address)
    try:
        port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:  # no number, or too large
        port = None
    if url.scheme not in ("http", "https") or not url.hostname or port is None:
        raise ConfigError(f"--address takes the URL of a Ray job server, http://HEAD:8265, found {address!r}")
    try:  # Ray's own client waits without a limit
        socket.create_connection((url.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error) from None
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # otherwise this variable and RAY_ADDRESS win over the argument
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise DistilrecError(
            f"the cluster at {address} refuses this token ({str(error).splitlines()[0]}): set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file, to the cluster's token"
        ) from None
    except OSError as error:
        raise _unreachable(address, error) from None
    except (RuntimeError, ValueError) as error:
        raise DistilrecError(f"the Ray job server at {address} cannot be used: {error}") from None


def _unreachable(address: str, error: Exception) -> UnreachableError:
    return UnreachableError(
        f"no Ray job server answers at {address} ({error}). Check that the cluster is up, its port is forwarded, and"
        " ray[default] is installed on it"
    )


def submit(client: Any, **job: Any) -> None:
    """Submit a job; retry while a new cluster has no node for it.

    Raises:
      BusyError: the submission id is taken.
      UnreachableError: no node has taken the job within `START_SECONDS`.
      DistilrecError: the cluster does not take the job.
    """
    first, told = time.monotonic(), False
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if "already exists" in str(error):
                raise BusyError(f"someone else has just submitted {job['submission_id']}") from None
            starting = "No available agent" in str(error)
            if not starting or time.monotonic() - first > START_SECONDS:
                kind = UnreachableError if starting else DistilrecError
                raise kind(f"the cluster does not take {job['submission_id']}: {error}") from None
            if not told:
                say(f"no node of the cluster can take {job['submission_id']} yet; retrying for {START_SECONDS:.0f} s")
                told = True
        time.sleep(POLL_SECONDS)


def follow(client: Any, submission_id: str) -> Any:
    """Print a job's log as it grows; returns the finished job's details.

    Raises:
      UnreachableError: the job server no longer answers.
    """
    printed, answered = 0, time.monotonic()
    while True:
        try:
            job = client.get_job_info(submission_id)  # before the log: the log of a finished job is then whole
            log = client.get_job_logs(submission_id)
        except (OSError, RuntimeError) as error:
            if time.monotonic() - answered > LOST_SECONDS:
                raise UnreachableError(
                    f"the job server has not answered for {LOST_SECONDS:.0f} s ({error}), and {submission_id} may go on."
                    " Look with `distilrec status`, then submit again"
                ) from None
        else:
            answered = time.monotonic()
            print(log[printed:], end="", flush=True)
            printed = len(log)
            if job.status.is_terminal():
                return job
        time.sleep(POLL_SECONDS)


def stop(client: Any, submission_id: str) -> None:
    """Stop a job and wait for its end. Until then the job holds the lock of its date."""
    asked = time.monotonic()
    try:
        client.stop_job(submission_id)
        while not client.get_job_info(submission_id).status.is_terminal():
            if time.monotonic() - asked > STOP_SECONDS:
                raise TimeoutError(f"it still runs after {STOP_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
    except (OSError, RuntimeError) as error:
        print(f"distilrec: {submission_id} may go on: {error}. Look with `distilrec status`", file=sys.stderr)


def jobs_of(client: Any) -> list[Any]:
    """All jobs of a cluster; UnreachableError where the job server cannot list them, as while the head starts."""
    try:
        return client.list_jobs()
    except (OSError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnreachableError(
            f"the Ray job server does not list its jobs ({said}). Check that the cluster's head is up"
        ) from None


def exit_status(job: Any) -> int:
    """The exit status of a finished job's process. Without one, print a message and return 1."""
    if job.status == "SUCCEEDED":
        return 0
    code = job.driver_exit_code
    if code is None:
        print(f"distilrec: {job.submission_id} {job.status.lower()}: {job.message}", file=sys.stderr)
        return 1
    say(f"distilrec: {job.submission_id} ended with exit status {code}")
    return code if code > 0 else 128 - code  # the shell's number for a signal
