"""The DeepSpeed engine under ZeRO 0 to 3 on two processes, against plain PyTorch on the union of their data."""

import importlib
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from kdlib.config.models import TrainConfig
from kdlib.data.batches import Batch, WindowStore, batch_of
from kdlib.models.sequence import SequenceModel
from kdlib.store.tables import CONTEXT
from kdlib.training.module import NextItemTraining, StepLoss
from tests.worker_group import run_workers

STEPS, WINDOWS, LEARNING_RATE, POSITIONS = 3, 8, 0.01, 40.0
TRAIN = TrainConfig(batch_size=WINDOWS, learning_rate=LEARNING_RATE, gradient_clipping=0.0)


def _store() -> WindowStore:
    """Windows of very different lengths, so that the two workers hold different numbers of positions."""
    generator = np.random.default_rng(0)
    lengths = np.array([1, 9, 2, 8, 1, 7, 3, 12] * STEPS)
    items = generator.integers(0, 40, lengths.sum() + 1).astype(np.int32)
    return WindowStore(
        inputs=items[:-1],
        targets=items[1:],
        context=generator.integers(0, list(CONTEXT.values()), (lengths.sum(), len(CONTEXT))).astype(np.int8),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
    )


def _batch(step: int, part: int | None) -> Batch:
    windows = np.arange(step * WINDOWS, (step + 1) * WINDOWS)
    return batch_of(_store(), windows if part is None else windows[part::2])


def _module() -> NextItemTraining:
    torch.manual_seed(5)
    sizes: dict[str, Any] = {"num_items": 40, "dim": 8, "session_flag": True, "max_length": 16}
    sizes["inputs"] = ["event_type", "time_gap"]
    codes: dict[str, Any] = {"codes": {"kind": "residual", "count": 3, "size": 8}}
    codes["codes_VM"] = torch.randint(0, 8, (40, 3), dtype=torch.uint8)
    student = SequenceModel(kind="gru", hidden=12, **codes, **sizes)
    teacher = SequenceModel(kind="transformer", heads=2, text_vectors_VE=torch.randn(40, 6), **sizes)
    return NextItemTraining(student, teacher=teacher, kl_weight=0.5, temperature=2.0)


class _Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.file),)


def _equal(some: dict[str, dict[str, torch.Tensor]], others: dict[str, dict[str, torch.Tensor]]) -> bool:
    return all(some[name][key].equal(value) for name, one in others.items() for key, value in one.items())


def _poisoned_checkpoint_is_refused(engine: Any, checkpoint: str, rank: int) -> bool:
    """Replace each file of a checkpoint by one that runs code; whether loading it fails, and the code does not run."""
    from kdlib.training.engine import load_state

    ran, saved = Path(checkpoint, "ran"), list(Path(checkpoint, "state").glob("*.pt"))
    dist.barrier()
    if rank == 0:
        for file in saved:
            torch.save(_Evil(str(ran)), file)
    dist.barrier()
    try:
        load_state(engine, checkpoint, "state")
    except pickle.UnpicklingError:
        return bool(saved) and not ran.exists()
    return False


def _worker(rank: int, folder: str) -> None:
    from kdlib.training.engine import full_weights, load_state, make_engine
    from kdlib.training.loop import train_epoch

    sys.path.insert(0, folder)  # there is a module `mlflow`
    for stage in range(4):
        module = _module()
        engine = make_engine(module, TRAIN, zero_stage=stage, workers=2, bf16=False)
        how: dict[str, Any] = {"learning_rate": LEARNING_RATE, "warmup_steps": 0, "positions_a_step": POSITIONS}

        def epoch(engine: Any = engine, how: dict[str, Any] = how) -> dict[str, float]:
            batches = (_batch(step, rank) for step in range(STEPS))
            return train_epoch(engine, batches, device=torch.device("cpu"), first_step=0, **how)

        def now(engine: Any = engine, module: NextItemTraining = module) -> dict[str, dict[str, torch.Tensor]]:
            return {name: full_weights(engine, getattr(module, name)) for name in ("student", "teacher")}

        figures, weights = epoch(), now()
        checkpoint = f"{folder}/checkpoint{stage}"
        engine.save_checkpoint(checkpoint, tag="state", client_state={"epoch": 3})
        epoch()
        changed, state = not _equal(now(), weights), load_state(engine, checkpoint, "state")
        resumes = changed and _equal(now(), weights) and state == state | {"epoch": 3}
        refuses = _poisoned_checkpoint_is_refused(engine, checkpoint, rank)
        if rank == 0:
            torch.save((weights, figures), Path(folder, f"stage{stage}.pt"))
            Path(folder, f"checkpoint{stage}.json").write_text(json.dumps([resumes, refuses]))
        engine.destroy()
    if rank == 0:
        before = "mlflow" in sys.modules
        Path(folder, "mlflow.json").write_text(json.dumps([before, importlib.import_module("mlflow").__file__]))


