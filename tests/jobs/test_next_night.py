"""The night after a first one, on real Spark, Ray and DeepSpeed. It is killed once."""

import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.release import promotions
from kdlib.store import partitions
from tests.jobs.conftest import DS
from tests.whole_nights import follow, run, start, whole

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_the_next_night_is_killed_and_goes_on(night_to_change: tuple[Path, Path, str]) -> None:
    """One more day of the shop. The run is killed in training. The same command goes on later.

    Readers keep the old table until the new one is promoted. Training goes on from its last checkpoint. There are new
    users and items, a teacher that starts warm, a student that now reads a feature of the users, and gates that compare.
    """
    config, root, _ = night_to_change
    tomorrow = "2026-11-23"
    document = yaml.safe_load(config.read_text())
    document["training"]["warm_start"] = {"epochs": 20}
    document["student"]["train"] = {"epochs": 20, "patience": 20}
    people = pq.read_table(partitions.current(root, "histories", DS))["user_id"].to_pylist()
    users = config.parent / "users.csv"
    lines = [f"{user},{('de', 'fr', '')[number % 3]}" for number, user in enumerate(people)]
    users.write_text("\n".join(["user_id,country", *lines]) + "\n")
    document["input"]["users"] = {"path": str(users), "format": "csv", "features": {"country": "category"}}
    document["student"]["user_features"] = ["country"]
    config.write_text(yaml.safe_dump(document))
    before, promoted = whole(root, DS), root / "promoted" / "recommendations"
    old = promoted.resolve()

    def kill_the_night() -> None:
        # an epoch takes less than the two seconds after which Ray Train writes down which checkpoint is the last
        deadline = time.monotonic() + 60
        while not list((root / "_checkpoints").glob("*.distill.*/checkpoint_manager_snapshot.json")):
            assert time.monotonic() < deadline, "no checkpoint is on record"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)

    process = start(config, "--ds", tomorrow)
    follow(process, "student epoch  1/20", kill_the_night)
    assert process.returncode == -signal.SIGKILL
    assert promoted.resolve() == old

    printed = run(config, "--ds", tomorrow)
    assert "student epoch  1/20" not in printed, "a night that goes on starts from its last checkpoint"
    for line in ("student epoch 20/20", "control epoch  2/2", "student - student in use so far"):
        assert line in printed, printed
    assert "check_gates: input and quality: 14 passed, 3 skipped" in printed, printed
    assert whole(root, DS) == before
    assert (whole(root, tomorrow).rows or 0) > (before.rows or 0)
    metrics = pq.read_table(partitions.current(root, "metrics", tomorrow)).to_pylist()
    [new] = [row for row in metrics if (row["model"], row["metric"]) == ("student", "new_items@10")]
    assert 0 <= new["low"] <= new["value"] <= new["high"] < 1
    facts = json.loads((partitions.current(root, "models/student", tomorrow) / "model.json").read_text())
    earlier = json.loads((partitions.current(root, "models/student", DS) / "model.json").read_text())
    assert [line["epoch"] for line in facts["epochs"]] == list(range(1, 21))
    assert facts["num_items"] > earlier["num_items"]
    assert (earlier["options"]["user_columns"], facts["options"]["user_columns"]) == ({}, {"country": 0})
    histories = pq.read_table(partitions.current(root, "histories", tomorrow))
    codes = dict(zip(*histories.select(["user_id", "user_values"]).to_pydict().values(), strict=True))
    assert [codes[user] for user in people[:3]] == [[1], [2], [0]]
    assert {tuple(codes[user]) for user in codes.keys() - set(people)} == {(0,)}, "the list lacks the new users"
    tables = (pq.read_table(partitions.current(root, "recommendations", ds)) for ds in (DS, tomorrow))
    first, second = (dict(zip(one["user_id"].to_pylist(), one["variant"].to_pylist(), strict=True)) for one in tables)
    assert first.keys() & second.keys()
    assert {user: second.get(user, variant) for user, variant in first.items()} == first, "a user has another variant"
    nights = (
        json.loads((partitions.current(root, "models/teacher", ds) / "model.json").read_text()) for ds in (DS, tomorrow)
    )
    assert [night["warm_nights"] for night in nights] == [0, 1]
    in_use = promotions.current(root)
    assert in_use is not None
    assert (in_use.ds, [n.ds for n in promotions.history(root)]) == (tomorrow, [DS, tomorrow])
    assert pq.read_table(promoted.resolve()).num_rows == whole(root, tomorrow).rows
    deadline = time.monotonic() + 30
    while (left := list((root / "_checkpoints").glob("*.distill.*"))) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, "finished training leaves no checkpoints"
