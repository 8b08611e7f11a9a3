"""The connection between Ray Train and the training loop. No cluster is started."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs.runtime.epoch_lines import Lines
from jobs.runtime.train_worker import RayWorker


def test_an_epoch_reaches_the_person_and_the_monitoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch is one line, and its gauges are Ray metrics with the model as tag."""
    lines: list[str] = []
    gauges: list[tuple[str, float, dict[str, str]]] = []

    class Gauge:
        def __init__(self, name: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == self.tag_keys
            gauges.append((self.name, value, tags))

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    there: Any = SimpleNamespace(add=lines.append)
    worker = RayWorker(0, 1, torch.device("cpu"), None, there)
    worker.announce("student", "epoch 1: é", {"ndcg": 0.5, "epoch": 1})
    worker.announce("student", "epoch 2", {})
    assert lines == ["epoch 1: é", "epoch 2"]
    tags = {"model": "student"}
    assert gauges == [("distilrec_training_ndcg", 0.5, tags), ("distilrec_training_epoch", 1, tags)]


def test_a_checkpoint_is_reported_to_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and the figures go to `ray.train.report`."""
    reported: list[tuple[dict[str, float], Any]] = []
    monkeypatch.setattr("ray.train.report", lambda figures, checkpoint: reported.append((figures, checkpoint)))
    (tmp_path / "best.json").write_text("{}")
    RayWorker(1, 2, torch.device("cpu"), None, Lines(None)).report({"loss": 1.0}, str(tmp_path))
    [(figures, checkpoint)] = reported
    assert figures == {"loss": 1.0}
    with checkpoint.as_directory() as folder:
        assert Path(folder, "best.json").exists()
