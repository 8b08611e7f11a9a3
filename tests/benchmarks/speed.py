"""Speed against the peers on one CPU machine: `python -m tests.benchmarks.speed --data DIR` → results/speed_cpu.json.

DIR holds the Beauty sequences (`sequences.txt`). In each round every side runs once, on one CPU thread, with a heap that
keeps its memory (`jobs.runtime.ray_cluster.KEEPS_MEMORY`). A ratio divides the medians over the rounds. Each side's lists
are the first lists of a newly loaded model. With `--only`, the figures of other parts stay in the file. The figures:

- `train_epoch_vs_rectools`, `train_epoch_vs_replay`: SASRec with width 64, 1 block, 1 head, length 50, batch 128 and a
  softmax over all items. Our side is a whole epoch through the DeepSpeed step of `jobs/distill.py`. A peer's side is the
  mean of `--peer-batches` batches without the first, times the batches of its epoch. Both are without validation.
- `kd_step_ratio`: our epoch with cached int8 hidden states of a teacher of width 256, against the epoch without teacher.
- `kd_step_ratio_sampled`: the same with 64 sampled items per position.
- `kd_step_ratio_sampled_1m`: the same over a million items, in `LARGE_STEPS` steps.
- `kd_step_ratio_sampled_1m_warm`: the same at temperature 2, where the student has two distributions.
- `coded_topk_10m_vs_dense`, `coded_topk_10m_vs_faiss`: see `tests.benchmarks.coded_lists`.
- `recommend_users_per_second`: the actor of `jobs/recommend.py`, from histories to a table of top-10 lists on disk, without
  seen items.
- `recommend_vs_replay`: this rate against RePlay's rate for lists in memory.
- `two_workers_speedup`: positions per second of two training processes against one, one thread each. Steps have 256 windows
  over all workers, as in the full recipes.
- `two_workers_speedup_batch_128`: the same with steps of 128 windows.
- `sessionize_vs_duckdb`: 20 million simulated events to the sessions table on both cores, against the same in DuckDB's SQL.
- `sessionize_16x_events`: its seconds against those for a 16th of the events.
- `recommend_16x_users`, `recommend_16x_items`: growth of the recommender's seconds with 16 times the users or items.
- `recommend_16x_users_memory`: growth of its peak memory with 16 times the users.
- `nightly_seconds`: `distilrec nightly` with `laptop.yaml`, from start to published table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})  # the libraries read it at their import

import numpy as np
import pyarrow as pa
import torch

from jobs.benchmark.provenance import package_versions, processor
from jobs.runtime.ray_cluster import KEEPS_MEMORY
from kdlib.config.models import TrainConfig, TrainingConfig
from kdlib.data.batches import WindowStore, shuffled_batches, store_from_tables
from kdlib.data.windows import take_slices, training_windows
from kdlib.models.sequence import SequenceModel
from kdlib.training.engine import make_engine, scoring_dtype
from kdlib.training.loop import train_epoch
from kdlib.training.module import CachedTeachers, NextItemTraining
from tests.benchmarks.coded_lists import coded_lists
from tests.benchmarks.growth import recommend_growth, sessionize
from tests.benchmarks.peers.run_peers import Split, leave_one_out, prepare_environment, read_sequences, run_peer
from tests.benchmarks.serving import histories_table, serving_actor
from tests.worker_group import process_group, run_workers

RESULTS = Path(__file__).parent / "results" / "speed_cpu.json"
SHAPE: dict[str, Any] = {"kind": "transformer", "dim": 64, "layers": 1, "heads": 1, "dropout": 0.2, "max_length": 50}
BATCH = 128
TEACHER_WIDTH = 256
SAMPLES = 64
LARGE_STEPS, LARGE_ITEMS = 3, 1_000_000
CPU = torch.device("cpu")
PEERS = ("rectools", "replay")


@dataclass(frozen=True)
class Bench:
    """Input of every part."""

    split: Split
    rounds: int
    peer_batches: int
    envs: Path

    def histories(self) -> pa.Table:
        """The split as `tables.HISTORIES`."""
        return histories_table(self.split.items, self.split.offsets, list(self.split.user_ids))


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder with sequences.txt")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-batches", type=int, default=20)
    parser.add_argument("--envs", type=Path, default=Path("output/peers"), help="folder for the peers' environments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = leave_one_out(read_sequences(options.data / "sequences.txt"))
    bench = Bench(split, options.rounds, options.peer_batches, options.envs)
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": {}, "parts": {}}
    for part in options.only:
        print(f"{part} …", flush=True)
        figures = {name: float(f"{value:.4g}") for name, value in PARTS[part](bench).items()}
        result["figures"] |= figures
        result["parts"][part] = {
            "command": f"python -m tests.benchmarks.speed --data …/{options.data.name} --only {part}"
            f" --rounds {options.rounds} --peer-batches {options.peer_batches}",
            "figures": list(figures),
            "hardware": f"{processor()}, {os.cpu_count()} cores",
            "versions": package_versions(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": options.rounds,
        }
        for name, value in figures.items():
            print(f"  {name:34} {value:>10,.4g}", flush=True)
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {RESULTS}")


def training_parts(bench: Bench) -> dict[str, float]:
    """Seconds of our epoch with and without teacher, of the peers' epoch at the same shape, and of all lists."""
    store = store_from_tables([training_windows(bench.histories(), max_length=50)])
    generator = np.random.default_rng(1)
    cached = replace(
        store,
        hidden=generator.integers(-127, 128, (len(store.inputs), TEACHER_WIDTH), np.int8),
        scales=np.full((len(store.inputs), 1), 0.01, np.float32),
    )
    drawn = generator.integers(0, bench.split.num_items, (len(store.inputs), SAMPLES)).astype("<i4")
    sampled = replace(cached, hidden=drawn.view(np.int8))
    head = torch.randn(bench.split.num_items, TEACHER_WIDTH) * 0.02
    ours: dict[str, Callable[[], float]] = {
        "plain": lambda: _epoch_seconds(bench, store, {}),
        "hidden": lambda: _epoch_seconds(
            bench, cached, {"cached": CachedTeachers([(head, None)], [1.0]), "kl_weight": 1.0, "temperature": 2.0}
        ),
        "sampled": lambda: _epoch_seconds(bench, sampled, {"draws": True, "kl_weight": 1.0}),
    }
    epochs: dict[str, list[float]] = {name: [] for name in (*ours, *PEERS)}
    lists: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    users = len(bench.split.user_ids)
    # one process group for all runs, because DeepSpeed keeps the first one
    with tempfile.TemporaryDirectory() as folder, process_group(rank=0, workers=1, folder=folder):
        for _ in range(bench.rounds):
            for name, run in ours.items():
                epochs[name].append(run())
            lists["ours"].append(_list_seconds(bench))
            for peer in PEERS:
                seconds = _peer(bench, peer)
                epochs[peer].append(seconds["batch"] * -(-users // BATCH))
                lists[peer].append(seconds["recommend"])
    median = {name: float(np.median(values)) for name, values in epochs.items()}
    rates = {name: users / float(np.median(values)) for name, values in lists.items()}
    mine = rates.pop("ours")
    return {
        "train_epoch_seconds": median["plain"],
        **{f"train_epoch_seconds_{peer}": median[peer] for peer in PEERS},
        **{f"train_epoch_vs_{peer}": median[peer] / median["plain"] for peer in PEERS},
        "kd_step_ratio": median["hidden"] / median["plain"],
        "kd_step_ratio_sampled": median["sampled"] / median["plain"],
        "recommend_users_per_second": mine,
        **{f"recommend_users_per_second_{peer}": rate for peer, rate in rates.items()},
        **{f"recommend_vs_{peer}": mine / rate for peer, rate in rates.items()},
    }


def large_parts(bench: Bench) -> dict[str, float]:
    """A step with sampled targets over a million items against a step without teacher, measured in turns."""
    whole = store_from_tables([training_windows(bench.histories(), max_length=50)])
    generator = np.random.default_rng(1)
    place_V = generator.permutation(LARGE_ITEMS)[: bench.split.num_items]  # spread over the large catalogue
    few = whole.offsets[: LARGE_STEPS * BATCH + 1]
    inputs, targets = (place_V[part[: few[-1]]].astype(part.dtype) for part in (whole.inputs, whole.targets))
    plain = WindowStore(inputs, targets, whole.context[: few[-1]], few)
    drawn = generator.integers(0, LARGE_ITEMS, (len(inputs), SAMPLES)).astype("<i4")
    sampled = replace(plain, hidden=drawn.view(np.int8), scales=np.full((len(inputs), 1), 0.01, np.float32))
    with tempfile.TemporaryDirectory() as folder, process_group(rank=0, workers=1, folder=folder):
        median = _rounds(
            bench.rounds,
            {
                "plain": lambda: _train(LARGE_ITEMS, plain, {}, world=1)[0],
                "sampled": lambda: _train(LARGE_ITEMS, sampled, {"draws": True, "kl_weight": 1.0}, world=1)[0],
                "sampled_warm": lambda: _train(
                    LARGE_ITEMS, sampled, {"draws": True, "kl_weight": 1.0, "temperature": 2.0}, world=1
                )[0],
            },
        )
    return {
        "kd_step_ratio_sampled_1m": median["sampled"] / median["plain"],
        "kd_step_ratio_sampled_1m_warm": median["sampled_warm"] / median["plain"],
        "train_step_seconds_1m": median["plain"] / LARGE_STEPS,
    }


def _rounds(rounds: int, sides: dict[str, Callable[[], float]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            taken[name].append(run())
    return {name: float(np.median(values)) for name, values in taken.items()}


def _peer(bench: Bench, peer: str) -> dict[str, float]:
    """A peer's seconds for one training batch and for all users' lists, on one thread."""
    flags = ["--dim", "64", "--blocks", "1", "--heads", "1", "--dropout", "0.2", "--max-length", "50"]
    flags += ["--batch-size", str(BATCH), "--negatives", "0"]
    flags += ["--epochs", "1", "--limit-batches", str(bench.peer_batches)]
    options = argparse.Namespace(seed=1, device="cpu", threads=1)
    return run_peer(prepare_environment(peer, bench.envs), peer, bench.split, options, flags)[1]["seconds"]


def _epoch_seconds(bench: Bench, store: WindowStore, settings: dict[str, Any]) -> float:
    """Seconds of one epoch, in the process group of the caller."""
    return _train(bench.split.num_items, store, settings, world=1)[0]


def _train(
    num_items: int, store: WindowStore, settings: dict[str, Any], *, world: int, batch: int = BATCH
) -> tuple[float, float]:
    """Seconds of an epoch without the engine's start, and the number of its positions."""
    torch.manual_seed(1)
    train = TrainConfig(batch_size=batch)
    student = SequenceModel(num_items=num_items, **SHAPE)
    module = NextItemTraining(student, dtype=scoring_dtype(CPU, bf16=True), **settings)
    engine = make_engine(module, train, zero_stage=TrainingConfig().zero_stage, workers=world, bf16=False)
    batches = shuffled_batches(store, batch_size=batch // world, seed=1)
    started = time.perf_counter()
    usual = store.positions_a_window() * batch
    figures = train_epoch(
        engine, batches, device=CPU, learning_rate=0.001, warmup_steps=0, positions_a_step=usual, first_step=0
    )
    seconds = time.perf_counter() - started
    engine.destroy()
    return seconds, figures["positions"]


def _list_seconds(bench: Bench) -> float:
    """Seconds of the first pass of a recommender's actor, from files to files, without the loading of its model."""
    with tempfile.TemporaryDirectory() as name:
        counts = np.bincount(bench.split.items, minlength=bench.split.num_items)
        actor, rows = serving_actor(Path(name), bench.histories(), counts, SHAPE)
        started = time.perf_counter()
        actor(rows)
        return time.perf_counter() - started


def _worker(rank: int, world: int, folder: str, num_items: int, store: WindowStore, batch: int) -> None:
    windows = np.arange(rank, len(store) // world * world, world)  # the same number for each worker
    lengths = np.diff(store.offsets)[windows]
    flat = take_slices(store.offsets[windows], lengths)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    mine = WindowStore(store.inputs[flat], store.targets[flat], store.context[flat], offsets)
    seconds, positions = _train(num_items, mine, {}, world=world, batch=batch)
    if rank == 0:
        Path(folder, "rate").write_text(str(positions / seconds))


def two_workers(bench: Bench) -> dict[str, float]:
    """Positions per second of two processes against one, measured in turns."""
    store = store_from_tables([training_windows(bench.histories(), max_length=50)])

    def rate(world: int, batch: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            run_workers(_worker, world, folder, bench.split.num_items, store, batch, workers=world)
            return float(Path(folder, "rate").read_text())

    def speedup(batch: int) -> float:
        rates = _rounds(bench.rounds, {"one": lambda: rate(1, batch), "two": lambda: rate(2, batch)})
        return rates["two"] / rates["one"]

    return {"two_workers_speedup": speedup(2 * BATCH), f"two_workers_speedup_batch_{BATCH}": speedup(BATCH)}


def nightly(bench: Bench) -> dict[str, float]:
    """Seconds of the default run in a new output folder, on both cores."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}

    def night() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            command = [sys.executable, "-m", "jobs", "nightly", "--set", f"output_dir={folder}/laptop"]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

    return {"nightly_seconds": _rounds(bench.rounds, {"night": night})["night"]}


PARTS: dict[str, Callable[[Bench], dict[str, float]]] = {
    "training": training_parts,
    "large": large_parts,
    "coded": lambda bench: coded_lists(bench.envs),
    "workers": two_workers,
    "nightly": nightly,
    "sessionize": lambda bench: sessionize(bench.rounds),
    "growth": lambda bench: recommend_growth(bench.rounds),
}


if __name__ == "__main__":
    if KEEPS_MEMORY.items() <= os.environ.items():
        main()
    else:  # a process reads these variables at its start
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.benchmarks.speed", *sys.argv[1:]], os.environ | KEEPS_MEMORY
        )
