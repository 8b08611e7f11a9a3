"""The process that talks to MLflow. `jobs.runtime.tracking` gives it a JSON object on its standard input, and a time limit.

MLflow takes seconds to import, prints, and waits for a server in ways of its own. In this process that disturbs no run.
"""

import json
import sys
import traceback
from typing import Any

NIGHT = "distilrec.night"
"""Tag of an MLflow run: the same for all attempts at a date."""
ALIAS = "in-use"
LONGEST_PARAM, LONGEST_TAG = 6000, 5000
"""Characters of a value."""


def main() -> int:
    """Do what standard input asks for; returns the exit status. After a failure, standard output holds the reason."""
    try:
        track(json.load(sys.stdin))
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}")
        return 1
    return 0


def track(asked: dict[str, Any]) -> None:
    """Record a run, and let the alias follow the run in use.

    Args:
      asked: `uri` and `experiment` (the tracker), `run` (None: nothing to record) and `in_use` (None: no student is).
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=asked["uri"])
    experiment = _experiment(client, asked["experiment"])
    if asked["run"]:
        _record(client, experiment, asked["run"])
    if asked["in_use"]:
        _follow(client, experiment, asked["in_use"])


def _experiment(client: Any, name: str) -> str:
    """The id of the experiment, which is made if there is none."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except Exception:  # another process may have made it meanwhile
        if found := client.get_experiment_by_name(name):
            return found.experiment_id
        raise


def _record(client: Any, experiment: str, run: dict[str, Any]) -> None:
    """Write tags and status of a run, and what else is known of it.

    Args:
      client: an `MlflowClient`.
      experiment: its id.
      run: `night`, `name`, `status`, `tags`, `settings` (name → value), `figures` (name, value, step) and `time` of the
        figures in milliseconds. The same figures with the same time count once.
    """
    from mlflow.entities import Metric, Param, RunTag

    settings = {name: _text(value)[:LONGEST_PARAM] for name, value in run["settings"].items()}
    run_id = _run_of(client, experiment, run, settings)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, run["time"], step) for name, value, step in run["figures"]],
        params=[] if run["status"] == "RUNNING" else [Param(name, value) for name, value in settings.items()],
        tags=[RunTag(name, value[:LONGEST_TAG]) for name, value in run["tags"].items()],
    )
    if run["status"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, run["status"])


def _run_of(client: Any, experiment: str, run: dict[str, Any], settings: dict[str, str]) -> str:
    """The id of the newest MLflow run of this night, or of a new one, which has ended.

    MLflow never changes a param: a night that is made again with other settings is another MLflow run.
    """
    where = f"tags.`{NIGHT}` = '{run['night']}'"
    found = client.search_runs([experiment], where, order_by=["attributes.start_time DESC"], max_results=1)
    for newest in found:
        if all(newest.data.params.get(name, value) == value for name, value in settings.items()):
            return newest.info.run_id
        if newest.info.status == "RUNNING":
            client.set_terminated(newest.info.run_id, "KILLED")
    made = client.create_run(experiment, run_name=run["name"], tags={NIGHT: run["night"]}).info.run_id
    client.set_terminated(made)
    return made


def _follow(client: Any, experiment: str, in_use: dict[str, Any]) -> None:
    """Set the alias to the version of the student in use, which is registered if it is not there.

    Args:
      client: an `MlflowClient`.
      experiment: its id.
      in_use: `model` (its registered name), `student` (which version), `source` (None: the tracker refuses its folder),
        `description`, `tags`, and `night` and `name` of the run that made it.
    """
    from mlflow import MlflowException

    model, student = in_use["model"], in_use["student"]
    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(model)
    found = client.search_model_versions(f"name = '{model}' AND tag.student = '{student}'")
    if not found:
        run_id = _run_of(client, experiment, in_use, {})
        source = in_use["source"] or f"runs:/{run_id}/student"
        tags = in_use["tags"] | {"student": student}
        about = {"tags": tags, "description": in_use["description"]}
        found = [client.create_model_version(model, source, run_id, await_creation_for=0, **about)]
    client.set_registered_model_alias(model, ALIAS, found[0].version)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
