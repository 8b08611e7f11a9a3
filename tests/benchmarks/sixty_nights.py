"""Sixty nightly runs in a row of a small growing shop, unattended, with random faults → results/sixty_nights.json, .svg.

    python -m tests.benchmarks.sixty_nights FOLDER
    python -m tests.benchmarks.sixty_nights FOLDER --nights 4

Every day brings new users and items. About half of the nights have a fault, or two (`night_faults.py`). After a failed
run the same command is started again, as a scheduler does it. Then DuckDB checks the published table against the raw
files. A reader in a process of its own reads the table in use all the while, and must always find a whole one.

FOLDER keeps all outputs. The results are written after each night. A file FOLDER/stop ends the row after the night at
work. The same command then goes on with the next night.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from jobs.benchmark.provenance import hardware, package_versions
from kdlib.config.load import load_config
from kdlib.errors import ConfigError, GateError, LateInputError
from kdlib.release import delivery, promotions
from kdlib.store import partitions
from tests.benchmarks.night_faults import (
    DURING,
    Drawn,
    Strike,
    draw,
    left_processes,
    lose_users,
    reverse,
    when_spark_writes,
)
from tests.benchmarks.night_figures import figures
from tests.benchmarks.night_watch import Reader, Use, megabytes_on_disk
from tests.benchmarks.plot_sixty_nights import draw as plot
from tests.benchmarks.shop_nights import MARKER, count_faults, in_use, simulate
from tests.benchmarks.small_shop import FIRST, SETTINGS, WORLD, K
from tests.whole_nights import follow, kill_all, start

RESULTS = Path(__file__).parent / "results"
SEED = 2415
"""With this seed every kind of fault comes within 14 nights."""
FILES = 5
FORGOTTEN = 5
"""Users who are forgotten at once."""
TRIES = 5
"""How many commands a night may take."""
LONGEST_SECONDS = 600
"""A run that takes longer is killed."""
STATE = "state.json"
MODELS = ("student", "last_night", "popularity")
LISTS = ["user_id", "item_ids"]


class Row:
    """A row of nights: the shop, its run config, and what is known so far."""

    def __init__(self, folder: Path, num_nights: int) -> None:
        self.folder, self.root, self.config = folder, folder / "output", folder / "run.yaml"
        self.there = f"file://{folder / 'delivered'}"
        self.shop = simulate(folder, WORLD, FIRST + timedelta(days=num_nights - 1))
        state = json.loads((folder / STATE).read_text()) if (folder / STATE).exists() else self._begin()
        self.temporary = Path(state["temporary"])
        self.nights: list[dict[str, Any]] = state["nights"]
        self.forgotten: list[str] = state["forgotten"]
        self.checked: list[str] = state["checked"]
        counts = state["reads"], state["wrong_reads"]
        self.reader = Reader(self.root, k=K, log=folder / "reader.log", counts=counts)

    def _begin(self) -> dict[str, Any]:
        """Deliver the days before the first night, and write the run config."""
        for day in self.shop.days():
            if day < FIRST:
                self.shop.deliver(day, num_files=FILES)
        source = self.shop.input
        source["events"]["ready"] = {"marker": MARKER, "wait_minutes": 0.1}
        place = {"output_dir": str(self.root), "input": source, "delivery": {"url": self.there}}
        self.config.write_text(yaml.safe_dump(SETTINGS | place))
        # engines leave files in temporary folders, and put sockets there, which need a short path
        temporary = tempfile.mkdtemp(prefix="nights-")
        return {"temporary": temporary, "nights": [], "forgotten": [], "checked": [], "reads": 0, "wrong_reads": 0}

    def save(self) -> None:
        """Write what is known so far, for a later start."""
        state = {
            "temporary": str(self.temporary),
            "nights": self.nights,
            "forgotten": self.forgotten,
            "checked": self.checked,
            "reads": self.reader.reads,
            "wrong_reads": self.reader.wrong,
        }
        fresh = self.folder / f"{STATE}.fresh"
        fresh.write_text(json.dumps(state))
        fresh.replace(self.folder / STATE)

    def run(
        self,
        day: date,
        *more: str,
        command: str = "nightly",
        expected: Collection[int] = (0,),
        meanwhile: Callable[[psutil.Process], object] = lambda process: None,
    ) -> dict[str, Any]:
        """Start a command once; its status and seconds, and what it said if it failed.

        Args:
          day: the date.
          more: further words of the command line.
          command: the command.
          expected: statuses that it may have.
          meanwhile: called with the process when it has started.
        """
        started = monotonic()
        process = start(
            self.config,
            *([] if command == "rollback" else ["--ds", day.isoformat()]),  # --to is its date
            *more,
            command=command,
            more_environment={"TMPDIR": str(self.temporary), "SPARK_LOCAL_DIRS": str(self.temporary)},
        )
        running, timer = psutil.Process(process.pid), Timer(LONGEST_SECONDS, kill_all, (self.root, process.pid))
        timer.start()
        with Use(running) as use:
            meanwhile(running)
            printed = follow(process)
        timer.cancel()
        seconds = round(monotonic() - started, 1)
        with (self.folder / f"{day}.log").open("a") as log:
            log.write(f"$ {command} {' '.join(more)}: {process.returncode} after {seconds} s\n{printed}")
        tried = {
            "command": command,
            "status": process.returncode,
            "seconds": seconds,
            "cpu_seconds": use.cpu_seconds,
            "gigabytes": use.gigabytes,
        }
        if process.returncode:
            tried["said"] = (printed.rstrip().splitlines() or [""])[-1][:300]
        if process.returncode not in expected:
            tried["expected"] = sorted(expected)
        return tried

    def usual_seconds(self) -> float:
        """The median of the nights without a fault, so far."""
        return float(np.median([night["seconds"] for night in self.nights if not night["faults"]]))

    def before(self, day: date, what: str | None) -> list[dict[str, Any]]:
        """Deliver the day, with its fault if it has one. Returns the commands that belong to the fault.

        After each of them the table that must then be in use is checked.
        """
        tries: list[dict[str, Any]] = []
        in_use_then = in_use(self.root) if what else day.isoformat()
        yesterday = date.fromisoformat(in_use_then)
        if what == "bad export":
            self.shop.deliver(day, change=lose_users, num_files=FILES)
            tries = [self.run(day, expected=[GateError.exit_status])]
        elif what == "late export":
            tries = [self.run(day, expected=[LateInputError.exit_status])]
        elif what == "export replaced while Spark reads":
            self.shop.deliver(day, change=lambda table: table.slice(len(table) // 10), num_files=FILES)
            replace = partial(self.shop.deliver, day, num_files=FILES)
            watch = partial(when_spark_writes, self.root, then=replace)
            tries = [self.run(day, expected=[LateInputError.exit_status], meanwhile=watch)]
        elif what == "yesterday again":
            self.shop.deliver(yesterday, change=reverse, num_files=FILES)
            tries = [self.run(yesterday)]
        elif what == "rollback":
            in_use_then = promotions.nights(self.root)[-2].ds
            tries = [self.run(day, "--to", in_use_then, "--reason", "drawn", command="rollback")]
        elif what == "forget":
            tries = [self._forget(yesterday)]
        for tried in tries:
            tried["wrong"] = self.check(in_use_then)
        self.shop.deliver(day, num_files=FILES, num_copies=FILES if what == "export twice" else 0)
        return tries

    def _forget(self, yesterday: date) -> dict[str, Any]:
        """Forget some of the users who have lists."""
        table = partitions.current(self.root, "recommendations", yesterday.isoformat())
        users = pq.read_table(table, columns=["user_id"])["user_id"].to_pylist()
        gone = np.random.default_rng([SEED, len(self.nights)]).choice(users, FORGOTTEN, replace=False).tolist()
        file = self.folder / "forget.txt"
        file.write_text("\n".join(gone))
        self.reader.erasing(True)
        tried = self.run(yesterday, "--users-file", str(file), command="forget")
        self.reader.erasing(False)
        self.forgotten += gone
        self.save()
        return tried

    def night(self, day: date, drawn: Drawn) -> dict[str, Any]:
        """One night with its faults, run again until it is published; what there is to know about it."""
        self.shop.deliver_catalogue(day)
        tries = self.before(day, drawn.before)
        night, done = {"ds": day.isoformat(), "faults": drawn.names}, False
        if drawn.during:
            strikes: list[Strike] = []
            allowed = DURING[drawn.during]
            tries.append(
                self.run(
                    day,
                    expected=allowed,
                    meanwhile=lambda process: strikes.append(Strike(drawn, self.root, process, self.usual_seconds())),
                )
            )
            strikes[0].end()
            night["fault_after_seconds"] = strikes[0].seconds
            done = tries[-1]["status"] == 0
            if done and strikes[0].seconds is None:  # the run ended before its fault
                tries[-1].pop("expected", None)
        while not done and len(tries) < TRIES:
            tries.append(self.run(day))
            # a scheduler does not try again after 2 and 3
            done = tries[-1]["status"] in (0, ConfigError.exit_status, GateError.exit_status)
        return night | {"published": in_use(self.root) == night["ds"]} | self._about(tries)

    def _about(self, tries: list[dict[str, Any]]) -> dict[str, Any]:
        """What the tries took and left behind, and how good the run in use is."""
        ds = in_use(self.root)
        wrong = self.check(ds)
        funnel = partitions.manifest_of(self.root, "histories", ds).details["funnel"]
        measured = pq.read_table(partitions.current(self.root, "metrics", ds)).to_pylist()
        quality = {row["model"]: row["value"] for row in measured if row["metric"] == f"ndcg@{K}"}
        return {
            "in_use": ds,
            "seconds": round(sum(one["seconds"] for one in tries), 1),
            "cpu_seconds": round(sum(one["cpu_seconds"] for one in tries), 1),
            "peak_gigabytes": max(one.pop("gigabytes") for one in tries),
            "output_megabytes": megabytes_on_disk(self.root),
            "delivered_megabytes": megabytes_on_disk(self.folder / "delivered"),
            "temporary_megabytes": megabytes_on_disk(self.temporary),
            "rows_read": funnel["rows_read"] - funnel["carried"],
            "carried": funnel["carried"],
            "events": funnel["kept"],
            "users": wrong.pop("users"),
            "items": funnel["items"],
            "kept_nights": len(list((self.root / "recommendations").glob("ds=*"))),
            "ndcg@10": {name: round(quality[name], 4) for name in MODELS if name in quality},
            "wrong": wrong,
            "left_processes": left_processes(self.root),
            "tries": tries,
        }

    def check(self, ds: str) -> dict[str, int]:
        """What is wrong with the published table of a date, which must be in use, here and where it is delivered."""
        table = partitions.current(self.root, "recommendations", ds)
        used = (self.root / promotions.LINK / "recommendations").resolve()
        found = count_faults(self.shop, self.root, date.fromisoformat(ds), k=K, forgotten=self.forgotten)
        here = pq.read_table(table, columns=LISTS).sort_by("user_id")
        there = delivery.read(self.there, "recommendations").to_table(columns=LISTS).sort_by("user_id")
        found["not_in_use"] = int(in_use(self.root) != ds or used != table)
        found["delivered_otherwise"] = int(not here.equals(there))
        found["forgotten_users"] = self._count_forgotten()
        self.checked.append(table.parent.name)
        return found

    def _count_forgotten(self) -> int:
        """Rows of forgotten users in all tables of all nights, here and where they are delivered."""
        gone, found = pa.array(self.forgotten, pa.string()), 0
        for home in (self.root / partitions.VERSIONS, self.folder / "delivered") if self.forgotten else ():
            for path in home.rglob("*.parquet"):
                file = pq.ParquetFile(path)
                if "user_id" in file.schema_arrow.names:
                    users = file.read(["user_id"])["user_id"].cast(pa.string())
                    found += pc.call_function("is_in", [users], pc.SetLookupOptions(value_set=gone)).to_numpy().sum()
        return int(found)


def write(row: Row, path: Path) -> dict[str, Any]:
    """Write the results so far; returns the figures."""
    settings, versions = load_config(row.config, ds=row.nights[-1]["ds"]), row.reader.versions()
    found = figures(row.nights) | {
        "forgotten_users": len(row.forgotten),
        "reads": row.reader.reads,
        "wrong_reads": row.reader.wrong,
        "versions_read": len(versions),
        "versions_read_but_never_checked": len(versions - set(row.checked)),
    }
    results = {
        "command": "python -m tests.benchmarks.sixty_nights FOLDER",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(settings),
        "versions": package_versions(),
        "seed": SEED,
        "memory": "sum of the proportional set sizes (PSS) of the run's processes, the greatest of one look a second",
        "figures": found,
        "nights": row.nights,
    }
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps all outputs")
    parser.add_argument("--nights", type=int, default=60, metavar="N", help="number of nights (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / STATE).exists():
        raise SystemExit(f"{folder} is not empty. Name a new or an empty folder, or one in which a row has begun")
    (folder / "stop").unlink(missing_ok=True)
    row = Row(folder, arguments.nights)
    row.save()
    for drawn in draw(SEED, arguments.nights)[len(row.nights) :]:
        row.nights.append(row.night(FIRST + timedelta(days=len(row.nights)), drawn))
        row.save()
        write(row, RESULTS / "sixty_nights.json")
        print(json.dumps(row.nights[-1], ensure_ascii=False), flush=True)
        if (folder / "stop").exists():
            break
    row.reader.end()
    found = write(row, RESULTS / "sixty_nights.json")
    plot(json.loads((RESULTS / "sixty_nights.json").read_text()), RESULTS / "sixty_nights.svg")
    print(json.dumps(found, indent=1))
    return int(found["wrong_tables"] + found["wrong_reads"] > 0)


if __name__ == "__main__":
    sys.exit(main())
