"""The runner: what it does for every stage, whatever the stage makes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.plan import plan
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Part, Stage
from kdlib.config.run import RunConfig
from kdlib.errors import InputError, LateInputError
from kdlib.store import partitions
from tests.jobs.runtime import toy_stage

DS = "2026-11-22"
MODULE = "tests.jobs.runtime.toy_stage"
FIRST = Stage("first", "local", "make one", makes=("one",), settings=("seed", "training"), module=MODULE)
SECOND = Stage("second", "local", "make two and three", needs=("one",), makes=("two", "three"), module=MODULE)
PIPELINE = (FIRST, SECOND)


def config_of(tmp_path: Path, **settings) -> RunConfig:
    document = {"name": "x", "ds": DS, "output_dir": str(tmp_path), "input": {"simulate": {}}} | settings
    return RunConfig.model_validate(document)


@pytest.fixture
def run(tmp_path: Path):
    """Runs a stage with some settings; returns what was built."""

    def once(stage: Stage, **settings) -> list[str]:
        toy_stage.built.clear()
        run_stage(config_of(tmp_path, **settings), stage, pipeline=PIPELINE)
        return list(toy_stage.built)

    return once


def test_a_stage_is_built_once(run, tmp_path):
    """A second run skips it. The manifest keeps the details and all that the fingerprint is made of."""
    assert run(FIRST) == ["one"]
    assert run(FIRST) == []
    manifest = partitions.manifest_of(tmp_path, "one", DS)
    assert manifest.details["note"] == "kept"
    assert manifest.details["seconds"] >= 0
    assert manifest.made_by["stage"] == "first"
    assert manifest.made_by["settings"]["seed"] == 1
    assert f"{MODULE.replace('.', '/')}.py" in manifest.made_by["code"]


@pytest.mark.parametrize(
    ("settings", "built"),
    [
        ({"seed": 2}, True),
        ({"training": {"max_length": 60}}, True),
        ({"training": {"max_failures": 9, "resident_megabytes": 1, "cpus_per_worker": 1}}, False),
        ({"recommend": {"k": 3}}, False),
        ({"ray": {"object_store_megabytes": 99}, "spark": {"driver_memory": "9g"}}, False),
    ],
)
def test_declared_settings_decide(run, settings, built):
    """A setting that the stage has not declared, or that is operational, remakes nothing."""
    run(FIRST)
    assert run(FIRST, **settings) == (["one"] if built else [])


def test_what_is_found_outside_decides(run, tmp_path):
    """A stage's `find` gives versions of what lies outside the run."""
    run(FIRST)
    (tmp_path / toy_stage.OUTSIDE).write_text("v1")
    assert run(FIRST) == ["one"]
    assert run(FIRST) == []
    (tmp_path / toy_stage.OUTSIDE).write_text("v2")
    assert run(FIRST) == ["one"]


def test_a_stage_waits_before_it_looks(run, tmp_path):
    """What arrives while the stage waits is its input. A plan does not wait."""
    (tmp_path / "coming").write_text("v1")
    (step,) = plan(config_of(tmp_path), (FIRST,))
    assert step.runs
    assert (tmp_path / "coming").exists()
    assert run(FIRST) == ["one"]
    assert partitions.manifest_of(tmp_path, "one", DS).inputs == {"outside": "v1"}


@pytest.mark.parametrize("lost", [False, True])
def test_an_input_that_changes_while_it_is_read_is_late(run, tmp_path, lost):
    """A Spark stage whose files are replaced while it reads them publishes nothing, and asks to be run again.

    The same holds where reading fails because of that. A file that fails without any change is an input error.
    """
    stage = replace(FIRST, engine="spark")
    (tmp_path / toy_stage.OUTSIDE).write_text("v1")
    (tmp_path / "change").write_text("v2")
    if lost:
        (tmp_path / "lost").touch()
    with pytest.raises(LateInputError, match=r"the input changed while first read it: outside\. Nothing is published"):
        run(stage)
    assert partitions.read_manifest(tmp_path, "one", DS) is None
    assert not [*(tmp_path / "_staging").rglob("made.txt")]
    if lost:
        with pytest.raises(InputError, match="a file is gone"):
            run(stage)
    else:
        assert run(stage) == ["one"]


