"""What a training worker does with its shard, without a cluster."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.runtime import student_worker
from jobs.runtime.ray_train import TrainingRun, _cause, checkpoints_name, remove_checkpoints, run_workers
from jobs.runtime.student_worker import _Best, _best_epoch, _check_loss, _learning_rate, _Shard
from kdlib.config.models import TrainConfig
from kdlib.config.run import RunConfig
from kdlib.data.windows import evaluation_rows, training_windows
from kdlib.errors import TrainingError
from kdlib.models.files import load_model, save_model
from kdlib.models.sequence import SequenceModel
from tests.data.test_windows import histories


class _Iterator:
    """Stands for Ray Data's iterator over a shard."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.passes = 0
        self.rows = 0

    def iter_batches(self, *, batch_size: int, **_: object):
        self.passes += 1
        self.rows = batch_size
        for start in range(0, len(self._table), 10):
            yield self._table.slice(start, 10)


def _windows(users: int) -> pa.Table:
    return training_windows(
        histories([([user, user + 1, user + 2], [0, 0, 0], 3, None, None) for user in range(users)]), max_length=5
    )


@pytest.mark.parametrize(("resident_bytes", "passes"), [(1 << 20, 1), (300, 4)])
def test_a_shard_is_read_once_where_it_fits_and_each_epoch_where_not(resident_bytes: int, passes: int) -> None:
    """Every epoch sees all windows; a shard that fits is read from Ray Data once, a larger one again each epoch."""
    iterator = _Iterator(_windows(35))
    shard = _Shard(iterator, teachers=0, resident_bytes=resident_bytes, world=1)
    for epoch in range(3):
        targets = [target for batch in shard.batches(batch_size=4, seed=epoch) for target in batch.targets_T.tolist()]
        assert sorted(targets) == sorted([user + step for user in range(35) for step in (1, 2)])
    assert iterator.passes == passes


@pytest.mark.parametrize(("megabytes", "rows"), [(0.1, 1024), (2, 7281), (1_000, 65_536)])
def test_a_streamed_shard_takes_no_more_memory_than_one_that_fits(megabytes: float, rows: int) -> None:
    """Tables of the stream are cut so that a few of them fit where the shard does not, within bounds."""
    iterator = _Iterator(_windows(20))
    size = int(megabytes * 2**20)
    assert student_worker._stream_rows(size, [72, 60]) == rows
    list(_Shard(iterator, teachers=0, resident_bytes=100, world=1).batches(batch_size=4, seed=1))
    assert iterator.rows == 1024


def test_checkpoints_that_cannot_be_read_are_given_up(tmp_path: Path, monkeypatch, capsys) -> None:
    """What a machine that went down left half written is put aside, and training starts anew; a failure of its own is not."""
    attempts = []

    class Trainer:
        def __init__(self, *_: object, **settings: Any) -> None:
            self.folder = Path(settings["run_config"].storage_path, settings["run_config"].name)

        def fit(self) -> None:
            attempts.append(self.folder.exists())
            if self.folder.exists():
                raise RuntimeError("cut off")

    monkeypatch.setattr("jobs.runtime.ray_local.LocalTrainer", Trainer)
    monkeypatch.setattr("jobs.runtime.ray_train.check_workers_room", lambda *_, **__: None)
    config = _config(str(tmp_path))
    broken = tmp_path / "_checkpoints" / "n.distill.ds=2026-11-22.a"
    broken.mkdir(parents=True)
    arguments = {"name": broken.name, "stage": "distill", "epochs": 1}
    run_workers(config, lambda _: None, {}, None, **arguments)
    assert attempts == [True, False]
    assert "no epoch came of an earlier attempt's checkpoints (training failed" in capsys.readouterr().out
    assert broken.with_name(f"{broken.name}.given_up").is_dir()

    def diverge(self: Trainer) -> None:
        attempts.append("anew")
        with (tmp_path / "_checkpoints" / f"{broken.name}.jsonl").open("a") as stream:
            stream.write('{"text": "an epoch"}\n')
        raise FloatingPointError("diverged")

    broken.mkdir()
    monkeypatch.setattr(Trainer, "fit", diverge)
    with pytest.raises(TrainingError, match="diverged"):
        run_workers(config, lambda _: None, {}, None, **arguments)
    assert attempts[2:] == ["anew"]


