"""Correctness and speed on one GPU: `python -m tests.benchmarks.gpu PART` → results/speed_gpu.json.

Each part is meant to take less than 9 minutes on an H100, where none has run yet. None needs Spark or the text packages.
Without a CUDA device, a part runs with small inputs, checks itself and writes nothing.

- `kernels`: the laws of the Triton kernels, against whole logits. Without a GPU, `tests/losses/test_triton_without_gpu.py`
  runs them in Triton's interpreter.
- `loss`: cross-entropy and KL, forward and backward, in bfloat16. The student has width 128, the teacher 256, the
  temperature is 2. 100k is 10⁵ items and 8,192 positions, 1m is 10⁶ items and 4,096 positions.
  - `ce_kl_100k_ms`, `ce_kl_1m_ms`: median milliseconds of the form that `dispatch.cross_entropy_and_kl` chooses itself.
  - `…_tiles`, `…_chunks`: the same by tiles, and by chunks of positions in PyTorch.
  - `ce_sampled_100k_ms`, `ce_sampled_1m_ms`: with 64 sampled targets a position in place of the teacher.
  - `ce_kl_100k_gb`, …: peak memory above the inputs, gradients included, in 10⁹ bytes.
- `lists`: `topk_1m_ms`, median milliseconds of `exact_topk`: 4,096 users, 10⁶ items, the best 100, width 128, bfloat16.
- `epoch`: `gpu_epoch_seconds`, the median epoch of SASRec on Amazon Beauty through the training job's DeepSpeed step: width 64,
  one block, length 50, batch 128, softmax over all items. It needs `--data`, the folder with `sequences.txt`.
- `recipe`: `gpu_recipe_seconds`, all stages from the teachers to the lists, and each stage's seconds. It needs `--run`, an
  output folder with the features and title vectors of a run, and `--config`, that run's config. None of these stages may have
  run there with one worker.

Shapes: T positions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from jobs.benchmark.provenance import package_versions, processor
from kdlib.config.models import TrainConfig
from kdlib.data.batches import shuffled_batches, store_from_tables
from kdlib.data.windows import training_windows
from kdlib.inference.topk import exact_topk
from kdlib.losses import blocked, dispatch, next_item, sparse
from kdlib.losses.scored import LossSums, Scored, Teachers
from kdlib.models.sequence import SequenceModel
from kdlib.training.engine import make_engine
from kdlib.training.loop import train_epoch
from kdlib.training.module import NextItemTraining
from tests.benchmarks.peers.run_peers import leave_one_out, read_sequences
from tests.benchmarks.serving import histories_table
from tests.worker_group import process_group

RESULTS = Path(__file__).parent / "results" / "speed_gpu.json"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
SHAPES = (
    {"100k": (8_192, 100_000), "1m": (4_096, 1_000_000)} if ON_GPU else {"100k": (64, 100_000), "1m": (16, 100_001)}
)
"""Name → positions, items."""
STUDENT_WIDTH, TEACHER_WIDTH, SAMPLES = 128, 256, 64
LIST_USERS, LIST_ITEMS, K = (4_096, 1_000_000, 100) if ON_GPU else (8, 10_000, 100)
WARM_UP = 2
STAGES = ("train-teacher", "cache-teacher", "distill", "evaluate", "recommend")

Loss = Callable[[Scored, torch.Tensor], LossSums]


class Bench(NamedTuple):
    """What the parts are called with."""

    rounds: int
    data: Path | None
    run: Path | None
    config: Path | None


def main() -> None:
    """Run a part, print and write its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=10 if ON_GPU else 1)
    parser.add_argument("--data", type=Path, help="epoch: folder with sequences.txt")
    parser.add_argument("--run", type=Path, help="recipe: output folder with features and title vectors")
    parser.add_argument("--config", type=Path, help="recipe: the run config")
    options = parser.parse_args()
    bench = Bench(options.rounds, options.data, options.run, options.config)
    figures = {name: float(f"{value:.4g}") for name, value in PARTS[options.part](bench).items()}
    for name, value in figures.items():
        print(f"  {name:28} {value:>10,.4g}", flush=True)
    if not ON_GPU:
        print("no CUDA device: the inputs were small, and nothing is written")
        return
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": {}, "parts": {}}
    result["figures"] |= figures
    result["parts"][options.part] = {
        "command": f"python -m tests.benchmarks.gpu {options.part} --rounds {options.rounds}",
        "figures": list(figures),
        "hardware": f"{processor()}, {os.cpu_count()} cores, {torch.cuda.get_device_name()}",
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": options.rounds,
    }
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {RESULTS}")


