"""The training of students and teachers: learning rate, failed losses, validation, which epoch is kept."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdlib.config.models import ModelConfig, TrainConfig, TrainingConfig
from kdlib.data.windows import evaluation_rows, training_windows, whole_histories
from kdlib.models.files import load_model, save_model
from kdlib.models.sequence import SequenceModel
from kdlib.training import student_setup, student_task, trainer
from kdlib.training.specs import StudentsSpec, TrainingRun
from kdlib.training.student_task import best_epoch, check_loss, learning_rate_in, student_tasks, validation_scores
from kdlib.training.trainer import Best, train
from tests.data.test_windows import histories, timed


def test_the_learning_rate_falls_to_its_last_share() -> None:
    """The first epoch has the full rate, the last the given share, and one epoch alone the full rate."""
    train = TrainConfig(learning_rate=0.1, final_learning_rate_fraction=0.2)
    rates = [learning_rate_in(epoch, train, epochs=5) for epoch in range(5)]
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])
    assert learning_rate_in(0, train, epochs=1) == pytest.approx(0.1)


def test_the_kept_epoch_is_the_first_best_one() -> None:
    """A model's metadata describes the epoch whose weights it has: the first best, or the last if no user validates."""

    def log(*ndcg: float, rows: float) -> list[dict[str, float]]:
        lines = enumerate(ndcg, start=1)
        return [
            {"epoch": n, "x_ndcg@10": v, "x_recall@10": 2 * v, "x_accuracy@1": v / 2, "x_rows": rows} for n, v in lines
        ]

    for ndcg, rows, stale in (((0.1, 0.3, 0.3, 0.2), 9, 2), ((0.0, 0.0), 0, 0)):
        record, lines = Best(), log(*ndcg, rows=rows)
        for line in lines:
            record.update(line["x_ndcg@10"] if rows else None, {"epoch": torch.tensor(line["epoch"])})
        told = {"epoch": 2, "accuracy@1": ndcg[1] / 2, "recall@10": 2 * ndcg[1], "ndcg@10": ndcg[1]}
        assert best_epoch(lines, "x") == told
        assert (int(record.weights["epoch"]), record.stale) == (2, stale)


@pytest.mark.parametrize("export", ["float32", "int8"])
def test_what_is_validated_is_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Literal["float32", "int8"]
) -> None:
    """The best epoch is chosen by the weights as the file will have them, for example rounded to int8. Of the ranks 0, 5 and
    20 one is right and two are among ten."""
    model = SequenceModel(num_items=9, kind="gru", dim=8, max_length=5)
    save_model(tmp_path, model, model.state_dict(), {}, export=export)
    rows = evaluation_rows(histories([([1, 2, 3], [0, 0, 0], 1, 1, 2)]), position_column="validation_position")
    judged: list[SequenceModel] = []

    def ranks(models: list[SequenceModel], *_: object, **__: object):
        judged.extend(models)
        return SimpleNamespace(ranks=np.array([0, 5, 20]))

    monkeypatch.setattr(student_task, "ranks_of_models", ranks)
    scores = validation_scores(model, model.state_dict(), export, rows, device=torch.device("cpu"), world=1)
    assert scores == pytest.approx(
        {"ndcg@10": (1 + 1 / np.log2(7)) / 3, "recall@10": 2 / 3, "accuracy@1": 1 / 3, "rows": 3}
    )
    for name, value in load_model(tmp_path)[0].state_dict().items():
        assert torch.equal(judged[0].state_dict()[name], value)


def test_the_objective_weighs_the_validation_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an objective the validation metrics are weighted means, and only rows with a weight count as rows."""
    table = timed(([0, 1], [0, 0], [0, 1]), ([0, 1], [0, 3], [0, 1]), ([0, 1], [0, 2], [0, 1]))
    rows = evaluation_rows(table, position_column="test_position")
    assert rows.target_types.tolist() == [0, 3, 2]
    model = SequenceModel(num_items=300, kind="gru", dim=8, max_length=5)
    ranks = SimpleNamespace(ranks=np.array([0, 5, 20]))
    monkeypatch.setattr(student_task, "ranks_of_models", lambda *_, **__: ranks)
    options: dict[str, Any] = {"device": torch.device("cpu"), "world": 1}
    scores = validation_scores(model, model.state_dict(), "float32", rows, event_weights=(1, 1, 0, 10), **options)
    ndcg = (1 + 10 / np.log2(7)) / 11
    assert scores == pytest.approx({"ndcg@10": ndcg, "recall@10": 1.0, "accuracy@1": 1 / 11, "rows": 2})
    nothing = validation_scores(model, model.state_dict(), "float32", rows, event_weights=(0, 1, 0, 0), **options)
    assert nothing == {"ndcg@10": 0.0, "recall@10": 0.0, "accuracy@1": 0.0, "rows": 0}


@pytest.mark.parametrize(
    ("figures", "loss", "says"),
    [
        ({"student_ce": 5.0, "kl": float("nan"), "teacher_ce": 0.0}, "cross_entropy", "not finite in epoch 3"),
        (
            {"student_ce": 1e6, "kl": 1.0, "teacher_ce": 0.0},
            "cross_entropy",
            r"diverged in epoch 3: .*1e\+06 nats.* 4\.61",
        ),
        ({"student_ce": 5.0, "kl": 1.0, "teacher_ce": 50.0}, "cross_entropy", "diverged"),
        ({"student_ce": 9.0, "kl": 99.0, "teacher_ce": 0.0}, "cross_entropy", None),
        ({"student_ce": 60.0, "kl": 0.0, "teacher_ce": 0.0}, "sampled_softmax", None),  # a sum over negatives
    ],
)
def test_a_failed_loss_ends_the_training(figures, loss: Any, says: str | None) -> None:
    """A loss that is not finite or far above guessing is an error that names the model and what to lower."""
    train = TrainConfig(loss=loss)
    if says is None:
        check_loss(figures, "student", train, 2, 100)
    else:
        with pytest.raises(FloatingPointError, match=f"student: the loss .*{says}.* Lower learning_rate"):
            check_loss(figures, "student", train, 2, 100)


class _Engine:
    """Plain AdamW in DeepSpeed's place, which notes the learning rate and a weight after each step."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.optimizer = module, torch.optim.AdamW(module.parameters())
        self.rates: list[float] = []

    def __call__(self, batch: object) -> Any:
        return self.module(batch)

    def train(self) -> None:
        self.module.train()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save_checkpoint(self, *_: object, **__: object) -> None:
        pass

    def destroy(self) -> None:
        pass


