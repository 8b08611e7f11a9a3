"""The cost of a run at any size: `python -m tests.benchmarks.sizing` → results/sizing.json, tables of cluster/SIZING.md.

The command measures a list of points one after the other. Each point has its own process, so that its peak memory is its
own. Spark runs on all cores, the other parts on one thread. A cost model is fitted to the small points: a figure is a sum of
constant × count (`terms`). The model then predicts the larger points, which the fit has not seen. The command prints
predictions and measurements, and ends with status 1 if any differ by more than 25%.

With `--tables` the command only writes the document's tables from results/sizing.json.

- `features`: the job `build-features` on simulated events. Core-seconds with Spark's start, and bytes of its tables.
- `train`: CPU seconds of a DeepSpeed step, the median of three. Peak bytes, without the data, of a worker that trains
  and validates as `jobs/runtime/student_worker.py` does. Windows have 19 positions. Scores are bfloat16 if the processor supports it.
- `recommend`: CPU seconds of the actor of `jobs/recommend.py`, the median of three rounds. Its peak bytes, and the bytes
  of its table.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jobs.benchmark.provenance import package_versions, processor

RESULTS = Path(__file__).parent / "results" / "sizing.json"
DOCUMENT = Path(__file__).parents[2] / "cluster" / "SIZING.md"
LARGEST_ERROR = 0.25
SEED, SIMULATOR_SEED, ROUNDS = 1, 7, 3
DAY, DRIVER_MEMORY = "2026-11-22", "4g"
EVENTS, POSITIONS = 20, 19
"""Events of a user, and the number of training positions from them."""
DIM, TEACHER_DIM, NEGATIVES, SAMPLES, K = 64, 128, 256, 64, 10
CODES: dict[str, Any] = {"kind": "residual", "count": 8, "size": 256}
BATCH = 1024
"""`recommend.batch_size`."""
WINDOWS, WORKERS, EPOCHS = 16_384, 8, 10
"""In the document's tables: `batch_size` of training, `training.workers` and `epochs`."""
USERS, ITEMS = (10**6, 10**7, 10**8), (10**5, 10**6, 10**7, 10**8)
"""Sizes in the document's tables."""
SIZES = {"features": ("events",), "train": ("items", "windows"), "recommend": ("users", "items")}

Size = dict[str, Any]
Constants = dict[str, dict[str, float]]


def _points(part: str, fitted: list[tuple[int, ...]], check: tuple[int, ...], **same: Any) -> list[Size]:
    """Points for the fit, and one larger point for the check."""
    uses = [*(("fit", numbers) for numbers in fitted), ("check", check)]
    return [{"part": part, "use": use, **same, **dict(zip(SIZES[part], numbers, strict=True))} for use, numbers in uses]


POINTS = [
    *_points("features", [(500_000,), (2_000_000,)], (6_000_000,)),
    *_points("train", [(200_000, 128), (200_000, 2048), (500_000, 128)], (1_500_000, 256), form="negatives"),
    *_points("train", [(200_000, 512)], (1_500_000, 256), form="negatives", negatives=4096),
    *_points("train", [(200_000, 128), (200_000, 512), (500_000, 128)], (1_500_000, 256), form="followed"),
    *_points("train", [(200_000, 512)], (1_500_000, 256), form="followed", negatives=4096),
    *_points("train", [(150_000, 53), (250_000, 53)], (500_000, 106), form="all_items"),
    *_points("train", [(150_000, 53), (250_000, 53)], (400_000, 53), form="taught"),
    *_points("train", [(150_000, 53), (250_000, 53)], (400_000, 53), form="codes"),
    *_points("train", [(300_000, 64)], (600_000, 64), form="negatives", workers=2),
    *_points("train", [], (600_000, 64), form="negatives", workers=2, zero_stage=3),
    *_points("recommend", [(512, 500_000), (512, 1_000_000)], (1280, 2_000_000), form="dense"),
    *_points("recommend", [(512, 1_000_000), (512, 2_000_000)], (1280, 4_000_000), form="codes"),
]
"""Forms of training:

- `negatives`: sampled negatives.
- `followed`: sampled negatives, over which the student follows a cached teacher.
- `all_items`: softmax over all items. 53 windows nearly fill its tiles of 1,024 positions.
- `taught`: softmax over all items, and a cached teacher.
- `codes`: as `taught`, with sub-item codes.

Lists of `codes` are made by look-ups, from a million items on. The codes are drawn at random. Look-ups then skip no item, which is
their slowest case.
"""


