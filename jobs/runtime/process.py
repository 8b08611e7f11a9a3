"""Run Spark's stages in a process of their own. Spark and Ray do not share a process, because of memory and signals.

`jobs/stage_process.py` is what the process does.
"""

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import Pipe

from jobs.runtime.command import Invocation
from jobs.runtime.lock import inherited_lock
from kdlib.errors import DistilrecError


class StageProcess:
    """A process that runs stages one after another, so that Java starts only once. It starts with the first stage.

    What it prints goes where this process's output goes. It ends after `close`, or after its stage if this process is killed.

    Args:
      invocation: run config, date and overrides.
    """

    def __init__(self, invocation: Invocation) -> None:
        self._words = invocation.words()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, stage: str, *, meanwhile: AbstractContextManager[object] | None = None) -> None:
        """Run `distilrec <stage>` there.

        Args:
          stage: its name.
          meanwhile: a block around the wait, entered once the stage has begun.

        Raises:
          DistilrecError: the stage failed. The error has the stage's exit status, or 128 + the number of a signal.
        """
        process = self._process or self._start()
        try:
            with suppress(OSError):  # it has died: no answer comes
                self._connection.send(stage)
            with meanwhile or nullcontext():
                status = self._answer(process)
        except BaseException:
            process.kill()
            self.close()
            raise
        if status:
            failure = DistilrecError(f"{stage} ended with exit status {status}. See its message above")
            failure.exit_status = status
            raise failure

    def close(self) -> None:
        """End the process, and with it Java. Wait until both are gone."""
        if self._process is not None:
            self._connection.close()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._connection, theirs = Pipe()
        lock = inherited_lock()
        descriptors = (*lock.get("pass_fds", ()), theirs.fileno())
        command_line = [sys.executable, "-m", "jobs.stage_process", str(theirs.fileno()), *self._words]
        with theirs:
            self._process = subprocess.Popen(command_line, pass_fds=descriptors, env=lock.get("env"))
        return self._process

    def _answer(self, process: subprocess.Popen[bytes]) -> int:
        """The stage's exit status, also if the process ended without an answer."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            status = process.wait()
            return 128 - status if status < 0 else status  # the shell's number for a signal