def test_a_worker_without_windows_says_so() -> None:
    """An empty shard is an error that names the remedy, not an endless wait."""
    with pytest.raises(ValueError, match=r"windows a worker: \[0\].*lower training\.workers"):
        _Shard(_Iterator(_windows(1).slice(0, 0)), teachers=0, resident_bytes=1, world=1)


def test_the_learning_rate_falls_to_its_last_share() -> None:
    """The first epoch has the full rate, the last the given share, and one epoch alone the full rate."""
    train = TrainConfig(epochs=5, learning_rate=0.1, final_learning_rate_fraction=0.2).model_dump()
    assert [_learning_rate(train, epoch) for epoch in range(5)] == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])
    assert _learning_rate(train | {"epochs": 1}, 0) == pytest.approx(0.1)


def test_the_cause_of_a_failed_training_is_the_workers_own_exception() -> None:
    """Of Ray's long text the person gets the exception that a worker raised."""
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import WorkerGroupError

    own = FloatingPointError("student: the loss is not finite\nmore")
    error = WorkerGroupError("[Rank 0 Error Snippet]:\nlong", {0: UserExceptionWithTraceback(own, "traceback")})
    expected = "training failed 3 times; the last cause: FloatingPointError: student: the loss is not finite"
    assert _cause(error, 2) == expected
    assert _cause(RuntimeError(""), 0) == "training failed 1 times; the last cause: RuntimeError: no message"


def test_the_kept_epoch_is_the_first_best_one() -> None:
    """A model's facts speak of the epoch whose weights it has: the first best, or the last where no user validates."""

    def log(*ndcg: float, rows: float) -> list[dict[str, float]]:
        lines = enumerate(ndcg, start=1)
        return [
            {"epoch": n, "x_ndcg@10": v, "x_recall@10": 2 * v, "x_accuracy@1": v / 2, "x_rows": rows} for n, v in lines
        ]

    for ndcg, rows, stale in (((0.1, 0.3, 0.3, 0.2), 9, 2), ((0.0, 0.0), 0, 0)):
        record, lines = _Best(), log(*ndcg, rows=rows)
        for line in lines:
            record.update(line["x_ndcg@10"], {"epoch": torch.tensor(line["epoch"])}, has_rows=rows > 0)
        told = {"epoch": 2, "accuracy@1": ndcg[1] / 2, "recall@10": 2 * ndcg[1], "ndcg@10": ndcg[1]}
        assert _best_epoch(lines, "x") == told
        assert (int(record.weights["epoch"]), record.stale) == (2, stale)


@pytest.mark.parametrize("export", ["float32", "int8"])
def test_what_is_validated_is_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Literal["float32", "int8"]
) -> None:
    """The best epoch is chosen by the weights that the file will hold, rounded to int8 where it does, and by what their ranks are
    worth: of the first, the sixth and the 21st, one is right and two are among ten."""
    model = SequenceModel(num_items=9, kind="gru", dim=8, max_length=5)
    save_model(tmp_path, model, model.state_dict(), {}, export=export)
    rows = evaluation_rows(histories([([1, 2, 3], [0, 0, 0], 1, 1, 2)]), position_column="validation_position")
    judged: list[SequenceModel] = []

    def ranks(models: list[SequenceModel], *_: object, **__: object):
        judged.extend(models)
        return SimpleNamespace(ranks=np.array([0, 5, 20]))

    monkeypatch.setattr(student_worker, "ranks_of_models", ranks)
    scores = student_worker._validate(model, model.state_dict(), export, rows, device=torch.device("cpu"), world=1)
    assert scores == pytest.approx(
        {"ndcg@10": (1 + 1 / np.log2(7)) / 3, "recall@10": 2 / 3, "accuracy@1": 1 / 3, "rows": 3}
    )
    for name, value in load_model(tmp_path)[0].state_dict().items():
        assert torch.equal(judged[0].state_dict()[name], value)


