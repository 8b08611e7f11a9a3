"""A Ray cluster of two nodes on this machine that share no folder for outputs, neither with each other nor with a driver."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port

HOME = Path(__file__).parents[1]
HEAD, SECOND = "127.0.0.2", "127.0.0.3"


def _may_unshare() -> bool:
    """Whether this process may give another one file systems of its own."""
    with suppress(OSError):
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    return False


needs_two_nodes = pytest.mark.skipif(
    not _may_unshare(), reason="`unshare -m true` fails: only root of Linux can give a node file systems of its own"
)


@dataclass(frozen=True)
class TwoNodes:
    """A running cluster."""

    address: str
    """For `ray.address`."""
    environment: dict[str, str]
    """What a process needs to join, as further variables."""
    pids: tuple[int, int]
    """Process ids of the head and the other node."""

    def files(self, folder: Path) -> list[set[str]]:
        """The files below a folder as each node sees it, relative to the folder."""
        find = ["find", str(folder), "-type", "f", "-printf", "%P\n"]
        inside = [["nsenter", "-t", str(pid), "-m", *find] for pid in self.pids]
        return [set(subprocess.run(one, check=True, capture_output=True, text=True).stdout.split()) for one in inside]


@contextmanager
def two_nodes(*hidden: Path, cpus: int = 3) -> Iterator[TwoNodes]:
    """A cluster in which each node has an empty file system of its own at each of the folders, which must exist.

    The nodes inherit the environment, so they have the credentials of a store that a fixture has started before. Ray starts
    two processes that need two CPUs on both nodes.
    """
    home = Path(tempfile.mkdtemp(prefix="dr"))  # short: it holds sockets
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= token | {"PYTHONPATH": str(HOME)}
    port, started = free_port(), list[subprocess.Popen[bytes]]()
    mounts = "".join(f"mount -t tmpfs none {folder} && " for folder in hidden)
    try:
        for node in (HEAD, SECOND):
            # without a dashboard, each finished training waits for its answer
            head = f"--head --port={port} --dashboard-host={HEAD} --dashboard-port={free_port()}"
            joining = head if node == HEAD else f"--address={HEAD}:{port}"
            command = (
                f"{mounts}exec {sys.executable} -m ray.scripts.scripts start --block {joining} --num-cpus={cpus}"
                f" --node-ip-address={node} --temp-dir={home}/{node} --object-store-memory=200000000"
                f" --dashboard-agent-listen-port={free_port()} --metrics-export-port={free_port()}"
            )
            log = home / f"{node}.log"
            with log.open("wb") as stream:
                started.append(
                    subprocess.Popen(
                        ["unshare", "-m", "sh", "-c", command],
                        cwd=home,
                        env=environment,
                        stdout=stream,
                        stderr=stream,
                        start_new_session=True,
                    )
                )
            _wait_until_up(started[-1], log)
        yield TwoNodes(f"{HEAD}:{port}", token, (started[0].pid, started[1].pid))
    finally:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("RAY_AUTH_TOKEN") == token["RAY_AUTH_TOKEN"] and process.pid != os.getpid():
                    process.kill()
        for one in started:
            one.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_up(node: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
