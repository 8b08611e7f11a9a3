"""`distilrec plan`: what a run would do, and why."""

from pathlib import Path

import pytest

from jobs.plan import plan
from jobs.plan import run as print_plan
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Stage
from kdlib.config.run import RunConfig
from kdlib.store import partitions
from tests.jobs.runtime import toy_stage

MODULE = "tests.jobs.runtime.toy_stage"
PIPELINE = (
    Stage("first", "local", "make one", makes=("one",), settings=("seed", "training"), module=MODULE),
    Stage("second", "local", "make two", needs=("one",), makes=("two",), module=MODULE),
    Stage("third", "local", "make three", makes=("three",), module=MODULE),
    Stage("judge", "local", "judge", acts=True),
)


def config(root: Path, **settings) -> RunConfig:
    document = {"name": "x", "ds": "2026-11-22", "output_dir": str(root), "input": {"simulate": {}}} | settings
    return RunConfig.model_validate(document)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An output folder in which everything is up to date."""
    for stage in PIPELINE[:3]:
        run_stage(config(tmp_path), stage, pipeline=PIPELINE)
    return tmp_path


def steps(root: Path, **settings) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Stage → (reasons, stages before it) of those that would run."""
    found = plan(config(root, **settings), PIPELINE)
    return {step.stage.name: (step.reasons, step.after) for step in found if step.runs}


def test_nothing_to_do(made):
    """All is up to date, with the time and the size of the last run."""
    assert steps(made) == {}
    first = plan(config(made), PIPELINE)[0]
    assert first.seconds is not None
    assert first.num_bytes > 0


def test_a_changed_setting_is_named_with_both_values(made):
    """What is made from the stage's tables follows after it; other stages stay."""
    assert steps(made, seed=2) == {"first": (("setting seed: 1 → 2",), ()), "second": ((), ("first",))}


def test_an_operational_setting_changes_nothing(made):
    """Retries and memory."""
    assert steps(made, training={"max_failures": 7}) == {}


def test_an_input_from_outside_is_named(made):
    """The plan looks at the shop's files as the run would."""
    (made / toy_stage.OUTSIDE).write_text("v1")
    reasons, _ = steps(made)["third"]
    assert reasons == ("input outside: None → v1",)


def test_an_edited_source_file_is_named(made, monkeypatch):
    """The file's path, as it lies in the project."""
    import jobs.runtime.runner

    real = jobs.runtime.runner.code_of
    monkeypatch.setattr(jobs.runtime.runner, "code_of", lambda module: real(module) | {"kdlib/losses/new.py": "edited"})
    assert steps(made)["third"] == (("source kdlib/losses/new.py",), ())


def test_a_new_date_runs_everything(made):
    """The last run's time and size are those of the date before."""
    tomorrow = config(made, ds="2026-11-23")
    found = [step for step in plan(tomorrow, PIPELINE) if step.runs]
    assert [step.reasons for step in found] == [("not made for 2026-11-23 yet",)] * 3
    assert all(step.seconds is not None for step in found)


def test_a_damaged_table_is_named(made):
    """As the run would find it."""
    (partitions.current(made, "three", "2026-11-22") / "made.txt").unlink()
    assert steps(made) == {"third": (("three: made.txt is missing or cut off",), ())}


def test_nothing_is_written(made):
    """The plan of a folder without outputs is possible, and makes none."""
    empty = made / "empty"
    assert steps(empty)["first"] == (("not made for 2026-11-22 yet",), ())
    assert not empty.exists()


def test_the_printed_plan_ends_with_the_sum(tmp_path, capsys):
    """One line a stage."""
    print_plan(config(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("plan of x for 2026-11-22")
    assert any(line.split()[:2] == ["train-teacher", "runs"] for line in lines)
    assert any(line.split()[:4] == ["check-gates", "acts", "each", "time"] for line in lines)
    assert lines[-1].endswith("have never run")
