"""Jobs on a real Ray cluster of three nodes: refused jobs, and a nightly run in which nodes die."""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.store import partitions
from tests.jobs.conftest import DS, EPOCHS, NIGHT
from tests.ports import free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),  # some minutes; with the machine shared among many, twenty
    pytest.mark.skipif(sys.platform != "linux", reason="each node has a loopback address of its own"),
]
HOME = Path(__file__).parents[3]


def _kill(processes: list[psutil.Process]) -> None:
    """Kill all processes of a node at once, as when a machine dies."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


class Cluster:
    """A head without CPUs, and workers with two CPUs each. Every node has a session and a loopback address of its own."""

    def __init__(self) -> None:
        self._home = tempfile.mkdtemp(prefix="dr")  # short: it holds sockets
        self.nodes: dict[str, int] = {}
        self._metrics: dict[str, int] = {}
        self._gcs, self._dashboard = free_port(), free_port()
        self.url = f"http://127.0.0.2:{self._dashboard}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(HOME),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_metrics_report_interval_ms": "1000",
        }

    def start_all(self) -> None:
        """Start the head and two workers, and wait until they are up."""
        head = self.start(
            "127.0.0.2",
            "--head",
            f"--port={self._gcs}",
            "--num-cpus=0",
            "--dashboard-host=127.0.0.2",
            f"--dashboard-port={self._dashboard}",
            f"--ray-client-server-port={free_port()}",
        )
        assert head.wait() == 0, Path(self._home, "127.0.0.2.log").read_text()
        self.add("127.0.0.3", "127.0.0.4")

    def add(self, *nodes: str) -> None:
        """Start workers. Ray gives a node's processes half a minute. A busy machine may need a second attempt."""
        for node, starting in [(node, self.start(node)) for node in nodes]:
            while starting.wait():
                _kill(self.processes(node))
                starting = self.start(node)

    def start(self, node: str, *more: str) -> subprocess.Popen[bytes]:
        """Begin to start a node. The command ends when the node is up. The node's processes stay in the command's session."""
        joining = more or (f"--address=127.0.0.2:{self._gcs}", "--num-cpus=2")
        self._metrics[node] = free_port()
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            f"--node-ip-address={node}",
            f"--temp-dir={self._home}/{node}",  # in a shared folder, a node would unpack the job's code over another's
            *joining,
            f"--dashboard-agent-listen-port={free_port()}",
            f"--metrics-export-port={self._metrics[node]}",
            "--object-store-memory=100000000",
        ]
        with Path(self._home, f"{node}.log").open("ab") as log:
            starting = subprocess.Popen(
                command, cwd=self._home, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes[node] = starting.pid
        return starting

    def processes(self, node: str) -> list[psutil.Process]:
        """A node's processes. They have groups of their own, but stay in the session of the command that started the node."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process.pid) == self.nodes[node]:
                    found.append(process)
        return found

    def node_of(self, title: str) -> str | None:
        """A node on which a Ray process of this title runs."""
        for node in self.nodes:
            for process in self.processes(node):
                with contextlib.suppress(psutil.Error):
                    if title in " ".join(process.cmdline()):
                        return node
        return None

    def series(self, prefix: str) -> set[str]:
        """Names of the series that Prometheus would find on the nodes now."""
        found: set[str] = set()
        for node, port in self._metrics.items():
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://{node}:{port}/metrics", timeout=2) as page,
            ):
                lines = page.read().decode().splitlines()
                found |= {re.split(r"[{ ]", line)[0] for line in lines if line.startswith(prefix)}
        return found

    def submit(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs", "submit", "--address", self.url, *arguments],
            cwd=HOME,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        """Kill all processes of the cluster, also the drivers of jobs, which have groups of their own."""
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("RAY_AUTH_TOKEN") == self.environment["RAY_AUTH_TOKEN"]
            except psutil.Error:
                continue
            if ours and process.pid != os.getpid():
                process.kill()
        shutil.rmtree(self._home, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A running cluster of a head and two workers."""
    cluster = Cluster()
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.close()


def _config(folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(NIGHT | {"name": "cluster", "output_dir": str(folder / "output")}))
    return path


def _wait_for(what: Callable[[], object], job: subprocess.Popen[str]) -> None:
    while not what():
        assert job.poll() is None, _ended(job)[1]
        time.sleep(0.02)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    printed, _ = process.communicate()
    return process.returncode, printed


def test_a_job_without_the_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """With another token, or none, the submission ends with status 2 and a line that says what to set."""
    for token in (secrets.token_hex(32), ""):
        status, printed = _ended(cluster.submit("nightly", "--config", str(_config(tmp_path)), RAY_AUTH_TOKEN=token))
        assert status == 2, printed
        assert "refuses this token" in printed
        assert "RAY_AUTH_TOKEN_PATH" in printed
        assert "Traceback" not in printed
    assert not (tmp_path / "output").exists()


def test_the_job_s_exit_status_is_passed_on(cluster: Cluster, tmp_path: Path) -> None:
    """A submission ends with the stage's own exit status and message. A second attempt has an id of its own."""
    for attempt in ("", "-2"):
        status, printed = _ended(cluster.submit("evaluate", "--config", str(_config(tmp_path))))
        assert status == 2, printed
        assert f"submitted distilrec-cluster-evaluate-{DS}{attempt} to" in printed
        assert "evaluate needs histories of 2026-11-22" in printed


def test_a_run_with_dying_nodes_ends_with_the_table_of_a_laptop(
    cluster: Cluster, night: tuple[Path, Path, str], night_to_change: tuple[Path, Path, str]
) -> None:
    """The cluster goes on from a laptop's features and teacher. A node dies in training, another in batch inference.

    The job succeeds, and the table has the bytes of the laptop's table. While models train, Ray's metrics show their
    progress.
    """
    path, root, _ = night_to_change
    for name in ("models/student", "recommendations"):
        (root / name / f"ds={DS}").unlink()
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"name": "cluster"}))
    config = str(path)
    job = cluster.submit("nightly", "--config", config)
    told: set[str] = set()
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.5):
            told.update(cluster.series("ray_distilrec_"))

    watching = threading.Thread(target=scrape)
    watching.start()
    try:
        _wait_for(lambda: list((root / "_checkpoints").glob("*.distill.*/checkpoint_manager_snapshot.json")), job)
        victim = cluster.node_of("ray::RayTrainWorker")
        assert victim
        _kill(cluster.processes(victim))
        cluster.add(victim)  # as Kubernetes would
        status, printed = _ended(cluster.submit("nightly", "--config", config))
        assert status == 75, printed
        assert f"distilrec-cluster-nightly-{DS} is running" in printed
        _wait_for(lambda: cluster.node_of("ShardRecommender"), job)
        doomed = cluster.processes(cluster.node_of("ShardRecommender") or "")
        _wait_for(lambda: list((root / "_staging").glob("recommendations.*/*.parquet")), job)
        _kill(doomed)
        written = len(list((root / "_staging").glob("recommendations.*/*.parquet")))
        status, printed = _ended(job)
    finally:
        over.set()
        watching.join()
        job.kill()
    assert status == 0, printed
    assert told == {
        f"ray_distilrec_training_{name}" for name in ("epoch", "positions_per_second", "data_wait_share", "ndcg")
    }
    assert f"student epoch {EPOCHS}/{EPOCHS}" in printed
    tables = [partitions.current(folder, "recommendations", DS) for folder in (root, night[1])]
    files = [[file.read_bytes() for file in sorted(table.iterdir())] for table in tables]
    assert written < len(files[0]), "the node died too late"
    assert pq.read_table(tables[0]).equals(pq.read_table(tables[1]))
    assert files[0] == files[1]
    listed = subprocess.run(
        [sys.executable, "-m", "jobs", "status", "--address", cluster.url, "--ds", DS],
        cwd=HOME,
        env=cluster.environment,
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert f"distilrec-cluster-nightly-{DS} " in listed
    assert "SUCCEEDED" in listed
