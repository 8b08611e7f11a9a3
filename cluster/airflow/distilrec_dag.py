"""The night as an Airflow DAG (Airflow 3): one task a stage, for the day that the run's data interval begins on.

Set in the environment of scheduler and workers:
  DISTILREC_CONFIG    the run config, a path on the worker
  DISTILREC_COMMAND   `distilrec` (the default), or `distilrec submit --address http://HEAD:8265` for a Ray cluster
  DISTILREC_STAGES    the stages in order, with commas, where they are not those of a night that trains its teachers first

A stage that is up to date is skipped in a second, so clearing a task, or the whole run, repeats nothing. Nights
before the DAG was switched on, or while it was off, run only when asked for, one after the other:
  airflow backfill create --dag-id distilrec --from-date 2026-11-01 --to-date 2026-11-22 --max-active-runs 1
"""

import os
import re
import shlex
from datetime import datetime, timedelta

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.interval import CronDataIntervalTimetable

COMMAND = shlex.split(os.environ.get("DISTILREC_COMMAND", "distilrec"))
CONFIG = os.environ.get("DISTILREC_CONFIG", "/etc/distilrec/run.yaml")
STAGES = os.environ.get(
    "DISTILREC_STAGES",
    "build-features, check-gates --part input, train-teacher, cache-teacher, distill, evaluate, check-gates, recommend, promote",
)

FINAL = {
    2: "something must be mended first; the message stands above",
    3: "a gate forbids publishing: the night in use stays; the message and the report say which",
}
"""Exit statuses that no retry mends; all others are retried: 74 (not delivered), 75 (the date is held, or the cluster
does not answer) and crashes."""


def run(stage: str, day: str) -> None:  # `ds` is a name of Airflow's own
    """Run one stage; its lines go to the task's log, its exit status to the XCom `status`."""
    context, hook = get_current_context(), SubprocessHook()
    context["task"].on_kill = hook.send_sigterm  # of a timeout too: else the stage goes on, and holds the date's lock
    command = [*COMMAND, *stage.split(), "--config", CONFIG, "--ds", day]
    status = hook.run_command(command, env=dict(os.environ)).exit_code
    context["ti"].xcom_push(key="status", value=status)
    if status in FINAL:
        raise AirflowFailException(f"{stage}: exit status {status}: {FINAL[status]}")
    if status:
        raise RuntimeError(f"{stage}: exit status {status}")


with DAG(
    dag_id="distilrec",
    schedule=CronDataIntervalTimetable("30 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 11, 1),
    catchup=False,  # else the day it is switched on it would queue every night since then
    max_active_runs=1,  # the item vocabulary grows from night to night, in order
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10), "execution_timeout": timedelta(hours=6)},
    doc_md=__doc__,
    tags=["distilrec"],
) as dag:
    run_stage = task(run)

    @task(trigger_rule="one_failed")
    def report_failure(day: str) -> None:
        """No retry is left: a blocked or broken night has a report too, and monitoring gets to know its exit status."""
        context = get_current_context()
        found = context["ti"].xcom_pull(task_ids=sorted(context["task"].upstream_task_ids), key="status")
        run(f"report --status {next(filter(None, found), 1)}", day)  # a stage that was killed has none

    stages = [
        run_stage.override(task_id="_".join(re.findall(r"\w+", name)))(name.strip(), "{{ ds }}")
        for name in STAGES.split(",")
    ]
    chain(*stages, run_stage.override(task_id="report")("report --status 0", "{{ ds }}"))
    stages >> report_failure("{{ ds }}")
