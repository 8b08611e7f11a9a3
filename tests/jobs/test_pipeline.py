"""The list of stages, and that all else is made from it."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml

from jobs.pipeline import STAGES, stage_named, stages_table
from kdlib.config.run import RunConfig
from kdlib.config.settings import settings_of
from tests.whole_nights import HOME, environment

TOY = """    Stage("paint-shop", "local", "paint the simulated shop", makes=("paint",), settings=("seed",)),
"""
MODULE = '''"""Paint the shop."""


def build(job):
    (job.output / "colour.txt").write_text(f"colour {job.config.seed}")
'''


def test_names_are_distinct():
    """Each stage has a name and a module of its own, and makes tables that no other stage makes."""
    assert len({stage.name for stage in STAGES}) == len({stage.module for stage in STAGES}) == len(STAGES)
    document = {"name": "x", "ds": "2026-11-22", "output_dir": "out", "input": {"simulate": {"search_fraction": 0.1}}}
    config = RunConfig.model_validate(document | {"search": {}})
    made = [name for stage in STAGES if stage.when(config) for part in stage.parts_of(config) for name in part.makes]
    assert len(made) == len(set(made))


def test_needs_are_made_before():
    """The order of the list is an order in which every stage finds its inputs."""
    text = {"adapt": {}, "whiten": True}
    document = {
        "name": "x",
        "ds": "2026-11-22",
        "output_dir": "out",
        "input": {"simulate": {"search_fraction": 0.1}},
        "teachers": [{"name": "a", "text": text}, {"name": "b", "folds": 2}, {"name": "c", "rules": {}}],
        "distillation": {"targets": "sampled"},
        "student": {"model": {"codes": {}, "dim": 16}, "refit": True},
        "recommend": {
            "policy": {"at_most": {"brand": 2}},
            "lists": {"similar_items": 5, "bought_together": 5, "popular_items": 5, "buy_again": 5},
        },
        "export": {},
        "search": {"text": {"adapt": {}}},
    }
    config, there = RunConfig.model_validate(document), {"gates", "search_gates"}
    for stage in STAGES:
        assert stage.when(config), stage.name
        for part in stage.parts_of(config):
            assert set(part.needs) <= there, f"{stage.name} needs {set(part.needs) - there}"
        there |= {name for part in stage.parts_of(config) for name in part.makes}


def test_what_an_objective_makes_again():
    """An objective changes what models, their validation and the metrics depend on, and no features and no hidden states."""
    document = {"name": "x", "ds": "2026-11-22", "output_dir": "out", "input": {"simulate": {}}}
    document |= {"teachers": [{"name": "a"}], "distillation": {"targets": "hidden"}}

    def parts_with(objective):
        config = RunConfig.model_validate(document | {"objective": objective})
        found = {}
        for stage in (stage for stage in STAGES if stage.when(config)):
            for part in stage.parts_of(config):
                found |= {name: (settings_of(config, part.settings), part.values) for name in part.makes}
        return found

    plain, weighted = parts_with({}), parts_with({"purchase": 10})
    assert {name for name in plain if plain[name] != weighted[name]} == {
        "models/a",
        "models/student",
        "models/control",
        "metrics",
    }


def test_the_list_of_users_counts_for_the_features_where_a_model_reads_it():
    """Without such a model, neither the list nor its features are among what `build-features` depends on."""
    document = {"name": "x", "ds": "2026-11-22", "output_dir": "out"}
    users = {"path": "u.csv", "format": "csv", "features": {"age": "number", "tags": "categories", "plan": "category"}}

    def depends_on(**more):
        config = RunConfig.model_validate(document | {"input": {"simulate": {}}} | more)
        [part] = stage_named("build-features").parts_of(config)
        return settings_of(config, part.settings), dict(part.values)

    listed = {"input": {"simulate": {}, "users": users}}
    assert depends_on(**listed) == depends_on()
    read = depends_on(**listed, teachers=[{"name": "a", "user_features": ["plan"]}], student={"user_features": ["age"]})
    assert list(read[1]["input.users"].features) == ["age", "plan"]


def test_the_list_needs_no_engine():
    """A scheduler that draws the stages imports pydantic and PyYAML, and neither Spark nor Ray nor torch."""
    code = "import sys, jobs.pipeline; print({'torch', 'ray', 'pyspark', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, env=environment(), text=True, capture_output=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_documents_have_the_table():
    """`python -m jobs.pipeline` prints the table of jobs/README.md."""
    assert stages_table() in (HOME / "jobs" / "README.md").read_text()


@pytest.fixture(scope="module")
def with_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one stage more: its line in the list and its module."""
    copy = tmp_path_factory.mktemp("toy")
    for name in ("jobs", "kdlib", "cluster"):
        shutil.copytree(HOME / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "jobs" / "pipeline.py"
    text = file.read_text()
    place = re.search(r'    _events_stage\(\n        "build-features"', text)
    assert place
    file.write_text(text[: place.start()] + TOY + text[place.start() :])
    (copy / "jobs" / "paint_shop.py").write_text(MODULE)
    run = {"name": "toy", "ds": "2026-11-22", "output_dir": str(copy / "out"), "input": {"simulate": {}}}
    (copy / "run.yaml").write_text(yaml.safe_dump(run))
    return copy


def _distilrec(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "jobs", *words]
    done = subprocess.run(
        command, cwd=home, env=environment() | {"PYTHONPATH": str(home)}, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_stage_is_a_command(with_toy):
    """It is run, skipped, planned and listed, with no other file touched."""
    assert "paint-shop" in _distilrec(with_toy, "--help")
    ran = _distilrec(with_toy, "paint-shop", "--config", "run.yaml")
    assert "paint_shop: done" in ran
    assert (with_toy / "out" / "paint" / "ds=2026-11-22" / "colour.txt").read_text() == "colour 1"
    assert "paint: up to date" in _distilrec(with_toy, "paint-shop", "--config", "run.yaml")
    planned = _distilrec(with_toy, "plan", "--config", "run.yaml")
    assert re.search(r"paint-shop +up to date", planned)
    assert "seed: 1 → 2" in _distilrec(with_toy, "plan", "--config", "run.yaml", "--set", "seed=2")


def test_a_new_stage_is_in_the_scheduler_and_the_documents(with_toy, monkeypatch):
    """Airflow's DAG and the table of the documents are made from the list."""
    table = subprocess.run(
        [sys.executable, "-m", "jobs.pipeline"],
        cwd=with_toy,
        env=environment() | {"PYTHONPATH": str(with_toy)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert "| `paint-shop` | local | paint the simulated shop |  | `paint` |" in table
    for name in ("providers.standard.hooks.subprocess", "sdk", "sdk.exceptions", "timetables.interval"):
        monkeypatch.setitem(sys.modules, f"airflow.{name}", MagicMock())
    for name in [name for name in sys.modules if name.split(".")[0] == "jobs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(with_toy))
    dag = runpy.run_path(str(with_toy / "cluster" / "airflow" / "distilrec_dag.py"))
    names = [call.kwargs["task_id"] for call in dag["run_stage"].override.call_args_list]
    assert "paint_shop" in names
    assert names[-1] == "report"
