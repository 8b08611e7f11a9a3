"""A whole night in which teacher and student learn together, on a file of sequences."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.store import partitions
from tests.jobs.conftest import DS, SMALL
from tests.whole_nights import run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_teacher_and_student_learn_together(tmp_path: Path) -> None:
    """Joint mode on sequences prints loss and accuracy of each epoch and of the control.

    A user without history gets popular items.
    """
    generator = np.random.default_rng(0)
    lines = []
    for user in range(300):
        start, length = int(generator.integers(0, 60)), int(generator.integers(3, 12))
        lines.append(f"u{user} " + " ".join(f"i{(start + 7 * step) % 60}" for step in range(length)))
    (tmp_path / "sequences.txt").write_text("\n".join([*lines, "lost rare", "corrupt"]) + "\n")
    config = tmp_path / "run.yaml"
    lstm = {"kind": "lstm", "dim": 16, "hidden": 12, "tied": False, "dropout": 0.0}
    config.write_text(
        yaml.safe_dump(
            SMALL
            | {
                "name": "joint",
                "output_dir": str(tmp_path / "output"),
                "input": {"events": {"path": str(tmp_path / "sequences.txt"), "format": "sequences"}},
                "features": {"max_items": 60, "split": {"kind": "leave_one_out"}},
                "teachers": [{"name": "teacher", "model": lstm | {"hidden": 24}}],
                "student": {"model": lstm},
                "distillation": {"mode": "joint", "kl_weight": 0.5, "temperature": 1.0},
            }
        )
    )
    printed = run(config)
    assert re.search(r"student epoch  2/2: loss \S+ = CE \S+ \+ 0\.5·KL \S+, accuracy \S+, teacher CE", printed), (
        printed
    )
    assert re.search(r"control epoch  2/2: CE \S+, accuracy", printed)
    assert "1 quarantined" in printed
    assert "made up" in printed
    root = tmp_path / "output"
    rows = {row["user_id"]: row for row in pq.read_table(partitions.current(root, "recommendations", DS)).to_pylist()}
    assert len(rows) == 301
    assert rows["lost"]["source"] == "popular"
    assert {row["source"] for user, row in rows.items() if user != "lost"} == {"model"}
