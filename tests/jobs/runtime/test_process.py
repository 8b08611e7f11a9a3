"""A stage in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobs.runtime.command import Invocation
from jobs.runtime.process import run_in_own_process
from kdlib.errors import DistilrecError, UnreachableError


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_stage_s_exit_status_is_passed_on(monkeypatch: pytest.MonkeyPatch, code: str, status: int) -> None:
    """A stage that a signal ends has the status that a shell gives: 128 + the signal's number."""
    really = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: really([sys.executable, "-c", code], **options))
    with pytest.raises(DistilrecError, match=f"exit status {status}") as caught:
        run_in_own_process("build-features", Invocation("run.yaml"))
    assert caught.value.exit_status == status


@pytest.fixture
def slow_stage(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The stages that were started; each lasts a second."""
    really, started = subprocess.Popen, list[subprocess.Popen[bytes]]()

    def start(_: object, **options: Any) -> subprocess.Popen[bytes]:
        started.append(really([sys.executable, "-c", "import time; time.sleep(1)"], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_what_happens_meanwhile(slow_stage: list[subprocess.Popen[bytes]]) -> None:
    """`meanwhile` is entered while the stage runs, and left after the stage."""
    seen: list[int | None] = []

    @contextmanager
    def meanwhile() -> Iterator[None]:
        seen.append(slow_stage[0].poll())
        yield
        seen.append(slow_stage[0].poll())

    run_in_own_process("build-features", Invocation("run.yaml"), meanwhile=meanwhile())
    assert seen == [None, 0]


def test_a_stage_does_not_outlive_what_failed_beside_it(slow_stage: list[subprocess.Popen[bytes]]) -> None:
    """An error in `meanwhile` kills the stage."""

    @contextmanager
    def failing() -> Iterator[None]:
        raise UnreachableError("no Ray")
        yield

    with pytest.raises(UnreachableError, match="no Ray"):
        run_in_own_process("build-features", Invocation("run.yaml"), meanwhile=failing())
    assert slow_stage[0].returncode == -9