def test_checkpoints_are_those_of_the_same_work_in_the_same_form() -> None:
    """Another seed, number of workers or ZeRO stage starts anew (their checkpoints cannot be read); a retry limit does not."""
    run = TrainingRun(name="student", export="out", model={}, train={}, seed=1, statistics="statistics")

    def name(seed: int = 1, **training: int) -> str:
        config = _config("o", training=training)
        return checkpoints_name(config, "distill", [replace(run, seed=seed)], ["part-0.parquet"], {})

    assert name() == name(max_failures=7)
    assert len({name(), name(seed=2), name(workers=4), name(zero_stage=3)}) == 4


def test_a_finished_run_takes_away_what_killed_ones_of_its_stage_and_date_left(tmp_path: Path) -> None:
    """Whatever their settings were; those of another stage or date stay."""
    home = tmp_path / "_checkpoints"
    for name in (
        "distill.ds=2026-11-22.b",
        "distill.ds=2026-11-22.a.models",
        "distill.ds=2026-11-21.a",
        "benchmark.ds=2026-11-22.a",
    ):
        (home / f"n.{name}").mkdir(parents=True)
    (home / "n.distill.ds=2026-11-22.a.jsonl").touch()
    remove_checkpoints(_config(str(tmp_path)), "n.distill.ds=2026-11-22.a")
    assert sorted(path.name for path in home.iterdir()) == ["n.benchmark.ds=2026-11-22.a", "n.distill.ds=2026-11-21.a"]


def _config(folder: str, **changes: Any) -> RunConfig:
    simulated = {"simulate": {"num_events": 10_000}}
    return RunConfig.model_validate(
        {"name": "n", "ds": "2026-11-22", "output_dir": folder, "input": simulated, **changes}
    )


@pytest.mark.parametrize(
    ("figures", "loss", "says"),
    [
        ({"student_ce": 5.0, "kl": float("nan"), "teacher_ce": 0.0}, "cross_entropy", "not finite in epoch 3"),
        (
            {"student_ce": 1e6, "kl": 1.0, "teacher_ce": 0.0},
            "cross_entropy",
            r"diverged in epoch 3: cross-entropy 1e\+06 nats, where guessing has 4\.61",
        ),
        ({"student_ce": 5.0, "kl": 1.0, "teacher_ce": 50.0}, "cross_entropy", "diverged"),
        ({"student_ce": 9.0, "kl": 99.0, "teacher_ce": 0.0}, "cross_entropy", None),
        ({"student_ce": 60.0, "kl": 0.0, "teacher_ce": 0.0}, "sampled_softmax", None),
    ],
)
def test_a_loss_that_has_lost_its_way_ends_the_training(figures, loss, says):
    """Not finite, or far above guessing, is an error that names the run and what to do; a bad start is not."""
    run = {"name": "student", "train": {"loss": loss}}
    if says is None:
        _check_loss(figures, run, 3, 100)
    else:
        with pytest.raises(FloatingPointError, match=f"student: the loss .*{says}.*; lower learning_rate"):
            _check_loss(figures, run, 3, 100)


def test_workers_that_cannot_start_give_their_reason() -> None:
    """There is no worker then whose exception could be told."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError

    told = _cause(ControllerError(WorkerGroupStartupTimeoutError(10)), 2)
    assert told.startswith("the training workers could not be started: WorkerGroupStartupTimeoutError: ")
    assert "10" in told
    start = WorkerGroupStartupFailedError("a worker failed to initialize due to error:\nTraceback\nOSError: no space\n")
    assert _cause(ControllerError(start), 2).endswith("failed to initialize due to error: OSError: no space")
    assert _cause(ControllerError(OSError("disk full")), 2) == "training failed: OSError: disk full"
