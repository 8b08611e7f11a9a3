"""Does the cache cost quality? Train the same student with cached int8 states, and with the teacher's own states.

    python -m tests.benchmarks.online_vs_cached --config … --set … → results/online_vs_cached.json

Needs the features and the first trained teacher of the run config, published for its date. For each seed, two students
start from the same weights and see the same batches in the same order. Both use the DeepSpeed step of the training job.
Only the teacher's hidden states differ: one student gets them from the store that `cache-teacher` writes, the other from
the frozen teacher in float32. The figure is the NDCG@10 on the validation users after the last epoch.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import torch

from jobs.benchmark.provenance import hardware, package_versions
from jobs.runtime.console import say
from jobs.runtime.published import features, parquet_files
from kdlib.config.run import RunConfig
from kdlib.data.batches import Batch, shuffled_batches, store_from_tables
from kdlib.data.windows import evaluation_rows, read_evaluation_histories, training_windows
from kdlib.inference.ranks import ranks_of_models
from kdlib.metrics.bootstrap import bootstrap_interval
from kdlib.metrics.ranking import ndcg
from kdlib.models.files import load_model
from kdlib.models.sequence import SequenceModel
from kdlib.store import partitions
from kdlib.teachers.targets import TargetWriter, states_at
from kdlib.training.engine import full_weights, make_engine, scoring_dtype
from kdlib.training.loop import train_epoch
from kdlib.training.module import CachedTeachers, NextItemTraining
from kdlib.training.student_task import learning_rate_in
from tests.benchmarks.command_line import measure
from tests.worker_group import process_group

SEEDS = (11, 12, 13)
EPOCHS = 5
KL_WEIGHT, TEMPERATURE = 1.0, 2.0
DEVICE = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"


def run(config: RunConfig) -> None:
    """Train and measure both students for every seed, and write the figures."""
    source = features(config)
    name = next(teacher.name for teacher in config.teachers if teacher.is_trained and teacher.folds == 1)
    folder = partitions.current(config.root, f"models/{name}", config.day)
    teacher = load_model(folder)[0].eval()
    histories = pads.dataset(parquet_files(source.histories)).to_table()
    windows = training_windows(histories, max_length=config.training.max_length)
    written = TargetWriter([str(folder)], threads=torch.get_num_threads())(windows)
    store = store_from_tables([written], teachers=1)
    held_out = read_evaluation_histories(
        parquet_files(source.histories),
        position_column="validation_position",
        max_users=config.training.max_validation_users,
    )
    rows = evaluation_rows(held_out, position_column="validation_position")

    @torch.inference_mode()
    def online(batch: Batch) -> Batch:
        states_TW = states_at(teacher, batch).float()
        return replace(batch, hidden_TK=states_TW.clone(), scales_TN=torch.ones(len(states_TW), 1))

    per_user: dict[str, list[np.ndarray]] = {"cached": [], "online": []}
    losses: dict[str, list[float]] = {"cached": [], "online": []}
    for seed in SEEDS:
        for kind, change in (("cached", None), ("online", online)):
            started = time.monotonic()
            student, kl = _train(config, teacher, store, change, seed=seed)
            ranks = ranks_of_models([student], [1.0], rows, device=DEVICE).ranks
            per_user[kind].append(ndcg(ranks, 10))
            losses[kind].append(kl)
            say(
                f"{kind:6} seed {seed}: NDCG@10 {per_user[kind][-1].mean():.5f}, KL {kl:.5f} ({time.monotonic() - started:.0f} s)"
            )
    means = {kind: np.stack(values).mean(1) for kind, values in per_user.items()}
    difference = (np.stack(per_user["cached"]) - np.stack(per_user["online"])).mean(0)
    figures = {
        "cached_ndcg10": float(means["cached"].mean()),
        "online_ndcg10": float(means["online"].mean()),
        "cached_minus_online_ndcg10": float(difference.mean()),
        "seed_standard_deviation_ndcg10": float(np.std(means["online"], ddof=1)),
        "cached_kl": float(np.mean(losses["cached"])),
        "online_kl": float(np.mean(losses["online"])),
        "cache_bytes_a_position": (store.hidden.nbytes + store.scales.nbytes) / len(store.inputs),  # type: ignore[union-attr]
    }
    result = {
        "command": f"python -m tests.benchmarks.online_vs_cached {' '.join(sys.argv[1:])}",
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "hardware": hardware(config),
        "versions": package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "validation_users": len(rows),
        "teacher_dim": teacher.options["dim"],
        "figures": {key: round(value, 5) for key, value in figures.items()},
        "intervals": {
            "cached_minus_online_ndcg10": [
                round(bound, 5) for bound in bootstrap_interval(difference, samples=2000, seed=config.seed)
            ]
        },
        "ndcg10_by_seed": {kind: [round(float(value), 5) for value in values] for kind, values in means.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "online_vs_cached.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    say(f"{result['figures']}\nwrote {path}")


def _train(
    config: RunConfig, teacher: SequenceModel, store: Any, change: Any, *, seed: int
) -> tuple[SequenceModel, float]:
    """The student after the last epoch, and the mean KL of this epoch."""
    torch.manual_seed(seed)
    options: dict[str, Any] = config.student.model.model_dump(mode="json") | {"codes": None}
    student = SequenceModel(**options, num_items=teacher.num_items, max_length=config.training.max_length)
    train = config.training.resolve({**config.student.train, "epochs": EPOCHS, "patience": EPOCHS})
    matrix, bias = teacher.head()
    module = NextItemTraining(
        student,
        cached=CachedTeachers([(matrix.detach(), None if bias is None else bias.detach())], [1.0]),
        kl_weight=KL_WEIGHT,
        temperature=TEMPERATURE,
        dtype=scoring_dtype(DEVICE, bf16=config.training.bf16),
    )
    engine = make_engine(module, train, zero_stage=0, workers=1, bf16=False)
    figures: dict[str, float] = {}
    steps = 0
    for epoch in range(EPOCHS):
        batches = shuffled_batches(store, batch_size=train.batch_size, seed=seed * 1000 + epoch)
        figures = train_epoch(
            engine,
            batches if change is None else map(change, batches),
            device=DEVICE,
            learning_rate=learning_rate_in(epoch, train, epochs=train.epochs),
            warmup_steps=train.warmup_steps,
            positions_a_step=store.positions_a_window() * train.batch_size,
            first_step=steps,
        )
        steps += int(figures["steps"])
    trained = SequenceModel(**student.options)
    trained.load_state_dict(full_weights(engine, student))
    engine.destroy()
    return trained.eval(), figures["kl"]


def _alone(config: RunConfig) -> None:
    with tempfile.TemporaryDirectory() as folder, process_group(rank=0, workers=1, folder=folder):
        run(config)


if __name__ == "__main__":
    sys.exit(measure("online_vs_cached", _alone, description=__doc__))
