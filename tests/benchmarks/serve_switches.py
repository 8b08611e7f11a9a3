"""Two hundred switches of the run in use while a client asks: is each answer of one run, and does none fail?

    python -m tests.benchmarks.serve_switches [--items 10000] [--rate 50] [--switches 200]

Three made-up runs share no item and no model. `distilrec serve` answers with two replicas on a real Ray Serve, over HTTP. A thread
promotes and rolls back; it waits longer than the server's look, so that the server sees each switch. The client sends requests at
a fixed rate, and does not wait for answers. The result is written to results/serve_switches.json.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from jobs.benchmark.provenance import package_versions, processor
from jobs.runtime.console import say
from kdlib.release import promotions
from kdlib.serving.follow import LOOK_SECONDS
from tests import whole_nights
from tests.ports import free_port
from tests.serving import nights
from tests.serving.nights import Made

RESULT = Path(__file__).parent / "results" / "serve_switches.json"
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
REPLICAS, K = 2, 10
EVERY_SECONDS = LOOK_SECONDS + 1.0
"""Time between two switches."""


@dataclass(frozen=True)
class Answered:
    """What came back for a request."""

    asked_at: float
    seconds: float
    status: int
    """0: no answer."""
    ds: str
    whole: bool
    """All of the answer is of the run that it names."""
    error: str = ""
    """The text of an answer that is no list."""


def run(items: int, rate: float, switches: int) -> None:
    """Serve, switch, ask; write the result.

    Args:
      items: of each run.
      rate: requests a second.
      switches: of the run in use.
    """
    with tempfile.TemporaryDirectory() as name:
        root, port = Path(name) / "output", free_port()
        versions = {}
        for ds in DAYS:
            made = Made(
                root,
                ds=ds,
                items=f"{ds}-",
                kind="transformer",
                num_items=items,
                dim=64,
                recommend={"k": K, "because": 0},
            )
            nights.promote(made)
            versions[ds] = nights.table(made)[0]["model_version"]
        config = Path(name) / "run.yaml"
        serve = {"replicas": REPLICAS}
        document = {"name": "switches", "output_dir": str(root), "input": {"simulate": {}}, "serve": serve}
        config.write_text(yaml.safe_dump(document))
        process = whole_nights.start(config, "--port", str(port), command="serve")
        try:
            answers, times = _load(process, root, f"http://127.0.0.1:{port}", items, rate, switches, versions)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    figures = _figures(answers, times) | {"exit_status": process.returncode}
    result = {
        "command": " ".join(["python -m tests.benchmarks.serve_switches", *sys.argv[1:]]),
        "what": f"{switches} switches of the run in use, one in {EVERY_SECONDS:g} s, promotions and rollbacks in turn, among three runs of"
        f" {items:,} items and width 64; {REPLICAS} replicas; {rate:g} requests a second over HTTP, sent at fixed times;"
        " server, client and switches share the machine",
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "versions": package_versions(),
        "date": datetime.now(UTC).date().isoformat(),
        "seed": 1,
        "figures": figures,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    say(json.dumps(figures, indent=1))


def _load(
    process: subprocess.Popen[str],
    root: Path,
    url: str,
    items: int,
    rate: float,
    switches: int,
    versions: dict[str, str],
) -> tuple[list[Answered], list[tuple[float, str]]]:
    """All answers, and when each run was put in use."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C ends it" in line:
            break
    assert process.poll() is None, "".join(lines)
    times: list[tuple[float, str]] = []
    done = threading.Event()

    def switch() -> None:
        try:
            for number in range(switches):
                ds = DAYS[2] if number % 2 else DAYS[number // 2 % 2]
                if number % 2:
                    versions_of = next(one.versions for one in promotions.history(root) if one.ds == ds)
                    promotions.promote(root, ds, versions_of)
                else:
                    promotions.rollback(root, ds)
                times.append((time.time(), ds))
                time.sleep(EVERY_SECONDS)
        finally:
            done.set()

    thread = threading.Thread(target=switch)
    thread.start()
    answers = asyncio.run(_ask(url, items, rate, done, versions))
    thread.join()
    assert len(times) == switches
    return answers, times


async def _ask(url: str, items: int, rate: float, done: threading.Event, versions: dict[str, str]) -> list[Answered]:
    """Send requests at fixed times until the switches are done."""
    rng = np.random.default_rng(1)
    found: list[Answered] = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        tasks = set()
        begun = time.monotonic()
        number = 0
        while not done.is_set():
            session = [{"item": f"{ds}-{item:03}"} for ds in DAYS for item in rng.integers(0, items, 4)]
            tasks.add(task := asyncio.create_task(_one(client, session, versions)))
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda task: found.append(task.result()))
            number += 1
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        await asyncio.gather(*tasks)
    return found


async def _one(client: httpx.AsyncClient, session: list[dict[str, str]], versions: dict[str, str]) -> Answered:
    asked_at, started = time.time(), time.monotonic()
    try:
        answer = await client.post("/recommend", json={"session": session})
    except httpx.HTTPError as error:
        return Answered(asked_at, time.monotonic() - started, 0, "", False, type(error).__name__)
    seconds = time.monotonic() - started
    if answer.status_code != 200:
        return Answered(asked_at, seconds, answer.status_code, "", False, answer.text)
    body = answer.json()
    return Answered(asked_at, seconds, 200, body["ds"], _is_whole(body, session, versions))


def _is_whole(body: dict[str, Any], session: list[dict[str, str]], versions: dict[str, str]) -> bool:
    """Whether student, items and unknown items are of the run that the answer names."""
    start = f"{body['ds']}-"
    return (
        body["model_version"] == versions[body["ds"]]
        and len(body["items"]) == K
        and all(one["item_id"].startswith(start) for one in body["items"])
        and set(body["unknown_items"]) == {one["item"] for one in session if not one["item"].startswith(start)}
    )


def _figures(answers: list[Answered], times: list[tuple[float, str]]) -> dict[str, Any]:
    answers = sorted(answers, key=lambda one: one.asked_at)
    seen, waits = 0, []
    for number, (at, ds) in enumerate(times):
        until = times[number + 1][0] if number + 1 < len(times) else np.inf
        first = next((one for one in answers if at <= one.asked_at < until and one.ds == ds), None)
        if first is not None:
            seen += 1
            waits.append(first.asked_at + first.seconds - at)
    ms = np.array([one.seconds for one in answers]) * 1_000
    return {
        "switches": len(times),
        "switches_seen_by_the_client": seen,
        "requests": len(answers),
        "statuses": dict(Counter(str(one.status) for one in answers)),
        "failed": sum(one.status != 200 for one in answers),
        "errors": dict(Counter(one.error for one in answers if one.error)),
        "not_of_one_run": sum(one.status == 200 and not one.whole for one in answers),
        "answers_of_each_run": dict(sorted(Counter(one.ds for one in answers).items())),
        "ms_p50": round(float(np.median(ms)), 1),
        "ms_p99": round(float(np.quantile(ms, 0.99)), 1),
        "ms_max": round(float(ms.max()), 1),
        "seconds_to_the_first_answer_of_a_new_run_p50": round(float(np.median(waits)), 2),
        "seconds_to_the_first_answer_of_a_new_run_max": round(float(np.max(waits)), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--switches", type=int, default=200)
    arguments = parser.parse_args()
    run(arguments.items, arguments.rate, arguments.switches)
