"""The DAG, run by a real Airflow where there is one, with a command that stands for the stages."""

import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from jobs.pipeline import STAGES

DAG = Path(__file__).parents[2] / "cluster" / "airflow" / "distilrec_dag.py"
COMMAND = """#!/bin/bash
echo "$@" >> calls
case "$1 $BEHAVIOUR" in
  "promote gate") exit 3;;
  "promote crash") exit 1;;
  "promote hangs") trap 'echo ended >> calls; exit 143' TERM; sleep 300 & wait;;
esac
"""


class FinalFailure(Exception):
    """Stands for Airflow's own."""


@pytest.mark.parametrize(
    ("status", "raised"),
    [(2, FinalFailure), (3, FinalFailure), (66, RuntimeError), (75, RuntimeError), (74, RuntimeError)],
)
def test_a_night_is_retried_only_where_that_may_mend_it(
    monkeypatch: pytest.MonkeyPatch, status: int, raised: type[Exception]
) -> None:
    """Statuses 66, 74 and 75 are retried, 2 and 3 are not.

    One task a stage; switching the DAG on queues no runs of the past.
    """
    names = ("providers.standard.hooks.subprocess", "sdk", "sdk.exceptions", "timetables.interval")
    fakes = {f"airflow.{name}": MagicMock() for name in names}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    sdk = fakes["airflow.sdk"]
    fakes["airflow.sdk.exceptions"].AirflowFailException = FinalFailure
    hook = fakes["airflow.providers.standard.hooks.subprocess"].SubprocessHook
    hook.return_value.run_command.return_value.exit_code = status
    dag = runpy.run_path(str(DAG))
    assert sdk.DAG.call_args.kwargs["catchup"] is False
    override = sdk.task.return_value.override
    tasks = [call.kwargs["task_id"] for call in override.call_args_list]
    commands = [call.args for call in override.return_value.call_args_list]
    assert tasks == [name.replace("-", "_") for name, _ in commands]
    assert commands == [(stage.name, "{{ ds }}") for stage in sorted(STAGES, key=lambda stage: stage.last)]
    with pytest.raises(raised, match=f"distill: exit status {status}"):
        dag["run"]("distill", "2026-11-21")


@pytest.mark.skipif(not shutil.which("airflow"), reason="no airflow (PyPI's apache-airflow, 3 or later)")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("behaviour", "state", "last"),
    [("well", "success", "0"), ("gate", "failed", "3"), ("crash", "failed", "1"), ("hangs", "failed", "1")],
)
def test_a_night_ends_with_a_report_and_its_status(tmp_path: Path, behaviour: str, state: str, last: str) -> None:
    """A failed run too, in a task that can be retried. A stage that takes too long is ended."""
    (tmp_path / "dags").mkdir()
    quick = DAG.read_text().replace('"retries": 3', '"retries": 0').replace("hours=6", "seconds=10")
    (tmp_path / "dags" / "distilrec_dag.py").write_text(quick)
    (tmp_path / "command").write_text(COMMAND.replace("calls", str(tmp_path / "calls")))
    (tmp_path / "command").chmod(0o755)
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "BEHAVIOUR": behaviour,
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "DISTILREC_COMMAND": str(tmp_path / "command"),
    }
    for words in (["db", "migrate"], ["dags", "test", "distilrec", "2026-11-21"]):
        done = subprocess.run(["airflow", *words], env=environment, text=True, capture_output=True)
    printed = done.stdout + done.stderr
    assert f"state={state}" in printed or f"state: {state}" in printed, printed[-3000:]
    deadline = time.monotonic() + 10
    while behaviour == "hangs" and "ended" not in (tmp_path / "calls").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    calls = (tmp_path / "calls").read_text().splitlines()
    given = "--config /etc/distilrec/run.yaml --ds 2026-11-21"
    assert ("ended" in calls) == (behaviour == "hangs")
    told = [one.removesuffix(f" {given}") for one in calls if one != "ended"]
    before = [stage.name for stage in STAGES if not stage.last]
    after = ["report"] if behaviour == "well" else ["report", f"telemetry --status {last}"]
    assert told == [*before, *after]