def main() -> int:
    """Measure the points or read them, write the document's tables, and check the cost model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument(
        "--missing",
        action="store_true",
        help="measure only points that the file lacks, as after a failure; it must be of this machine",
    )
    parser.add_argument(
        "--point", type=json.loads, help="measure only this point, in this process, and print its figures"
    )
    options = parser.parse_args()
    if options.point:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURES[options.point["part"]](Path(folder), options.point)))
        return 0
    if not options.tables:
        kept = (
            json.loads(RESULTS.read_text()) if options.missing else {"points": [], "hardware": None, "versions": None}
        )
        _measure_all(kept)
    result = json.loads(RESULTS.read_text())
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), result))
    print(_checks_table(result))
    return int(any(abs(check["error"]) > LARGEST_ERROR for check in result["checks"]))


def _measure_all(kept: dict[str, Any]) -> None:
    """Measure the points that are not kept, write the file after each, and fit the model."""
    import torch

    from kdlib.training.engine import scoring_dtype

    scores, points = scoring_dtype(torch.device("cpu"), bf16=True), []
    hardware = f"{processor()}, {os.cpu_count()} cores; scores in {str(scores).removeprefix('torch.')}"
    assert kept["hardware"] in (None, hardware), (
        "--missing: the file holds points of another machine. Measure all points again"
    )
    assert kept["versions"] in (None, package_versions()), (
        "--missing: the file holds points of other package versions. Measure all points again"
    )
    about = {
        "command": "python -m tests.benchmarks.sizing",
        "seeds": {"data": SEED, "simulator": SIMULATOR_SEED},
        "hardware": hardware,
        "versions": package_versions(),
        "rounds": ROUNDS,
    }
    for size in POINTS:
        if found := [point for point in kept["points"] if size_of(point) == size]:
            points += found
            continue
        print(" ".join(f"{name}={value}" for name, value in size.items()), "…", flush=True)
        threads = {} if size["part"] == "features" else {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.benchmarks.sizing", "--point", json.dumps(size)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=os.environ | threads)
        figures = _rounded(json.loads(done.stdout.splitlines()[-1]))
        points.append({**size, "figures": figures, "date": datetime.now(UTC).isoformat(timespec="seconds")})
        _write({"points": points} | about)
    constants = fit_all(points)
    found = {"constants": constants, "checks": list(_checks(constants, points)), "points": points}
    _write(found | about | {"date": datetime.now(UTC).isoformat(timespec="seconds")})


def _write(result: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def size_of(point: Size) -> Size:
    """A point without its results."""
    return {name: value for name, value in point.items() if name not in ("figures", "date")}


def terms(figure: str, size: Mapping[str, Any]) -> dict[str, float]:
    """Constant → its count in a figure at a size. The figure is the sum of constant × count.

    An *entry* is one number of an item table (items × width), of the student or its teacher. A *score* is a position times an
    entry that it is compared with: of all items, or of the *sampled* ones. *Composed* entries are computed from codes, once
    per step. *Shared* entries are divided among the workers.
    """
    part, kind = figure.split(".")
    form, items, users = size.get("form"), size.get("items", 0), size.get("users", 0)
    if part == "features":
        return ({"start": 1.0} if kind == "core_seconds" else {}) | {"event": size["events"]}
    if part == "recommend" and kind == "table_bytes":
        return {"user": users}
    if part == "recommend" and kind == "peak_bytes":
        return {"base": 1.0, f"{form}_item": items}
    if part == "recommend":
        return {f"{form}_user": users, f"{form}_user_item": users * items}
    entries, positions = items * size.get("dim", DIM), size["windows"] * POSITIONS
    samples = form in ("negatives", "followed")
    learns = form in ("followed", "taught", "codes")
    counts = {"position": positions, "composed_entry" if form == "codes" else "entry": entries}
    if kind == "peak_bytes":
        counts |= {} if form == "codes" else {"shared_entry": entries / size.get("workers", 1)}
        return {"base": 1.0} | counts | ({"teacher_entry": items * TEACHER_DIM} if learns else {})
    compared, score = (size.get("negatives", NEGATIVES), "sampled_score") if samples else (items, "score")
    counts[score] = positions * compared * size.get("dim", DIM)
    return counts | ({f"teacher_{score}": positions * compared * TEACHER_DIM} if learns else {})


def fit(rows: Iterable[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """The constants ≥ 0 with the smallest relative errors (least squares).

    A constant that would be negative is left out.

    Args:
      rows: `terms` of a figure at a point, and the measured figure.
    """
    rows = list(rows)
    names = sorted({name for counts, _ in rows for name in counts})
    while True:
        matrix = np.array([[counts.get(name, 0.0) / measured for name in names] for counts, measured in rows])
        scale = matrix.max(0)
        found = np.linalg.lstsq(matrix / scale, np.ones(len(rows)), rcond=None)[0]
        if (found >= 0).all():
            return dict(zip(names, (found / scale).tolist(), strict=True))
        names.pop(int(found.argmin()))


def fit_all(points: Iterable[Size]) -> Constants:
    """Figure → its constants, from the points for the fit."""
    rows: dict[str, list[tuple[dict[str, float], float]]] = {}
    for point in points:
        for figure, measured in _modelled(point) if point["use"] == "fit" else ():
            rows.setdefault(figure, []).append((terms(figure, point), measured))
    return {figure: _rounded(fit(found)) for figure, found in rows.items()}


def predict(constants: Constants, figure: str, **size: Any) -> float:
    """The predicted figure at a size."""
    return sum(constants[figure].get(name, 0.0) * count for name, count in terms(figure, size).items())


def _modelled(point: Size) -> Iterator[tuple[str, float]]:
    """The figures that the model covers.

    It leaves out Spark's memory, which a setting limits, and the time of two workers, because they share this machine's caches.
    """
    left_out = "peak_bytes" if point["part"] == "features" else "seconds" if point.get("workers", 1) > 1 else ""
    return ((f"{point['part']}.{name}", value) for name, value in point["figures"].items() if name != left_out)


def _checks(constants: Constants, points: Iterable[Size]) -> Iterator[dict[str, Any]]:
    for point in points:
        size = {name: value for name, value in size_of(point).items() if name not in ("part", "use")}
        for figure, measured in _modelled(point) if point["use"] == "check" else ():
            predicted = predict(constants, figure, **size)
            found = {"predicted": predicted, "measured": measured, "error": predicted / measured - 1}
            yield {"figure": figure, "size": size, **_rounded(found)}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def _measure_features(folder: Path, size: Size) -> dict[str, float]:
    from kdlib.store import partitions

    simulate = {"num_events": size["events"], "num_items": max(2_000, size["events"] // 200)}
    simulate |= {"events_per_user": EVENTS, "seed": SIMULATOR_SEED}
    config = {"name": "sizing", "output_dir": str(folder), "input": {"simulate": simulate}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    flags = ["--config", str(folder / "config.yaml"), "--ds", DAY, "--set", f"spark.driver_memory={DRIVER_MEMORY}"]
    subprocess.run([sys.executable, "-m", "jobs", "simulate-events", *flags], check=True, stdout=subprocess.DEVNULL)
    started = time.perf_counter()
    job = subprocess.Popen([sys.executable, "-m", "jobs", "build-features", *flags], stdout=subprocess.DEVNULL)
    status, usage = os.wait4(job.pid, 0)[1:]
    seconds = time.perf_counter() - started
    assert status == 0, "build-features failed"
    files = {name: partitions.manifest_of(folder, name, DAY).files for name in ("sessions", "histories")}
    made = {f"{name}_bytes": sum(file["bytes"] for file in found) for name, found in files.items()}
    return {"core_seconds": seconds * len(os.sched_getaffinity(0)), "peak_bytes": usage.ru_maxrss * 1024, **made}


def _measure_train(folder: Path, size: Size) -> dict[str, float]:
    from tests.worker_group import run_workers

    run_workers(_train_worker, str(folder), size, workers=size.get("workers", 1))
    return json.loads((folder / "figures.json").read_text())


def _train_worker(rank: int, folder: str, size: Size) -> None:
    import torch

    from kdlib.config.models import TrainConfig
    from kdlib.data.batches import shuffled_batches, store_from_tables
    from kdlib.data.windows import evaluation_rows, training_windows
    from kdlib.models.sequence import SequenceModel
    from kdlib.training.engine import full_weights, make_engine, scoring_dtype
    from kdlib.training.loop import train_epoch
    from kdlib.training.module import CachedTeachers, NextItemTraining, Ranking
    from kdlib.training.student_task import validation_scores
    from tests.benchmarks.speed import CPU

    torch.manual_seed(SEED)
    items, windows, form, world = size["items"], size["windows"], size["form"], size.get("workers", 1)
    histories = _histories(np.full((1 + ROUNDS) * windows, POSITIONS + 2), items)
    store = store_from_tables([training_windows(histories, max_length=50)])
    settings: dict[str, Any] = {"dtype": scoring_dtype(CPU, bf16=True)}
    if form in ("negatives", "followed"):
        settings["ranking"] = Ranking(size.get("negatives", NEGATIVES), None)
    if form in ("followed", "taught", "codes"):
        states = np.random.default_rng(SEED).integers(-127, 128, (len(store.inputs), TEACHER_DIM), np.int8)
        store = replace(store, hidden=states, scales=np.full((len(states), 1), 0.01, np.float32))
        head = torch.randn(items, TEACHER_DIM) * 0.02
        settings |= {"cached": CachedTeachers([(head, None)], [1.0]), "kl_weight": 1.0, "temperature": 2.0}
    ends: list[float] = []
    student = SequenceModel(num_items=items, **_shape(form, items))
    engine = make_engine(
        NextItemTraining(student, **settings),
        TrainConfig(batch_size=windows * world),
        zero_stage=size.get("zero_stage", 1),
        workers=world,
        bf16=False,
    )
    train_epoch(
        engine,
        shuffled_batches(store, batch_size=windows, seed=SEED),
        device=CPU,
        learning_rate=0.001,
        warmup_steps=0,
        positions_a_step=store.positions_a_window() * windows * world,
        first_step=0,
        on_step=lambda: ends.append(time.process_time()),
    )
    held = [full_weights(engine, student) for _ in ("the best epoch's", "the last one's")]
    rows = evaluation_rows(histories.slice(0, 16), position_column="validation_position")
    validation_scores(student, held[-1], "float32", rows, device=CPU, world=world)
    if rank == 0:
        seconds = float(np.median([after - before for before, after in pairwise(ends)]))
        Path(folder, "figures.json").write_text(json.dumps({"seconds": seconds, "peak_bytes": _peak_bytes()}))


def _measure_recommend(folder: Path, size: Size) -> dict[str, float]:
    from multiprocessing import get_context

    import pyarrow as pa
    import torch

    from kdlib.data.shards import history_shards
    from kdlib.inference.shard_recommender import ShardRecommender

    torch.set_num_threads(1)
    # in another process, so that its memory does not count in this process's peak
    maker = get_context("spawn").Process(target=_write_serving_files, args=(folder, size))
    maker.start()
    maker.join()
    assert maker.exitcode == 0, "the actor's files were not made"
    settings = {f"{name}_folder": str(folder / name) for name in ("model", "vocabulary", "statistics")}
    limits = {"k": K, "because": 0, "item_block": 65_536, "threads": 1, "generated_at": datetime.fromisoformat(DAY)}
    actor = ShardRecommender(str(folder / "table"), BATCH, settings | limits)
    found = history_shards([str(folder / "histories.parquet")], num_rows=4 * BATCH)
    shards, taken = pa.Table.from_pylist([vars(shard) for shard in found]), []
    for _ in range(ROUNDS):
        started = time.process_time()
        actor(shards)
        taken.append(time.process_time() - started)
    written = sum(file.stat().st_size for file in (folder / "table").iterdir())
    return {"seconds": float(np.median(taken)), "peak_bytes": _peak_bytes(), "table_bytes": written}


def _write_serving_files(folder: Path, size: Size) -> None:
    from tests.benchmarks.serving import serving_actor

    users, items = size["users"], size["items"]
    lengths = np.random.default_rng(SEED).integers(2, 2 * EVENTS - 1, users)
    serving_actor(folder, _histories(lengths, items), np.ones(items, np.int64), _shape(size["form"], items))


def _histories(lengths: np.ndarray, items: int) -> Any:
    from tests.benchmarks.serving import histories_table

    offsets = np.concatenate(([0], np.cumsum(lengths)))
    drawn = np.random.default_rng(SEED).integers(0, items, offsets[-1])
    return histories_table(drawn, offsets, [f"u{number}" for number in range(len(lengths))])


def _shape(form: str, items: int) -> dict[str, Any]:
    import torch

    shape = {"kind": "transformer", "dim": DIM, "dropout": 0.2, "max_length": 50}
    if form == "codes":
        drawn = torch.randint(CODES["size"], (items, CODES["count"]), dtype=torch.uint8)
        shape |= {"codes": CODES, "codes_VM": drawn}
    return shape


def _peak_bytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


MEASURES: dict[str, Callable[[Path, Size], dict[str, float]]] = {
    "features": _measure_features,
    "train": _measure_train,
    "recommend": _measure_recommend,
}


def with_tables(text: str, result: dict[str, Any]) -> str:
    """The document with new tables. A table stands between `<!-- table: NAME -->` and `<!-- end -->`."""
    tables = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return tables.sub(lambda found: f"{found[1]}{TABLES[found[2]](result)}\n{found[3]}", text)


def _table(header: str, rows: Iterable[Iterable[object]]) -> str:
    lines = [header, "| --- " * header.count(" | ") + "| --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(_text, row))} |" for row in rows)])


def _text(value: object, *, digits: int = 2) -> str:
    return f"{float(f'{value:.{digits}g}'):,.10g}" if isinstance(value, float) else str(value)


def _power(number: int) -> str:
    return f"10{'⁰¹²³⁴⁵⁶⁷⁸⁹'[len(str(number)) - 1]}"


def _trained(form: str) -> Size:
    """Settings of a model in the document's tables. The model with sampled negatives is the teacher."""
    dim = TEACHER_DIM if form == "negatives" else DIM
    return {"form": form, "dim": dim, "windows": WINDOWS / WORKERS, "workers": WORKERS}


