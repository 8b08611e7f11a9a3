"""MLflow runs and the registered model, in an SQLite database."""

from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import mlflow_client
from jobs.runtime.mlflow_client import track

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database for the tests of this file. Each test has an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def asked(uri: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the process is asked about a run that has begun."""
    run = {
        "night": "0123",
        "name": "shop 2026-11-22",
        "status": "RUNNING",
        "tags": {"ds": "2026-11-22", "reason": ""},
        "settings": {"seed": 1, "student.size": "small"},
        "figures": [],
        "time": 1_000,
    }
    return {"uri": uri, "experiment": request.node.name, "run": run, "in_use": None}


def runs(asked: dict[str, Any]) -> list[Any]:
    """The MLflow runs of the experiment, oldest first."""
    client = mlflow.MlflowClient(asked["uri"])
    experiment = client.get_experiment_by_name(asked["experiment"])
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def test_a_later_attempt_continues_the_run(asked):
    """A killed run, a failed one and the one that ends well are one MLflow run, with the last outcome."""
    track(asked)
    assert runs(asked)[0].info.status == "RUNNING"
    for status, reason in (("FAILED", "no events"), ("RUNNING", ""), ("FINISHED", "")):
        asked["run"] |= {"status": status, "tags": {"ds": "2026-11-22", "reason": reason}}
        track(asked)
        [one] = runs(asked)
        assert (one.info.status, one.data.tags["reason"]) == (status, reason)
    assert one.info.run_name == "shop 2026-11-22"
    assert one.data.params == {"seed": "1", "student.size": "small"}


def test_other_settings_are_another_run(asked):
    """MLflow never changes a param. The MLflow run with the old settings keeps them and its outcome."""
    track(asked)
    asked["run"] |= {"status": "FINISHED"}
    track(asked)
    asked["run"] |= {"settings": {"seed": 2}}
    track(asked)
    old, new = runs(asked)
    assert [(one.info.status, one.data.params["seed"]) for one in (old, new)] == [("FINISHED", "1"), ("FINISHED", "2")]


def test_figures_count_once(asked):
    """Each epoch is a step, of any number of epochs. The same figures again change nothing."""
    figures = [("student/epoch/kl", 1 / epoch, epoch) for epoch in range(1, 1_203)]
    asked["run"] |= {"status": "FINISHED", "figures": [*figures, ("student/ndcg_at_10/low", 0.2, 0)]}
    track(asked)
    track(asked)
    [one] = runs(asked)
    kept = mlflow.MlflowClient(asked["uri"]).get_metric_history(one.info.run_id, "student/epoch/kl")
    assert sorted((line.step, line.value) for line in kept) == [(step, value) for _, value, step in figures]
    assert one.data.metrics["student/ndcg_at_10/low"] == 0.2


def test_long_values_are_cut(asked):
    """A setting of any length is recorded as far as MLflow takes it, and the next attempt finds it unchanged."""
    asked["run"] |= {"status": "FINISHED", "settings": {"rules": ["x" * 9_000]}, "tags": {"reason": "y" * 9_000}}
    track(asked)
    track(asked)
    [one] = runs(asked)
    assert len(one.data.params["rules"]) == mlflow_client.LONGEST_PARAM
    assert len(one.data.tags["reason"]) == mlflow_client.LONGEST_TAG


def test_each_student_is_registered_once(asked, tmp_path: Path):
    """Version, folder, date and run of the student are found under the alias, also after it was in use before."""
    in_use = {"model": "shop", "night": "0123", "name": "shop 2026-11-22", "description": "the student"}
    for day in ("21", "22", "21"):
        student = f"models/student/ds=2026-11-{day}.abc"
        more = {"student": student, "source": f"{tmp_path}/{day}", "tags": {"ds": f"2026-11-{day}"}}
        track(asked | {"in_use": in_use | more})
    client = mlflow.MlflowClient(asked["uri"])
    assert len(client.search_model_versions("name = 'shop'")) == 2
    found = client.get_model_version_by_alias("shop", "in-use")
    assert found.tags == {"ds": "2026-11-21", "student": "models/student/ds=2026-11-21.abc"}
    assert found.source == f"{tmp_path}/21"
    assert [found.run_id] == [one.info.run_id for one in runs(asked)]
