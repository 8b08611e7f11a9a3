"""Run a stage in a process of its own: Spark and Ray do not share one (memory, signals)."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs._lock import inherited_lock
from kdlib.errors import DistilrecError


def run_in_own_process(stage: str, config: str | Path, *, ds: str | None, overrides: Sequence[str]) -> None:
    """`python -m jobs.<stage>` with this run config; its output goes where this process's does.

    Raises:
      DistilrecError: the stage failed; carries its exit status, 128 + number where a signal ended it.
    """
    command_line = [sys.executable, "-m", f"jobs.{stage}", "--config", str(config)]
    if ds:
        command_line += ["--ds", ds]
    for override in overrides:
        command_line += ["--set", override]
    status = subprocess.run(command_line, check=False, **inherited_lock()).returncode
    if status:
        status = 128 - status if status < 0 else status  # as a shell says it
        failure = DistilrecError(f"{stage} ended with exit status {status}; its message stands above")
        failure.exit_status = status
        raise failure
