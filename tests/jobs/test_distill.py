"""The stage `distill` on real Ray and DeepSpeed: joint mode, and the choice of a size."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from jobs.runtime.students import narrowed, sizes_of
from kdlib.config.models import ModelConfig, TrainConfig
from kdlib.store import partitions
from kdlib.training.specs import TrainingRun
from tests.jobs.conftest import DS
from tests.whole_nights import run


@pytest.mark.e2e
def test_teacher_and_student_learn_together(night_to_change: tuple[Path, Path, str]) -> None:
    """Joint mode prints loss and accuracy of each epoch, the teacher's too, and of the control. It needs no cached targets.

    All are trained and validated by the objective.
    """
    config, root, _ = night_to_change
    (root / "teacher_targets" / f"ds={DS}").unlink()
    before = partitions.current(root, "models/teacher", DS)
    lstm = {"kind": "lstm", "dim": 16, "hidden": 12, "tied": False, "dropout": 0.0}
    document = yaml.safe_load(config.read_text()) | {
        "teachers": [{"name": "teacher", "model": lstm | {"hidden": 24}, "features": ["price"]}],
        "student": {"model": lstm, "features": ["brand"]},
        "distillation": {"mode": "joint", "kl_weight": 0.5, "temperature": 1.0},
        "objective": {"cart": 3, "purchase": 10},
    }
    config.write_text(yaml.safe_dump(document))
    printed = run(config, command="distill")
    assert re.search(r"student epoch  2/2: loss \S+ = CE \S+ \+ 0\.5·KL \S+, accuracy \S+, teacher CE", printed), (
        printed
    )
    assert re.search(r"control epoch  2/2: CE \S+, accuracy", printed)
    assert printed.count("| weighted validation") == printed.count("| teacher weighted validation") + 2
    assert "| validation" not in printed
    after = partitions.current(root, "models/teacher", DS)
    assert after != before
    assert (after / "model.safetensors").exists()


@pytest.mark.e2e
def test_a_size_is_chosen_by_the_teachers_quality(night_to_change: tuple[Path, Path, str]) -> None:
    """The narrowest student that keeps the share is published, with a control of its width."""
    config, root, _ = night_to_change
    document = yaml.safe_load(config.read_text())
    document["student"] |= {"size": "auto", "size_share": 0.01, "train": {"epochs": 2}}
    config.write_text(yaml.safe_dump(document))
    printed = run(config, command="distill")
    assert re.search(r"student of width 8: \d+% of the teachers' validation NDCG@10", printed), printed
    assert "width 16" not in printed
    for name in ("student", "control"):
        facts = json.loads((partitions.current(root, f"models/{name}", DS) / "model.json").read_text())
        assert facts["options"]["dim"] == 8


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ({"dim": 64, "hidden": 128}, [(8, 16), (16, 32), (32, 64), (64, 128)]),
        ({"dim": 24}, [(12, None), (24, None)]),
        ({"dim": 32, "heads": 8}, [(8, None), (16, None), (32, None)]),
        ({"dim": 32, "heads": 32}, [(32, None)]),
        ({"dim": 7}, [(7, None)]),
    ],
)
def test_sizes_to_choose_from(model: dict[str, int], sizes: list[tuple[int, int | None]]) -> None:
    """The sizes are the given model's, halved down to width 8, as long as its heads divide the width."""
    found = sizes_of(ModelConfig.model_validate(model))
    assert [(one.dim, one.hidden) for one in found] == sizes


def test_a_narrower_student_learns_faster() -> None:
    """A quarter of the width has four times the learning rate. Nothing else changes but the widths."""
    wide = ModelConfig(kind="gru", dim=64, hidden=128, dropout=0.3)
    run = TrainingRun("student", "x", wide, TrainConfig(learning_rate=0.003), seed=1, statistics="y")
    found = narrowed(run, ModelConfig(dim=16, hidden=32))
    assert found.model == wide.model_copy(update={"dim": 16, "hidden": 32})
    assert found.train.learning_rate == pytest.approx(0.012)
    assert replace(found, model=run.model, train=run.train) == run