class _Worker:
    """The only worker, with all its windows in memory."""

    rank, world, device = 0, 1, torch.device("cpu")

    def __init__(self, windows: pa.Table) -> None:
        self.shard, self._windows = self, windows
        self.announced: list[tuple[str, dict[str, float]]] = []

    def iter_batches(self, **_: object) -> Any:
        yield self._windows

    def latest_checkpoint(self) -> None:
        return None

    def announce(self, model: str, text: str, gauges: dict[str, float]) -> None:
        self.announced.append((text, gauges))

    def report(self, figures: dict[str, float], folder: str) -> None:
        pass


def test_on_whole_histories_the_last_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing validates, the epochs have the given learning rates, and held-out items count as trained, but not by teachers.

    Items 4 and 5 occur at held-out positions only. Item 6 never occurs.
    """
    table = histories([([0, 1, 2, 3, 4, 5], [0] * 6, 4, 4, 5)] * 4)
    pq.write_table(table, tmp_path / "histories.parquet")
    statistics = {"item_index": range(7), "num_train": [4, 4, 4, 4, 0, 0, 0], "num_in_windows": [4, 4, 4, 4, 0, 0, 0]}
    (tmp_path / "statistics").mkdir()
    pq.write_table(pa.table(statistics), tmp_path / "statistics" / "part.parquet")
    engines: list[_Engine] = []

    def make_engine(module: torch.nn.Module, *_: object, **__: object) -> _Engine:
        engines.append(_Engine(module))
        return engines[-1]

    monkeypatch.setattr(student_task, "make_engine", make_engine)
    monkeypatch.setattr(
        trainer, "full_weights", lambda engine, model: {n: v.clone() for n, v in model.state_dict().items()}
    )
    known: list[list[bool]] = []
    monkeypatch.setattr(
        student_setup, "start_item_table", lambda model, heads, weights, known_V, seed: known.append(known_V.tolist())
    )
    run = TrainingRun(
        name="refit",
        export=str(tmp_path / "refit"),
        model=ModelConfig(kind="gru", dim=4, dropout=0.0),
        train=TrainConfig(epochs=2, patience=1, batch_size=4, final_learning_rate_fraction=0.1),
        seed=1,
        statistics=str(tmp_path / "statistics"),
        item_start="teachers",
        learning_rates=(0.02, 0.01),
    )
    (tmp_path / "refit").mkdir()
    files = [str(tmp_path / "histories.parquet")]
    worker = _Worker(training_windows(whole_histories(table), max_length=5))
    spec = StudentsSpec((run,), 0, files, 7, {}, whole=True)
    for task in student_tasks(spec, TrainingConfig(max_length=5), worker):
        train(task, worker)
    [engine] = engines
    assert engine.rates == [0.02, 0.01]
    trained = engine.module.get_submodule("student").state_dict()
    for name, value in load_model(tmp_path / "refit")[0].state_dict().items():
        assert torch.equal(value, trained[name]), "the last epoch's weights"
    facts = json.loads((tmp_path / "refit" / "model.json").read_text())
    assert facts["validation"] == {"epoch": 2}
    assert [line["learning_rate"] for line in facts["epochs"]] == [0.02, 0.01]
    assert [line["positions"] for line in facts["epochs"]] == [20, 20]
    assert not [text for text, gauges in worker.announced if "validation" in text or "ndcg" in gauges]
    assert student_setup.counts_of(run, spec).tolist() == [[4] * 6 + [0]] * 2
    assert known == [[True] * 4 + [False] * 3]
