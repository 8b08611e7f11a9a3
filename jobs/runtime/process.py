"""Run a stage in a process of its own: Spark and Ray do not share one (memory, signals)."""

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext

from jobs.runtime.command import Invocation
from jobs.runtime.lock import inherited_lock
from kdlib.errors import DistilrecError


def run_in_own_process(
    stage: str, invocation: Invocation, *, meanwhile: AbstractContextManager[object] | None = None
) -> None:
    """`distilrec <stage>` with this invocation; its output goes where this process's does.

    Args:
      stage: name of the stage.
      invocation: run config, date and overrides.
      meanwhile: entered once the process has started, left once it has ended.

    Raises:
      DistilrecError: the stage failed; carries its exit status, 128 + number where a signal ended it.
    """
    command_line = [sys.executable, "-m", "jobs", stage, *invocation.words()]
    with subprocess.Popen(command_line, **inherited_lock()) as process:
        try:
            with meanwhile or nullcontext():
                status = process.wait()
        except BaseException:
            process.kill()
            raise
    if status:
        status = 128 - status if status < 0 else status  # as a shell says it
        failure = DistilrecError(f"{stage} ended with exit status {status}; its message stands above")
        failure.exit_status = status
        raise failure
