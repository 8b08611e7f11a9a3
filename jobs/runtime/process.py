"""Run a stage in a process of its own. Spark and Ray do not share a process, because of memory and signals."""

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext

from jobs.runtime.command import Invocation
from jobs.runtime.lock import inherited_lock
from kdlib.errors import DistilrecError


def run_in_own_process(
    stage: str, invocation: Invocation, *, meanwhile: AbstractContextManager[object] | None = None
) -> None:
    """Run `distilrec <stage>` with this invocation. Its output goes where this process's output goes.

    Args:
      stage: name of the stage.
      invocation: run config, date and overrides.
      meanwhile: a block around the wait, entered once the process has started.

    Raises:
      DistilrecError: the stage failed. The error has the stage's exit status, or 128 + the number of a signal.
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
        status = 128 - status if status < 0 else status  # the shell's number for a signal
        failure = DistilrecError(f"{stage} ended with exit status {status}. See its message above")
        failure.exit_status = status
        raise failure
