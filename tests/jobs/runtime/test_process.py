"""Stages in a process of their own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.runtime.command import Invocation
from jobs.runtime.process import StageProcess
from kdlib.errors import DistilrecError, UnreachableError

ANSWERS = """
import sys, time
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
connection.recv()
time.sleep(0.5)
connection.send(0)
"""
"""A program that answers to one stage after half a second."""


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], StageProcess]]:
    """Makes a `StageProcess` that runs this code, with the number of its connection as argument."""
    made, really = list[StageProcess](), subprocess.Popen

    def make(code: str) -> StageProcess:
        def start(words: list[str], **more: Any) -> subprocess.Popen[bytes]:
            return really([sys.executable, "-c", code, words[3]], **more)

        monkeypatch.setattr(subprocess, "Popen", start)
        made.append(StageProcess(Invocation("run.yaml")))
        return made[0]

    yield make
    made[0].close()


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_status_of_a_dead_process_is_passed_on(
    process: Callable[[str], StageProcess], code: str, status: int
) -> None:
    """A process that a signal ends has the status that a shell gives: 128 + the signal's number."""
    with pytest.raises(DistilrecError, match=f"build-features ended with exit status {status}") as caught:
        process(code).run("build-features")
    assert caught.value.exit_status == status


def test_what_happens_meanwhile(process: Callable[[str], StageProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """`meanwhile` is entered while the stage runs, and left after its answer."""
    seen: list[str] = []

    @contextmanager
    def meanwhile() -> Iterator[None]:
        seen.append("entered")
        yield
        seen.append("left")

    started = process(ANSWERS)
    really = started._answer

    def answer(child: Any) -> int:
        status = really(child)
        seen.append("answered")
        return status

    monkeypatch.setattr(started, "_answer", answer)
    started.run("build-features", meanwhile=meanwhile())
    assert seen == ["entered", "answered", "left"]


def test_a_stage_does_not_outlive_what_failed_beside_it(process: Callable[[str], StageProcess]) -> None:
    """An error in `meanwhile` kills the process."""
    before, started = set(psutil.Process().children()), set[psutil.Process]()

    @contextmanager
    def failing() -> Iterator[None]:
        started.update(set(psutil.Process().children()) - before)
        raise UnreachableError("no Ray")
        yield

    with pytest.raises(UnreachableError, match="no Ray"):
        process("import time; time.sleep(60)").run("build-features", meanwhile=failing())
    [child] = started
    assert not child.is_running()


def test_one_process_runs_several_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real process ends a stage with its status, goes on with the next one, and ends when it is closed."""
    config = f"{tmp_path}/missing.yaml"
    before = set(psutil.Process().children())
    with closing(StageProcess(Invocation(config))) as process:
        for stage in ("build-features", "build-products"):
            with pytest.raises(DistilrecError, match=f"{stage} ended with exit status 2"):
                process.run(stage)
        [child] = set(psutil.Process().children()) - before
    assert not child.is_running()
    assert capfd.readouterr().err.count("missing.yaml") == 2
