"""A whole run with a teacher of the user's own beside a trained one, on real Ray."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.store import partitions
from tests.jobs.conftest import DS
from tests.whole_nights import run

SCORES = '''"""Popular by the numbers in their ids: small numbers first, and more so near the last item's number."""

import numpy as np

from my_shop.weights import DECAY


class Scores:
    def __init__(self, item_ids):
        self.numbers = np.array([int("".join(filter(str.isdigit, item_id))) for item_id in item_ids], float)

    def __call__(self, histories):
        last = np.array([self.numbers[history[-1]] for history in histories])
        return -DECAY * (self.numbers + np.abs(self.numbers - last[:, None]))
'''


@pytest.fixture
def shop(night_to_change: tuple[Path, Path, str], tmp_path: Path) -> tuple[Path, Path, Path]:
    """Run config, output folder, and a folder with the package `my_shop`. The trained teacher is made already."""
    config, root, _ = night_to_change
    document = yaml.safe_load(config.read_text())
    document["teachers"] += [{"name": "mine", "function": "my_shop.scores:Scores"}, {"name": "rules", "rules": {}}]
    document["distillation"] = {"targets": "sampled", "temperature": 1.0, "samples": 8, "weights": "validation_ndcg"}
    document["student"] |= {"train": {"epochs": 1}, "refit": True}
    document["student"]["control"] = {"train": {"epochs": 1}}
    config.write_text(yaml.safe_dump(document))
    folder = tmp_path / "shop"
    (folder / "my_shop").mkdir(parents=True)
    (folder / "my_shop" / "scores.py").write_text(SCORES)
    (folder / "my_shop" / "weights.py").write_text("DECAY = 0.01\n")
    return config, root, folder


def _refitted_student_serves(root: Path, printed: str) -> None:
    """The lists in use are of the second training, which has learnt from more positions, for the same number of epochs."""
    judged, refit = (
        json.loads((partitions.current(root, f"models/{name}", DS) / "model.json").read_text())
        for name in ("student", "refit")
    )
    assert refit["judged"] == judged["version"]
    assert len(refit["epochs"]) == judged["validation"]["epoch"] == 1
    assert refit["epochs"][0]["learning_rate"] == judged["epochs"][0]["learning_rate"]
    lengths = [len(row) for row in pq.read_table(partitions.current(root, "histories", DS))["item_indices"].to_pylist()]
    positions = sum(max(length - 1, 0) for length in lengths)
    assert judged["epochs"][0]["positions"] < refit["epochs"][0]["positions"] <= positions
    for name in ("recommendations", "similar_items"):
        made = partitions.manifest_of(root, name, DS)
        assert made.inputs["models/refit"] == partitions.manifest_of(root, "models/refit", DS).version
        assert set(pq.read_table(root / "promoted" / name)["model_version"].to_pylist()) == {refit["version"]}
    assert (root / "promoted" / "models" / "refit" / "model.json").exists()
    assert f"refit: {refit['version']}, the student {judged['version']} trained again on all days: 1 epochs" in printed
    assert not [path for path in (root / "_staging").iterdir() if "refit" in path.name]


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_student_learns_from_a_function(shop: tuple[Path, Path, Path]) -> None:
    """On real Ray a function is judged, teaches and is measured, and only it is tried again after an edit.

    The student is trained once more on all days, and makes the lists.
    """
    config, root, folder = shop
    printed = run(config, folder=folder)
    assert "models/teacher: up to date" in printed
    assert re.search(r"\n  mine [0-9a-f]{12}: my_shop.scores:Scores; validation accuracy 0\.\d{4}", printed), printed
    assert re.search(r"\n  mine: the next item's log-probability is -\d\.\d\d at the last training position", printed)
    shares = partitions.manifest_of(root, "teacher_targets", DS).details["teachers"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["mine"] > 0
    measured = set(pq.read_table(partitions.current(root, "metrics", DS))["model"].to_pylist())
    assert {"mine", "teacher", "ensemble", "ensemble - student"} <= measured
    facts = json.loads((partitions.current(root, "models/mine", DS) / "model.json").read_text())
    assert (facts["options"]["function"], facts["parameters"]) == ("my_shop.scores:Scores", None)
    page = (partitions.current(root, "reports", DS) / "index.html").read_text()
    assert facts["version"] in page
    assert ">None<" not in page
    assert "student after a second training on all days" in page
    _refitted_student_serves(root, printed)

    weights = folder / "my_shop" / "weights.py"
    weights.write_text("DECAY = 0.02\n")
    planned = run(config, command="plan", folder=folder)
    assert re.search(r"train-teacher +runs .* input my_shop/weights\.py: \w+ → \w+", planned), planned
    weights.write_text("DECAY = 'much'\n")
    printed = run(config, command="train-teacher", folder=folder, status=2)
    assert re.search(
        r"error: the teacher function my_shop.scores:Scores failed with \d+ histories: .*TypeError: .*"
        r" \(.*/my_shop/scores.py, line \d+\)\n",
        printed,
    ), printed
    assert "Traceback" not in printed
    printed = run(config, folder=folder.parent, status=2)
    assert "there is no my_shop in" in printed
