"""Deliver the run in use in a process of its own, with short deadlines, so that a fault may hit it at any request."""

import os
import signal
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from kdlib.errors import DistilrecError
from kdlib.release import delivery
from kdlib.store import objects

PROCESSES = get_context("forkserver")
"""Fresh processes that have imported this module already, and have no thread."""
PROCESSES.set_forkserver_preload([__name__])
DEADLINES = {"REQUEST_SECONDS": 1, "RETRY_SECONDS": 2, "RETRIES": 3}
"""Constants of `kdlib.store.objects`. A store of the tests answers within milliseconds."""
END_SECONDS = 60


def publish(root: Path, url: str, environment: dict[str, str]) -> None:
    """Deliver, and end as the command line does: with 0, the error's status, or 143 after SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(environment)
    for name, value in DEADLINES.items():
        setattr(objects, name, value)
    try:
        delivery.deliver(root, url, keep=5, warn=lambda _: None)
    except DistilrecError as error:
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


def start(root: Path, url: str, endpoint: str) -> BaseProcess:
    """Start a process that publishes through an endpoint."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = PROCESSES.Process(target=publish, args=(root, url, settings | {"AWS_ENDPOINT_URL": endpoint}))
    process.start()
    return process


def status_of(process: BaseProcess) -> int | None:
    """The exit status when the process has ended; None if it has not ended within `END_SECONDS`, and is killed."""
    process.join(END_SECONDS)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    return status
