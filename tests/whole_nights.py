"""Running whole nights through the command line, as tests need it: start, follow what is printed, look at the table."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from kdlib.store import partitions, tables

HOME = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """This process's, less what it has set for Ray, with the project's own code in front."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return outer | {"PYTHONPATH": str(HOME)}


def start(config: Path, *more: str, more_environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """`distilrec nightly` with this run config, in a process group of its own; its output is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "nightly", "--config", str(config), *more],
        cwd=HOME,
        text=True,
        env=environment() | dict(more_environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def follow(process: subprocess.Popen[str], text: str | None = None, then: Callable[[], object] | None = None) -> str:
    """Read the process's lines to the end; do something when a line holds the text for the first time, which one must."""
    assert process.stdout is not None
    lines, done = [], False
    for line in process.stdout:
        lines.append(line)
        if text is not None and then is not None and text in line and not done:
            done = True
            then()
    process.wait()
    assert done or text is None, "".join(lines)
    return "".join(lines)


def run(config: Path, *more: str, status: int = 0) -> str:
    """A night that must end with this status; what it printed."""
    process = start(config, *more)
    printed = follow(process)
    assert process.returncode == status, printed
    return printed


def kill_all(root: Path, pid: int) -> None:
    """SIGKILL for a run and what belongs to it: Ray's and Spark's processes leave its group."""
    os.killpg(pid, signal.SIGKILL)
    for one in psutil.process_iter(["cmdline"]):
        if str(root) in " ".join(one.info["cmdline"] or []) and one.pid != os.getpid():
            one.kill()


def child(process: psutil.Process, name: str) -> psutil.Process:
    """A process below this one whose command line holds the name, as soon as there is one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for one in process.children(recursive=True):
            try:
                if name in " ".join(one.cmdline()):
                    return one
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise AssertionError(f"no process {name}")


def whole(root: Path, ds: str) -> partitions.Manifest:
    """The published table's manifest, after each file is found as it says."""
    folder = partitions.current(root, "recommendations", ds)
    manifest = partitions.manifest_of(root, "recommendations", ds)
    assert sorted(file.name for file in folder.iterdir()) == [file["path"] for file in manifest.files]
    for file in manifest.files:
        assert hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    tables.check_files(tables.RECOMMENDATIONS, folder)
    return manifest
