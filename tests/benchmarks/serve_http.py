"""Serving over HTTP beside RePlay's compiled model: `python -m tests.benchmarks.serve_http` → results/serve_http.json.

A made-up run with 100,000 items and a Transformer of width 64 (one block, one head, length 50; random weights) is served
by `distilrec serve` with one replica. RePlay's SasRec of the same shape is compiled by OpenVINO and answers the same
requests (`peers/replay_server.py`; `replay-rec` has no server). The replica, or RePlay's server, has one core. The client
has the other core, and so have Ray's own processes. In each round each side runs once: a warm-up, then
50 requests a second, then as many as it can answer. A session has ten items. The figures are medians over the rounds.

`memory_megabytes` is the proportional set size (PSS) of the replica, or of RePlay's server, after the requests.
`memory_megabytes_ray` is that of all other processes of the served Ray.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from jobs.benchmark.provenance import package_versions, processor
from tests.benchmarks.http_load import sessions
from tests.benchmarks.peers.run_peers import prepare_environment
from tests.ports import free_port
from tests.serving.nights import Made, promote
from tests.whole_nights import HOME, environment

RESULTS = Path(__file__).parent / "results" / "serve_http.json"
ITEMS, WIDTH, LENGTH = 100_000, 64, 50
SHAPE = {"heads": 1, "layers": 1, "session_flag": False, "inputs": [], "max_length": LENGTH}
SERVER_CORE, CLIENT_CORE = 0, 1
RATE = 50
WAIT_SECONDS = 180


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement")
    parser.add_argument("--envs", type=Path, default=Path("output/peers"), help="folder for the peer's environment")
    options = parser.parse_args()
    peer = prepare_environment("replay_server", options.envs)
    rounds: dict[str, list[dict[str, float]]] = {"distilrec": [], "replay": []}
    with tempfile.TemporaryDirectory() as name:
        config = _served_run(Path(name))
        for _ in range(options.rounds):
            for side, served in (("distilrec", _ours(config)), ("replay", _peer(peer))):
                with served as server:
                    rounds[side].append(_measure(server, options.seconds))
                    print(side, json.dumps(rounds[side][-1]), flush=True)
    figures = {side: _medians(found) for side, found in rounds.items()}
    given = f"--rounds {options.rounds} --seconds {options.seconds:g}"
    result = {
        "command": f"python -m tests.benchmarks.serve_http {given}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{processor()}, {os.cpu_count()} cores; the server has one, the client the other",
        "versions": package_versions() | _versions(peer),
        "seed": 1,
        "items": ITEMS,
        "shape": {"kind": "transformer", "dim": WIDTH} | SHAPE,
        "requests_per_second": RATE,
        "figures": figures,
        "rounds": rounds,
    }
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(figures, indent=1))


def _served_run(folder: Path) -> Path:
    """Promote the made-up run; returns its run config."""
    lists = {"k": 10, "because": 0}
    made = Made(
        folder / "output", kind="transformer", items="", num_items=ITEMS, dim=WIDTH, shape=SHAPE, recommend=lists
    )
    promote(made)
    path = folder / "run.yaml"
    ray = {"num_cpus": 2, "object_store_megabytes": 100}
    document = {"name": "shop", "output_dir": str(made.root), "input": {"simulate": {}}, "ray": ray}
    path.write_text(yaml.safe_dump(document))
    return path


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    port: int
    process: psutil.Process
    """The one that computes the lists."""
    others: list[psutil.Process]


@contextmanager
def _ours(config: Path) -> Iterator[Served]:
    """`distilrec serve` on the client's core, with its replica on the server's core."""
    port = free_port()
    command = [sys.executable, "-m", "jobs", "serve", "--config", str(config), "--port", str(port)]
    with _started(command, core=CLIENT_CORE) as process:
        _wait_until_it_answers(port)
        family = [process, *process.children(recursive=True)]
        [replica] = [one for one in family if "ServeReplica" in " ".join(one.cmdline())]
        for thread in replica.threads():
            os.sched_setaffinity(thread.id, {SERVER_CORE})
        yield Served(port, replica, [one for one in family if one != replica])


@contextmanager
def _peer(python: Path) -> Iterator[Served]:
    port = free_port()
    script = Path(__file__).parent / "peers" / "replay_server.py"
    flags = {"port": port, "items": ITEMS, "dim": WIDTH, "max-length": LENGTH}
    command = [str(python), str(script), *(f"--{name}={value}" for name, value in flags.items())]
    with _started(command, core=SERVER_CORE) as process:
        _wait_until_it_answers(port)
        yield Served(port, process, [])


@contextmanager
def _started(command: list[str], *, core: int) -> Iterator[psutil.Process]:
    """A process that may use one core. It is ended with the block; what it printed is shown if it failed."""
    with tempfile.TemporaryFile("w+") as log:
        on_core = ["taskset", "--cpu-list", str(core), *command]
        child = subprocess.Popen(on_core, cwd=HOME, env=environment(), stdout=log, stderr=log)
        try:
            yield psutil.Process(child.pid)
        finally:
            child.terminate()
            if child.wait(60) not in (0, -signal.SIGTERM):
                log.seek(0)
                print(log.read()[-3000:], file=sys.stderr)


def _wait_until_it_answers(port: int) -> None:
    """Raise TimeoutError where no list comes back in time."""
    [body] = sessions(1, num_items=ITEMS, length=10, seed=1)
    request = urllib.request.Request(_url(port), body, {"Content-Type": "application/json"})
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert len(json.load(answer)["items"]) == 10
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no answer on port {port} within {WAIT_SECONDS} s")


def _measure(served: Served, seconds: float) -> dict[str, float]:
    """The latencies at `RATE`, the greatest rate, and the memory of a server.

    Raises:
      RuntimeError: an answer has another status than 200.
    """
    _ask(served.port, seconds=5)
    at_rate = _ask(served.port, "--rate", str(RATE), seconds=seconds)
    saturated = _ask(served.port, seconds=seconds)
    if statuses := sorted({*at_rate["statuses"], *saturated["statuses"]} - {"200"}):
        raise RuntimeError(f"expected status 200 for all requests, found {', '.join(statuses)} too")
    figures = {name: at_rate[name] for name in ("p50_ms", "p99_ms", "max_ms")}
    figures["saturation_requests_per_second"] = saturated["requests_per_second"]
    figures["memory_megabytes"] = _megabytes(served.process)
    if served.others:
        figures["memory_megabytes_ray"] = sum(map(_megabytes, served.others))
    return figures


def _ask(port: int, *how: str, seconds: float) -> dict[str, Any]:
    """What the client measured."""
    command = [sys.executable, "-m", "tests.benchmarks.http_load", _url(port), "--items", str(ITEMS), *how]
    command += ["--seconds", str(seconds), "--core", str(CLIENT_CORE)]
    return json.loads(subprocess.run(command, cwd=HOME, env=environment(), check=True, stdout=subprocess.PIPE).stdout)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/recommend"


def _megabytes(process: psutil.Process) -> float:
    return round(process.memory_full_info().pss / 1e6, 1)


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(f"{np.median([one[name] for one in rounds]):.4g}") for name in rounds[0]}


def _versions(peer: Path) -> dict[str, str]:
    """Releases of the peer's packages."""
    names = ("replay-rec", "openvino", "torch")
    code = f"import importlib.metadata as m; print(*map(m.version, {names!r}))"
    found = subprocess.run([str(peer), "-c", code], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    return {f"peer {name}": version for name, version in zip(names, found, strict=True)}


if __name__ == "__main__":
    main()
