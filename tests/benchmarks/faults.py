"""Runs that are published to an S3 server, each hit by one fault, while a reader looks → results/faults.json.

    python -m tests.benchmarks.faults

A proxy between distilrec and the server injects the fault (`tests.faults.proxy`): every fault at every write of the pointer,
before the request reaches the server and after the server has done it, and random faults at each other request. It does so for
the first delivery to a place, for a next run, for a run after a user was erased, and for a run that is published and promoted in an
output folder in the store. After each fault a second attempt must finish, that of an output folder with an empty working copy. The
place must then equal that of an attempt without a fault. A reader polls the pointer and reads the files that it names,
all the while.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from jobs.benchmark.provenance import package_versions, processor
from jobs.runtime.console import in_utf8, say
from tests.faults.delivery_cases import SCENES, Outcome, Scene
from tests.faults.output_cases import OutputScene
from tests.faults.proxy import DELAY_SECONDS, Fault, proxy_before
from tests.faults.publish import DEADLINES
from tests.s3 import s3_server

RESULTS = Path(__file__).parent / "results"
STATUSES: dict[int | None, str] = {0: "done", 74: "delivery error", 75: "store error", 143: "SIGTERM", -9: "SIGKILL"}


def results_of(seed: int, rounds: int) -> Iterator[tuple[str, Fault, bool, Outcome]]:
    """(scene, fault, whether it hits the pointer, outcome) of all faults."""
    chance = random.Random(seed)
    with s3_server() as endpoint, proxy_before(endpoint) as proxy, tempfile.TemporaryDirectory() as folder:
        scenes = [Scene(name, Path(folder), proxy) for name in SCENES]
        scenes.append(OutputScene("output", Path(folder), proxy))
        cases = [(scene, fault) for scene in scenes for fault in scene.pointer_faults()]
        cases += [(scene, fault) for _ in range(rounds) for scene in scenes for fault in scene.other_faults(chance)]
        for scene, fault in tqdm(cases, unit=" faults"):
            yield scene.name, fault, fault.request in scene.pointer_writes(), scene.run(fault)


def main() -> int:
    in_utf8(None)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random faults (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="random faults at each request but the pointer's (default: %(default)s)"
    )
    arguments, started = parser.parse_args(), time.monotonic()
    counts: dict[str, Counter[str]] = {}
    seen, seconds, wrong = Counter[str](), list[float](), list[dict[str, object]]()
    at = Counter[str]()
    for scene, fault, is_pointer, outcome in results_of(arguments.seed, arguments.rounds):
        when = "after the server has done the request" if fault.done else "before the server has it"
        name = f"{fault.kind}{', and at every later request' if fault.lasting else ''}, {when}"
        counts.setdefault(name, Counter())[STATUSES.get(outcome.status, str(outcome.status))] += 1
        at[f"{scene}, {'a write of the pointer' if is_pointer else 'another request'}"] += 1
        seen += outcome.seen
        seconds.append(outcome.seconds)
        if outcome.faults:
            wrong.append({"scene": scene, **asdict(fault), "wrong": outcome.faults})
            say(json.dumps(wrong[-1]))
    results = {
        "command": f"python -m tests.benchmarks.faults {' '.join(sys.argv[1:])}".rstrip(),
        "seeds": [arguments.seed],
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "versions": package_versions() | {name: version(name) for name in ("obstore", "moto")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "deadlines": DEADLINES | {"DELAY_SECONDS": DELAY_SECONDS},
        "faults": len(seconds),
        "at": at,
        "how_the_delivery_that_was_hit_ended": dict(sorted(counts.items())),
        "seconds_of_the_delivery_that_was_hit": {
            "mean": round(sum(seconds) / len(seconds), 2),
            "max": round(max(seconds), 2),
        },
        "seconds": round(time.monotonic() - started),
        "what_the_reader_saw": seen,
        "second_deliveries_that_finished_with_an_equal_place": len(seconds) - len(wrong),
        "wrong": wrong,
    }
    say(json.dumps(results, indent=1))
    (RESULTS / "faults.json").write_text(json.dumps(results, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
