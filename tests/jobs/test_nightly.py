"""Whole nights on real Spark, Ray and DeepSpeed, through the command line, undisturbed and killed."""

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.__main__ import main
from kdlib.release import delivery, promotions
from kdlib.store import partitions
from tests.jobs.conftest import DS, SMALL
from tests.whole_nights import follow, run, start, whole

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_a_night_ends_with_a_whole_table(night: tuple[Path, Path, str]) -> None:
    """Every user once, at most k distinct items, none seen before, none unavailable. The rows of the input add up."""
    _, root, printed = night
    whole(root, DS)
    rows = pq.read_table(partitions.current(root, "recommendations", DS)).to_pylist()
    histories = pq.read_table(partitions.current(root, "histories", DS)).to_pylist()
    vocabulary = pq.read_table(partitions.current(root, "item_vocabulary", DS)).sort_by("item_index").to_pylist()
    seen = {row["user_id"]: {vocabulary[item]["item_id"] for item in row["item_indices"]} for row in histories}
    unavailable = {item["item_id"] for item in vocabulary if not item["available"]}
    assert unavailable
    assert sorted(row["user_id"] for row in rows) == sorted(seen)
    for row in rows:
        assert len(row["item_ids"]) == len(set(row["item_ids"])) == len(row["scores"]) == 7
        assert not set(row["item_ids"]) & (seen[row["user_id"]] | unavailable)
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert delivery.read(f"file://{root.parent}/shop", "recommendations").to_table().to_pylist() == rows
    told = (root.parent / "distilrec_small.prom").read_text()
    assert 'distilrec_night_exit_status{run="small"} 0.0' in told
    assert f'distilrec_in_use_rows{{run="small",table="recommendations"}} {float(len(rows))}' in told
    manifest = partitions.read_manifest(root, "histories", DS)
    events = partitions.read_manifest(root, "events", DS)
    assert manifest is not None
    assert events is not None
    funnel, planted = manifest.details["funnel"], events.details["planted"]
    assert funnel["rows_read"] == funnel["kept"] + funnel["duplicate"] + funnel["quarantined"] == events.rows
    assert funnel["kept"] == planted["clean"]
    assert funnel["duplicate"] == planted["duplicate"]
    assert funnel["reasons"] == {kind: n for kind, n in planted.items() if n and kind not in ("clean", "duplicate")}
    for expected in (
        "teacher epoch",
        "student epoch",
        "KL",
        "best reachable",
        "student without teacher",
        "recommended",
        f"reports/ds={DS}/index.html",
    ):
        assert expected in printed, printed
    assert not re.search(r"\(pid=|WARN|Traceback", printed), printed


@pytest.fixture(scope="module")
def again(night: tuple[Path, Path, str]) -> tuple[partitions.Manifest, list[dict[str, str]]]:
    """The run of `night` once more, with `--json-logs`. Returns the table's manifest before it, and its lines."""
    config, root, _ = night
    before = whole(root, DS)
    return before, [json.loads(line) for line in run(config, "--json-logs").splitlines()]


def test_the_same_night_again_gives_the_same_table(
    night: tuple[Path, Path, str], again: tuple[partitions.Manifest, list[dict[str, str]]]
) -> None:
    """A second run skips what is up to date and leaves the published version as it is."""
    _, root, _ = night
    before, lines = again
    messages = [line["message"] for line in lines]
    assert sum(message.endswith(": up to date") for message in messages) >= 7, messages
    assert not [message for message in messages if "epoch" in message]
    assert whole(root, DS) == before


def test_json_lines_of_a_night_share_one_run_id(again: tuple[partitions.Manifest, list[dict[str, str]]]) -> None:
    """Every line of the run is JSON, also the lines of the Spark process, and has the same run id."""
    _, lines = again
    assert all(set(line) == {"time", "level", "run_id", "message"} for line in lines)
    assert len({line["run_id"] for line in lines}) == 1
    messages = [line["message"] for line in lines]
    assert messages[0].startswith(f"nightly: small, {DS}, output in ")
    assert [message for message in messages if message.startswith("build_features: done in ")]
    assert {line["level"] for line in lines} == {"info"}
    assert sorted(lines, key=lambda line: line["time"]) == lines


