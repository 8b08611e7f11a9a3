"""Nightly runs and single stages through the command line: start one, follow its printed lines, check its table."""

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
    """The environment of this process, without variables for Ray, with this project first on the Python path."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return outer | {"PYTHONPATH": str(HOME)}


def start(
    config: Path,
    *more: str,
    command: str = "nightly",
    folder: Path = HOME,
    more_environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a command of `distilrec` with this config, in its own process group, with a pipe for its output.

    It starts in `folder`, from where it imports teachers of the user's own.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", command, "--config", str(config), *more],
        cwd=folder,
        text=True,
        env=environment() | dict(more_environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def follow(process: subprocess.Popen[str], text: str | None = None, then: Callable[[], object] | None = None) -> str:
    """All printed text of the process, read until it ends. Calls `then` at the first line that holds `text`.

    Fails if `text` is given and no line holds it.
    """
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


def run(config: Path, *more: str, command: str = "nightly", folder: Path = HOME, status: int = 0) -> str:
    """The printed text of a command, which must end with this exit status."""
    process = start(config, *more, command=command, folder=folder)
    printed = follow(process)
    assert process.returncode == status, printed
    return printed


def kill_all(root: Path, pid: int) -> None:
    """Send SIGKILL to a run and its processes. Ray's and Spark's are found by `root` in their commands."""
    os.killpg(pid, signal.SIGKILL)
    for one in psutil.process_iter(["cmdline"]):
        if str(root) in " ".join(one.info["cmdline"] or []) and one.pid != os.getpid():
            one.kill()


def child(process: psutil.Process, name: str) -> psutil.Process:
    """Wait for a descendant process whose command line holds the name, for at most two minutes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for one in process.children(recursive=True):
            try:
                if name in " ".join(one.cmdline()):
                    return one
            except psutil.Error:
                continue
        time.sleep(0.02)
    raise AssertionError(f"expected a process with {name!r} in its command line, found none in two minutes")


def whole(root: Path, ds: str, name: str = "recommendations") -> partitions.Manifest:
    """The manifest of a published table or model, after every file, row and column was found as the manifest says."""
    folder = partitions.current(root, name, ds)
    manifest = partitions.manifest_of(root, name, ds)
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert sorted(files) == sorted(file["path"] for file in manifest.files)
    for file in manifest.files:
        found = files[file["path"]].read_bytes()
        assert (len(found), hashlib.sha256(found).hexdigest()) == (file["bytes"], file["sha256"])
    if table := tables.ALL.get(name):
        assert tables.check_files(table, folder) == manifest.rows == sum(file["rows"] for file in manifest.files)
    return manifest