def kernels(bench: Bench) -> dict[str, float]:
    """Run the tests of the kernels; ends the process if one fails."""
    file = "test_triton_kernels.py" if ON_GPU else "test_triton_without_gpu.py"
    tests = Path(__file__).parents[1] / "losses" / file
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)], check=True)
    return {}


def loss(bench: Bench) -> dict[str, float]:
    """Milliseconds and memory of every form of the loss. All forms must agree."""
    figures: dict[str, float] = {}
    for name, (positions, items) in SHAPES.items():
        student, targets_T, forms = _forms(positions, items)
        totals = {}
        for form, compute in forms.items():
            milliseconds, gigabytes, totals[form] = _measured(compute, student, targets_T, rounds=bench.rounds)
            figures |= {form.format(name, "ms"): milliseconds, form.format(name, "gb"): gigabytes}
        taught = [total for form, total in totals.items() if "kl" in form]
        assert max(taught) - min(taught) < 1e-2 * abs(max(taught)), f"{name}: the forms disagree: {totals}"
    return figures


def _forms(positions: int, items: int) -> tuple[Scored, torch.Tensor, dict[str, Loss]]:
    """Student, targets, and name → loss. Made-up predictions."""
    generator = torch.Generator(DEVICE).manual_seed(1)

    def scored(width: int) -> Scored:
        parts = [torch.randn(rows, width, device=DEVICE, generator=generator) for rows in (positions, items)]
        return Scored(parts[0], parts[1] * 0.1)

    student, teachers = scored(STUDENT_WIDTH), Teachers(scored(TEACHER_WIDTH), 1.0, 2.0)
    for part in student[:2]:
        part.requires_grad_()
    drawn_TS = torch.randint(0, items, (positions, SAMPLES), device=DEVICE, generator=generator).sort(1).values
    draws = sparse.Draws(drawn_TS, torch.full((positions,), -5.0, device=DEVICE), 1.0, 2.0)
    low = torch.bfloat16
    forms: dict[str, Loss] = {
        "ce_kl_{}_{}": lambda one, wanted: dispatch.cross_entropy_and_kl(one, wanted, teachers, dtype=low),
        "ce_kl_{}_{}_tiles": lambda one, wanted: blocked.cross_entropy_and_kl(one, wanted, teachers, dtype=low),
        "ce_kl_{}_{}_chunks": lambda one, wanted: next_item.cross_entropy_and_kl(one, wanted, teachers, dtype=low),
        "ce_sampled_{}_{}": lambda one, wanted: dispatch.cross_entropy_and_sampled_kl(one, wanted, draws, dtype=low),
    }
    return student, torch.randint(0, items, (positions,), device=DEVICE, generator=generator), forms