def core_hours(constants: Constants, users: int, items: int) -> dict[str, float]:
    """Core-hours of each stage; for training, of one epoch without the time that workers wait for gradients."""
    seconds = {"features": predict(constants, "features.core_seconds", events=EVENTS * users)}
    for form in ("negatives", "taught", "codes", "followed"):
        step = predict(constants, "train.seconds", items=items, **_trained(form))
        seconds[form] = step * WORKERS * users / WINDOWS
    seconds["recommend"] = predict(constants, "recommend.seconds", form="dense", users=users, items=items)
    return {name: value / 3600 for name, value in seconds.items()}


def _hours_table(result: dict[str, Any]) -> str:
    rows = []
    for users, items in product(USERS, ITEMS):
        hours = core_hours(result["constants"], users, items)
        same = hours["features"] + EPOCHS * hours["negatives"] + hours["recommend"]
        nights = [same + EPOCHS * hours[form] for form in ("taught", "followed")]
        rows.append([f"{_power(users)} × {_power(items)}", *hours.values(), *nights])
    columns = "Spark | teacher | student | with codes | over negatives | recommend | a night | over negatives"
    return _table(f"| users × items | {columns} |", rows)


def _disk_table(result: dict[str, Any]) -> str:
    """The table of disk space. A position's targets are states and a scale, or samples and a mean; plus item and context."""
    rows = []
    for users in USERS:
        figures = ("features.sessions_bytes", "features.histories_bytes", "recommend.table_bytes")
        size = {"events": EVENTS * users, "users": users}
        disk = [predict(result["constants"], figure, **size) for figure in figures]
        disk += [users * POSITIONS * (target + 4 + 4 + 3) for target in (TEACHER_DIM, 4 * SAMPLES)]
        rows.append([_power(users), *(size / 1e9 for size in disk)])
    return _table("| users | sessions | histories | recommendations | targets, hidden | targets, sampled |", rows)