@pytest.mark.parametrize("command", [["plan"], ["nightly", "--dry-run"]])
def test_the_plan_of_a_finished_night(
    night: tuple[Path, Path, str], capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Every stage is up to date or acts each time. With a changed setting the plan names the stages and the setting."""
    config, root, _ = night
    before = whole(root, DS)
    assert main([*command, "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("everything is up to date\n"), printed
    assert main([*command, "--config", str(config), "--set", "recommend.k=6"]) == 0
    changed = re.findall(r"^  (\S+) +runs +.* MiB +(\S.*)$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in changed] == ["recommend", "report"], changed
    assert "setting recommend.k: 7 → 6" in changed[0][1]
    assert "after recommend" in changed[1][1]
    assert whole(root, DS) == before


def test_the_next_night_goes_on_from_this_one(night_to_change: tuple[Path, Path, str], tmp_path: Path) -> None:
    """One more day of the shop: new users and items, models that start warm, gates that compare, two promotions."""
    published, root, _ = night_to_change
    config, tomorrow = tmp_path / "run.yaml", "2026-11-23"
    document = yaml.safe_load(published.read_text())
    document["training"]["warm_start"] = {"epochs": 1}
    config.write_text(yaml.safe_dump(document))
    before = whole(root, DS)
    printed = run(config, "--ds", tomorrow)
    assert whole(root, DS) == before
    assert (whole(root, tomorrow).rows or 0) > (before.rows or 0)
    for line in ("teacher epoch  1/1", "student epoch  1/1", "control epoch  1/1", "student - student in use so far"):
        assert line in printed, printed
    assert "check_gates: input and quality: 14 passed, 2 skipped" in printed, printed
    facts = json.loads((partitions.current(root, "models/student", tomorrow) / "model.json").read_text())
    earlier = json.loads((partitions.current(root, "models/student", DS) / "model.json").read_text())
    assert (earlier["warm_nights"], facts["warm_nights"]) == (0, 1)
    assert facts["num_items"] > earlier["num_items"]
    in_use = promotions.current(root)
    assert in_use is not None
    assert (in_use.ds, [n.ds for n in promotions.history(root)]) == (tomorrow, [DS, tomorrow])
    rows = pq.read_table((root / "promoted" / "recommendations").resolve())
    assert rows.num_rows == whole(root, tomorrow).rows


def test_killed_nights_leave_the_old_table_and_finish_later(
    night_to_change: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """The run is killed in training, then a worker is killed.

    Readers keep the old table, and the run ends with a new one.
    """
    published, root, _ = night_to_change
    before = whole(root, DS)
    config = tmp_path / "run.yaml"
    document = yaml.safe_load(published.read_text())
    document["student"]["model"]["dropout"] = 0.1
    document["student"]["train"] = {"epochs": 20, "patience": 20}
    document["evaluation"]["control"] = False
    config.write_text(yaml.safe_dump(document))

    def kill_the_night() -> None:
        # an epoch takes less than the two seconds after which Ray Train writes down which checkpoint is the last
        deadline = time.monotonic() + 60
        while not list((root / "_checkpoints").glob("*.distill.*/checkpoint_manager_snapshot.json")):
            assert time.monotonic() < deadline, "no checkpoint is on record"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)

    process = start(config)
    follow(process, "student epoch  2/20", kill_the_night)
    assert process.returncode == -signal.SIGKILL
    assert whole(root, DS) == before

    def kill_a_worker() -> None:
        workers = [
            p for p in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())
        ]
        assert len(workers) == 2
        workers[0].kill()

    process = start(config)
    printed = follow(process, "student epoch 19/20", kill_a_worker)
    assert process.returncode == 0, printed
    assert "student epoch  1/20" not in printed, "a night that goes on starts from its last checkpoint"
    assert "student epoch 20/20" in printed
    after = whole(root, DS)
    assert after.version != before.version
    assert after.rows == before.rows
    facts = json.loads((partitions.current(root, "models/student", DS) / "model.json").read_text())
    assert [line["epoch"] for line in facts["epochs"]] == list(range(1, 21))
    deadline = time.monotonic() + 30
    while (left := list((root / "_checkpoints").glob("*.distill.*"))) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, "finished training leaves no checkpoints"


def test_teacher_and_student_learn_together(tmp_path: Path) -> None:
    """Joint mode on sequences prints loss and accuracy of each epoch and of the control.

    A user without history gets popular items.
    """
    import numpy as np

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
