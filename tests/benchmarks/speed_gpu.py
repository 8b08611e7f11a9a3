"""The loss over very large catalogues on one GPU: `python -m tests.benchmarks.speed_gpu` → results/speed_gpu.json.

Measures cross-entropy and KL, forward and backward, in bfloat16. The student has width 128, the teacher has width 256, and
the temperature is 2. The names mean: 100k is 10⁵ items and 8,192 positions, 1m is 10⁶ items and 4,096 positions.

- `ce_kl_100k_ms`, `ce_kl_1m_ms`: median milliseconds of the form that `dispatch.cross_entropy_and_kl` chooses itself.
- `…_tiles`, `…_chunks`: the same by tiles, and by chunks of positions in PyTorch.
- `ce_kl_100k_gb`, `ce_kl_1m_gb`: peak memory above the inputs, gradients included, in 10⁹ bytes.

Shapes: T positions.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from jobs.benchmark.provenance import package_versions, processor
from kdlib.losses import blocked, dispatch, next_item
from kdlib.losses.scored import LossSums, Scored, Teachers

RESULTS = Path(__file__).parent / "results" / "speed_gpu.json"
SHAPES = {"100k": (8_192, 100_000), "1m": (4_096, 1_000_000)}
"""Name → positions, items."""
STUDENT_WIDTH, TEACHER_WIDTH = 128, 256
WARM_UP = 2

Loss = Callable[[Scored, torch.Tensor, Teachers], LossSums]


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("speed_gpu needs a CUDA device and found none. Run tests.benchmarks.speed to measure on a CPU")
    figures = {}
    for name, (positions, items) in SHAPES.items():
        for suffix, loss in FORMS.items():
            milliseconds, gigabytes = measure(loss, positions, items, rounds=options.rounds)
            figures |= {f"ce_kl_{name}_ms{suffix}": milliseconds, f"ce_kl_{name}_gb{suffix}": gigabytes}
    figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
    result = {
        "figures": figures,
        "command": f"python -m tests.benchmarks.speed_gpu --rounds {options.rounds}",
        "hardware": f"{processor()}, {os.cpu_count()} cores, {torch.cuda.get_device_name()}",
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": options.rounds,
    }
    for name, value in figures.items():
        print(f"  {name:24} {value:>10,.4g}", flush=True)
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {RESULTS}")


def measure(loss: Loss, positions: int, items: int, *, rounds: int) -> tuple[float, float]:
    """Median milliseconds of forward and backward, and the peak memory above the inputs in 10⁹ bytes."""
    generator = torch.Generator("cuda").manual_seed(1)

    def scored(width: int) -> Scored:
        parts = [torch.randn(rows, width, device="cuda", generator=generator) for rows in (positions, items)]
        return Scored(parts[0], parts[1] * 0.1)

    student, teacher = scored(STUDENT_WIDTH), scored(TEACHER_WIDTH)
    learning = [tensor.requires_grad_() for tensor in student if tensor is not None]
    targets_T = torch.randint(0, items, (positions,), device="cuda", generator=generator)
    teachers = Teachers(teacher, 1.0, 2.0)
    taken = []
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP + rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.autograd.grad(loss(student, targets_T, teachers).total, learning)
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() - before
    return float(np.median(taken[WARM_UP:])), peak / 1e9


def _chosen(student: Scored, targets_T: torch.Tensor, teachers: Teachers) -> LossSums:
    return dispatch.cross_entropy_and_kl(student, targets_T, teachers, dtype=torch.bfloat16)


def _tiles(student: Scored, targets_T: torch.Tensor, teachers: Teachers) -> LossSums:
    return blocked.cross_entropy_and_kl(student, targets_T, teachers, dtype=torch.bfloat16)


def _chunks(student: Scored, targets_T: torch.Tensor, teachers: Teachers) -> LossSums:
    return next_item.cross_entropy_and_kl(student, targets_T, teachers, dtype=torch.bfloat16)


FORMS: dict[str, Loss] = {"": _chosen, "_tiles": _tiles, "_chunks": _chunks}


if __name__ == "__main__":
    main()
