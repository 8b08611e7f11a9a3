"""Promotion as a command, on runs published by hand."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kdlib.release import delivery, promotions
from kdlib.store import partitions
from tests.jobs.handmade import DAYS, put, put_night, root_of, run


def test_a_night_that_passes_is_promoted(config, capfd):
    """Exit status 0. The gates are published, and `promoted` leads to the run's table and student."""
    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    assert run("promote", config, "--ds", DAYS[0]) == 0
    assert "check_gates: input and quality: 4 passed, 13 skipped" in capfd.readouterr().out
    assert pq.read_table((root / "promoted" / "recommendations").resolve())["ds"].to_pylist() == [DAYS[0]]
    assert pq.read_table(partitions.current(root, "gates", DAYS[0])).num_rows == 17


def test_gates_of_another_version_of_the_night_do_not_count(config, capfd):
    """Tables that were published after the gates were judged are not promoted."""
    put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    put_night(config, DAYS[0], kept=901)
    assert run("promote", config, "--ds", DAYS[0]) == 2
    assert f"the gates of {DAYS[0]} have not judged what is published now" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("rerun", "stale", "maker"),
    [
        ((), "recommendations", "recommend"),
        (("metrics",), "recommendations", "recommend"),
        (("recommendations",), "metrics", "evaluate"),
    ],
)
def test_a_student_trained_again_is_not_promoted_with_the_old_one_s_table(config, capfd, rerun, stale, maker):
    """Table, metrics and model of a run go into use only if they belong together.

    The message names the stage to run.
    """
    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    before = partitions.manifest_of(root, "models/student", DAYS[0]).version
    put(root, "models/student", DAYS[0], pa.table({"ds": [DAYS[0]]}), seed=2)
    now = partitions.manifest_of(root, "models/student", DAYS[0]).version
    for name in rerun:
        table = pq.read_table(partitions.current(root, name, DAYS[0]))
        put(root, name, DAYS[0], table, ("histories", "models/student"), seed=2)
    assert run("check-gates", config, "--ds", DAYS[0]) == (0 if "metrics" in rerun else 2)
    assert ("metrics of" in capfd.readouterr().err) == ("metrics" not in rerun)
    assert run("promote", config, "--ds", DAYS[0]) == 2
    error = capfd.readouterr().err
    assert f"{stale} of {DAYS[0]} is stale: it was made from models/student {before}, and {now} is" in error
    assert f"Run `distilrec {maker} --config {config}` first" in error
    assert promotions.current(root) is None


def test_two_nights_that_end_at_the_same_time_leave_the_later_in_use(config, monkeypatch, capfd):
    """The later run is promoted after the earlier run has looked and before it switches."""
    for ds in DAYS[:2]:
        put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == 0
    switch = promotions.promote

    def late(*words, **more):
        monkeypatch.setattr(promotions, "promote", switch)
        assert run("promote", config, "--ds", DAYS[1]) == 0
        return switch(*words, **more)

    monkeypatch.setattr(promotions, "promote", late)
    assert run("promote", config, "--ds", DAYS[0]) == 0
    assert f"{DAYS[1]} stays in use, because it is later than {DAYS[0]}" in capfd.readouterr().out
    root = root_of(config)
    assert [switch.ds for switch in promotions.history(root)] == [DAYS[1]]


def test_further_lists_are_promoted_with_the_run(config, capfd):
    """A list that the run config names must be published, and goes into use and to the delivery with the others."""
    lists = ["similar_items", "bought_together", "recommendations_long"]
    more = {
        "recommend": {"lists": {"similar_items": 3, "bought_together": 3}, "long_form": True},
        "delivery": {"url": f"file://{config.parent}/there"},
    }
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))
    root = put_night(config, DAYS[0])
    assert run("check-gates", config, "--ds", DAYS[0]) == 0
    for name in lists:
        assert run("promote", config, "--ds", DAYS[0]) == 2
        error = capfd.readouterr().err
        assert f"promote needs {name} of {DAYS[0]}, and none is published" in error
        assert f"Run `distilrec recommend-lists --config {config}` first" in error
        put(root, name, DAYS[0], pa.table({"ds": [DAYS[0]]}))
    assert run("promote", config, "--ds", DAYS[0]) == 0
    for name in lists:
        assert pq.read_table((root / "promoted" / name).resolve())["ds"].to_pylist() == [DAYS[0]]
        assert delivery.read(f"file://{config.parent}/there", name).to_table()["ds"].to_pylist() == [DAYS[0]]


def test_the_export_is_promoted_with_the_run_and_a_rollback_switches_it(config, capfd):
    """With a section export, the run needs one. It goes into use and to the delivery with the tables, and back with them."""
    more = {"export": {}, "delivery": {"url": f"file://{config.parent}/there"}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | more))
    place = delivery.place(more["delivery"]["url"])

    def in_use():
        found = delivery.delivered(more["delivery"]["url"])
        assert found is not None
        [file] = found.files["export"]
        sent = place.read(file["path"])
        assert sent is not None
        return (root / "promoted" / "export" / "encoder.onnx").read_text(), sent.data.decode()

    for ds in DAYS[:2]:
        root = put_night(config, ds)
        assert run("check-gates", config, "--ds", ds) == 0
        assert run("promote", config, "--ds", ds) == 2
        error = capfd.readouterr().err
        assert f"promote needs export of {ds}, and none is published" in error
        assert f"Run `distilrec export --config {config}` first" in error
        staging = partitions.new_staging(root, "export", ds)
        (staging / "encoder.onnx").write_text(ds)
        partitions.publish(staging, root, "export", ds, fingerprint=ds)
        assert run("promote", config, "--ds", ds) == 0
        assert in_use() == (ds, ds)
    assert run("rollback", config, "--to", DAYS[0]) == 0
    assert in_use() == (DAYS[0], DAYS[0])


def test_an_export_made_again_does_not_undo_a_rollback(config, capfd):
    """A run whose tables a rollback has withdrawn stays out of use, although its model card, and so its export, is new."""
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"export": {}}))

    def put_export(ds, text):
        staging = partitions.new_staging(root, "export", ds)
        (staging / "card.md").write_text(text)
        partitions.publish(staging, root, "export", ds, fingerprint=text)

    for ds in DAYS[:2]:
        root = put_night(config, ds)
        put_export(ds, "card")
        assert run("check-gates", config, "--ds", ds) == 0
        assert run("promote", config, "--ds", ds) == 0
    assert run("rollback", config, "--to", DAYS[0]) == 0
    put_export(DAYS[1], "another card")
    assert run("promote", config, "--ds", DAYS[1]) == 0
    assert f"{DAYS[1]} stays out of use" in capfd.readouterr().out
    now = promotions.current(root)
    assert now is not None
    assert now.ds == DAYS[0]
