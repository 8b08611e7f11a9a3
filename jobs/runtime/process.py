"""Run a stage in a process of its own: Spark and Ray do not share one (memory, signals)."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from jobs.runtime.lock import inherited_lock
from kdlib.errors import DistilrecError


def run_in_own_process(
    stage: str,
    config: str | Path,
    *,
    ds: str | None,
    overrides: Sequence[str],
    meanwhile: AbstractContextManager[object] | None = None,
) -> None:
    """`python -m jobs.<stage>` with this run config; its output goes where this process's does.

    Args:
      stage: module of `jobs`.
      config: the run config's file.
      ds: the day the run stands for; None: the run config's.
      overrides: settings, `section.key=value`.
      meanwhile: entered once the process has started, left once it has ended.

    Raises:
      DistilrecError: the stage failed; carries its exit status, 128 + number where a signal ended it.
    """
    command_line = [sys.executable, "-m", f"jobs.{stage}", "--config", str(config)]
    if ds:
        command_line += ["--ds", ds]
    for override in overrides:
        command_line += ["--set", override]
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