def _measured(compute: Loss, student: Scored, targets_T: torch.Tensor, *, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds of forward and backward, peak memory above the inputs in 10⁹ bytes, and the loss."""
    learning = [part for part in student if part is not None]
    before = torch.cuda.memory_allocated() if ON_GPU else 0
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    total = 0.0

    def step() -> None:
        nonlocal total
        found = compute(student, targets_T).total
        torch.autograd.grad(found, learning)
        total = found.item()

    milliseconds = _median_milliseconds(step, rounds=rounds)
    peak = torch.cuda.max_memory_allocated() - before if ON_GPU else 0
    return milliseconds, peak / 1e9, total


def _median_milliseconds(step: Callable[[], object], *, rounds: int) -> float:
    taken = []
    for _ in range(WARM_UP + rounds):
        _wait()
        started = time.perf_counter()
        step()
        _wait()
        taken.append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken[WARM_UP:]))


def _wait() -> None:
    """Until the GPU has done what it was given."""
    if ON_GPU:
        torch.cuda.synchronize()


def lists(bench: Bench) -> dict[str, float]:
    """Milliseconds of exact top-k. The lists of some users are compared with PyTorch's."""
    generator = torch.Generator(DEVICE).manual_seed(1)
    hidden, matrix = (
        torch.randn(rows, STUDENT_WIDTH, device=DEVICE, generator=generator).bfloat16()
        for rows in (LIST_USERS, LIST_ITEMS)
    )
    milliseconds = _median_milliseconds(lambda: exact_topk(hidden, matrix, k=K), rounds=bench.rounds)
    scores = exact_topk(hidden[:8], matrix, k=K)[0]
    torch.testing.assert_close(scores, (hidden[:8] @ matrix.T).float().topk(K).values, rtol=1e-2, atol=1e-2)
    return {"topk_1m_ms": milliseconds}


def epoch(bench: Bench) -> dict[str, float]:
    """Seconds of an epoch on Amazon Beauty, the first one left out. The loss must fall."""
    if bench.data is None:
        sys.exit("epoch needs --data, the folder with sequences.txt of Amazon Beauty")
    sequences = read_sequences(bench.data / "sequences.txt")
    split = leave_one_out(sequences if ON_GPU else sequences[:500])
    histories = histories_table(split.items, split.offsets, list(split.user_ids))
    store = store_from_tables([training_windows(histories, max_length=50)])
    train = TrainConfig(batch_size=128)
    torch.manual_seed(1)
    student = SequenceModel(num_items=split.num_items, kind="transformer", dim=64, layers=1, heads=1, max_length=50)
    seconds, losses = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        process_group(rank=0, workers=1, folder=folder, backend="nccl" if ON_GPU else "gloo"),
    ):
        module = NextItemTraining(student, dtype=torch.bfloat16 if ON_GPU else torch.float32).to(DEVICE)
        engine = make_engine(module, train, zero_stage=0, workers=1, bf16=ON_GPU)
        for number in range(1 + bench.rounds):
            started = time.perf_counter()
            figures = train_epoch(
                engine,
                shuffled_batches(store, batch_size=train.batch_size, seed=number),
                device=DEVICE,
                learning_rate=0.001,
                warmup_steps=0,
                positions_a_step=store.positions_a_window() * train.batch_size,
                first_step=0,
            )
            _wait()
            seconds.append(time.perf_counter() - started)
            losses.append(figures["student_ce"])
        engine.destroy()
    assert losses[-1] < losses[0], f"the loss does not fall: {losses}"
    return {"gpu_epoch_seconds": float(np.median(seconds[1:]))}


def recipe(bench: Bench) -> dict[str, float]:
    """Seconds of the stages that train and recommend, one after the other. Each must succeed."""
    if bench.run is None or bench.config is None:
        sys.exit("recipe needs --run, an output folder with features and title vectors, and --config, its run config")
    figures: dict[str, float] = {}
    settings = [f"output_dir={bench.run}", "training.workers=1", *(["training.gpus_per_worker=1"] if ON_GPU else [])]
    more = [word for setting in settings for word in ("--set", setting)]
    for stage in STAGES:
        started = time.perf_counter()
        command = [sys.executable, "-m", "jobs", stage, "--config", str(bench.config), *more]
        printed = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
        print(printed, end="", flush=True)
        if "up to date" in printed:
            sys.exit(
                f"{stage} has run before in {bench.run}. Give a fresh copy of the run with features and title vectors"
            )
        figures[f"gpu_{stage.replace('-', '_')}_seconds"] = time.perf_counter() - started
    return figures | {"gpu_recipe_seconds": sum(figures.values())}


PARTS: dict[str, Callable[[Bench], dict[str, float]]] = {
    "kernels": kernels,
    "loss": loss,
    "lists": lists,
    "epoch": epoch,
    "recipe": recipe,
}


if __name__ == "__main__":
    main()