def test_a_new_version_of_an_input_decides(run):
    """Outputs that are made together are remade together."""
    run(FIRST)
    assert run(SECOND) == ["two", "three"]
    assert run(SECOND) == []
    run(FIRST, seed=2)
    assert run(SECOND, seed=2) == ["two", "three"]


def test_a_missing_input_names_the_stage_that_makes_it(run):
    """The person reads which command to run."""
    with pytest.raises(InputError, match=r"second needs one of 2026-11-22.*`distilrec first`"):
        run(SECOND)


def test_a_stale_input_is_refused(run):
    """An input that was made with other settings than the config's is not used; the message says which setting."""
    run(FIRST)
    with pytest.raises(InputError, match=r"one of 2026-11-22 is stale.*seed: 1 → 2.*`distilrec first`"):
        run(SECOND, seed=2)


def test_an_input_made_from_an_older_table_is_refused(run):
    """A table in the middle must be made from what is published now."""
    third = Stage("third", "local", "make four", needs=("two",), makes=("four",), module=MODULE)
    run(FIRST)
    run(SECOND)
    run(FIRST, seed=2)
    with pytest.raises(InputError, match=r"two of 2026-11-22 is stale: it was made from one .*`distilrec second`"):
        run(third, seed=2)


def test_a_damaged_table_is_built_again(run, tmp_path, capsys):
    """Files that are gone or cut off are noticed."""
    run(FIRST)
    (partitions.current(tmp_path, "one", DS) / "made.txt").write_text("")
    assert run(FIRST) == ["one"]
    assert "made.txt is missing or cut off" in capsys.readouterr().out


def test_a_stage_that_breaks_leaves_the_old_table(run, tmp_path):
    """Nothing is published, and the staging folder is empty again."""
    run(FIRST)
    before = partitions.manifest_of(tmp_path, "one", DS).version
    (tmp_path / "fail").touch()
    with pytest.raises(RuntimeError, match="broke"):
        run(FIRST, seed=2)
    assert partitions.manifest_of(tmp_path, "one", DS).version == before
    assert list((tmp_path / partitions.STAGING).iterdir()) == []


def test_parts_are_skipped_one_by_one(run):
    """A stage with several parts builds only the stale ones; each part has its own settings."""

    def parts(config: RunConfig) -> list[Part]:
        return [Part(("a",), settings=("seed",)), Part(("b",), values={"k": config.recommend.k})]

    stage = Stage("both", "local", "make a and b", parts=parts, module=MODULE)
    assert run(stage) == ["a", "b"]
    assert run(stage, seed=2) == ["a"]
    assert run(stage, seed=2, recommend={"k": 3}) == ["b"]


def test_a_stage_that_does_not_apply_says_why(run, capsys):
    """It makes nothing, and is no error: schedulers run all stages."""
    stage = Stage(
        "none", "local", "make none", makes=("x",), when=lambda c: False, otherwise="no reason", module=MODULE
    )
    assert run(stage) == []
    assert "none: skipped, no reason" in capsys.readouterr().out


def test_needs_that_are_optional_are_left_out(run, tmp_path):
    """The report shows what there is."""
    stage = Stage("some", "local", "make some", needs=("one", "gone"), optional=True, makes=("some",), module=MODULE)
    run(FIRST)
    assert run(stage) == ["some"]
    assert "['one']" in (partitions.current(tmp_path, "some", DS) / "made.txt").read_text()


def test_a_manifest_of_an_earlier_version_is_made_again(run, tmp_path):
    """State of format 1 has no `made_by`: its tables are readable, and the stage runs once more."""
    run(FIRST)
    file = partitions.current(tmp_path, "one", DS).parent / "manifest.json"
    old = json.loads(file.read_text())
    del old["made_by"]
    file.write_text(json.dumps(old | {"fingerprint": "of an earlier version"}))
    assert partitions.manifest_of(tmp_path, "one", DS).made_by == {}
    assert run(SECOND) == ["two", "three"]
    assert run(FIRST) == ["one"]