class _Engine:
    """Stands for a DeepSpeed engine around a module whose loss at each position is 1."""

    def __init__(self) -> None:
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
        self.losses: list[float] = []

    def __call__(self, batch: Batch) -> StepLoss:
        count = torch.tensor(float(len(batch.targets_T)))
        return StepLoss(count, count, torch.zeros(()), torch.zeros(()), torch.zeros(()))

    def backward(self, loss: torch.Tensor) -> None:
        self.losses.append(float(loss))

    def train(self) -> None: ...
    def step(self) -> None: ...


def test_a_position_counts_the_same_in_every_step() -> None:
    """A step's weight is its number of positions, divided by the usual number of positions of a step."""
    from kdlib.training.loop import train_epoch

    engine, batches = _Engine(), [_batch(0, 0), _batch(0, None)]
    figures = train_epoch(
        engine,
        batches,
        device=torch.device("cpu"),
        learning_rate=0.1,
        warmup_steps=0,
        positions_a_step=10.0,
        first_step=0,
    )
    counts = [len(batch.targets_T) for batch in batches]
    assert counts[0] < counts[1]
    assert engine.losses == pytest.approx([count / 10.0 for count in counts])
    assert (figures["student_ce"], figures["positions"]) == (1.0, sum(counts))


def test_the_learning_rate_rises_over_the_first_steps() -> None:
    """The rise is linear, goes on where earlier epochs have stopped, and then the rate stays."""
    from kdlib.training.loop import train_epoch

    engine, rates = _Engine(), []
    train_epoch(
        engine,
        [_batch(0, 0)] * 4,
        device=torch.device("cpu"),
        learning_rate=0.1,
        warmup_steps=3,
        positions_a_step=10.0,
        first_step=1,
        on_step=lambda: rates.append(engine.optimizer.param_groups[0]["lr"]),
    )
    assert rates == pytest.approx([0.05, 0.075, 0.1, 0.1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    (folder / "mlflow.py").touch()
    run_workers(_worker, str(folder), workers=2)
    return folder


@pytest.mark.engine
@pytest.mark.parametrize("stage", range(4))
def test_a_checkpoint_is_resumed_and_runs_no_code(trained: Path, stage: int) -> None:
    """Two workers get their weights back. A checkpoint that would run code is refused."""
    assert json.loads((trained / f"checkpoint{stage}.json").read_text()) == [True, True]


@pytest.mark.engine
def test_deepspeed_brings_no_mlflow(trained: Path) -> None:
    """A worker with an engine has not imported the `mlflow` on its path. It can do so afterwards."""
    assert json.loads((trained / "mlflow.json").read_text()) == [False, str(trained / "mlflow.py")]


@pytest.mark.engine
@pytest.mark.parametrize("stage", range(4))
def test_two_workers_equal_one_process_on_the_union(trained: Path, stage: int) -> None:
    """Different data on each of two workers gives the weights of one plain PyTorch process that sees all of it."""
    module = _module()
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    ce = positions = 0.0
    for step in range(STEPS):
        batch = _batch(step, None)
        loss = module(batch)
        optimizer.zero_grad()
        (loss.total / POSITIONS).backward()
        optimizer.step()
        ce, positions = ce + loss.student_ce.item(), positions + len(batch.targets_T)
    weights, figures = torch.load(trained / f"stage{stage}.pt")
    for name in ("student", "teacher"):
        expected = getattr(module, name).state_dict()
        assert expected.keys() == weights[name].keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                weights[name][key], value, atol=2e-5, rtol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
            )
    assert figures["student_ce"] == pytest.approx(ce / positions, rel=1e-4)
    assert figures["positions"] == positions