def _memory_table(result: dict[str, Any]) -> str:
    rows = []
    for items in ITEMS:
        asked = [("train.peak_bytes", _trained(form)) for form in ("negatives", "taught", "codes", "followed")]
        asked += [("recommend.peak_bytes", {"form": form}) for form in ("dense", "codes")]
        memory = [predict(result["constants"], figure, items=items, **how) for figure, how in asked]
        files = [4 * items * DIM, items * CODES["count"] + 4 * CODES["count"] * CODES["size"] * DIM]
        rows.append([_power(items), *(number / 1e9 for number in (*files, *memory))])
    columns = "model file | with codes | teacher's worker | student's worker | with codes | over negatives | recommender | with codes"
    return _table(f"| items | {columns} |", rows)


def _checks_table(result: dict[str, Any]) -> str:
    rows = []
    for check in result["checks"]:
        where = ", ".join(f"{name} {value:,}" if name != "form" else value for name, value in check["size"].items())
        unit, name = (1e6, "MB") if check["figure"].endswith("bytes") else (1.0, "s")
        numbers = [f"{_text(check[side] / unit, digits=3)} {name}" for side in ("predicted", "measured")]
        rows.append([f"`{check['figure']}`", where, *numbers, f"{check['error']:+.1%}"])
    return _table("| figure | at | predicted | measured | error |", rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "hours": _hours_table,
    "memory": _memory_table,
    "disk": _disk_table,
    "checks": _checks_table,
}


if __name__ == "__main__":
    sys.exit(main())
