"""The run as an Airflow DAG (Airflow 3): one task for each stage. The date is the first day of the data interval.

Set in the environment of scheduler and workers:
  DISTILREC_CONFIG    the run config, a path on the worker
  DISTILREC_COMMAND   `distilrec` (the default), or `distilrec submit --address http://HEAD:8265` for a Ray cluster

The stages come from `jobs.pipeline`. Where Airflow reads the DAG, distilrec must be importable. No other package is needed
there. A stage that does not apply to the run config says so and ends at once. A stage that is up to date is skipped in a
second, so clearing a task or the whole run repeats nothing. Runs of days when the DAG was off start only when asked for,
one after the other:
  airflow backfill create --dag-id distilrec --from-date 2026-11-01 --to-date 2026-11-22 --max-active-runs 1
"""

import os
import shlex
from datetime import datetime, timedelta

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, chain, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.interval import CronDataIntervalTimetable

from jobs.pipeline import STAGES

COMMAND = shlex.split(os.environ.get("DISTILREC_COMMAND", "distilrec"))
CONFIG = os.environ.get("DISTILREC_CONFIG", "/etc/distilrec/run.yaml")

FINAL = {
    2: "fix the cause first; see the message above",
    3: "a gate has failed and the run in use stays; the message and the report say which",
}
"""Exit statuses that no retry mends. All others are retried: 66 (the input is late), 74 (not delivered), 75 (the date's
lock is held, or the cluster does not answer) and crashes."""


def run(stage: str, day: str) -> None:  # not `ds`: Airflow uses that name
    """Run one command; its lines go to the task's log, its exit status to the XCom `status`."""
    context, hook = get_current_context(), SubprocessHook()
    # also called after a timeout: else the stage goes on and holds the date's lock
    context["task"].on_kill = hook.send_sigterm
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
    catchup=False,  # else Airflow queues every run since then when the DAG is switched on
    max_active_runs=1,  # the item vocabulary grows from run to run, in order
    default_args={"retries": 3, "retry_delay": timedelta(minutes=10), "execution_timeout": timedelta(hours=6)},
    doc_md=__doc__,
    tags=["distilrec"],
) as dag:
    run_stage = task(run)

    @task(trigger_rule="one_failed")
    def report_failure(day: str) -> None:
        """When no retry is left, write the report of the failed run, and give monitoring its exit status."""
        context = get_current_context()
        found = context["ti"].xcom_pull(task_ids=sorted(context["task"].upstream_task_ids), key="status")
        try:
            run("report", day)
        finally:
            run(f"telemetry --status {next(filter(None, found), 1)}", day)  # a stage that was killed has none

    stages = [
        run_stage.override(task_id=stage.name.replace("-", "_"))(stage.name, "{{ ds }}")
        for stage in STAGES
        if not stage.last
    ]
    last = [
        run_stage.override(task_id=stage.name.replace("-", "_"))(stage.name, "{{ ds }}")
        for stage in STAGES
        if stage.last
    ]
    chain(*stages, *last)
    stages >> report_failure("{{ ds }}")
