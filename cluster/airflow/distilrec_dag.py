"""The night as an Airflow DAG (Airflow 3): one task a stage, for the day that the run's data interval begins on.

Set in the environment of scheduler and workers:
  DISTILREC_CONFIG    the run config, a path on the worker
  DISTILREC_COMMAND   `distilrec` (the default), or `distilrec submit --address http://HEAD:8265` for a Ray cluster
  DISTILREC_STAGES    the stages in order, with commas, where they are not those of a night that trains its teachers first

A stage that is up to date is skipped in a second, so clearing a task, or the whole run, repeats nothing. Backfill:
  airflow backfill create --dag-id distilrec --from-date 2026-11-01 --to-date 2026-11-22
"""

import os
import re
import shlex
from datetime import datetime, timedelta

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, Context, task
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
"""Exit statuses that no retry mends; all others are retried: 74 (not delivered), 75 (another run holds the date) and crashes."""


def _run(words: list[str], day: str) -> int:
    """A job's exit status; its lines go to the task's log."""
    command = [*COMMAND, *words, "--config", CONFIG, "--ds", day]
    return SubprocessHook().run_command(command, env=dict(os.environ)).exit_code


def tell_failure(context: Context) -> None:
    """No retry is left: a blocked or broken night has a report too, and monitoring gets to know its exit status."""
    found = re.search(r"exit status (\d+)", str(context.get("exception")))
    _run(["report", "--status", found[1] if found else "1"], context["ds"])


with DAG(
    dag_id="distilrec",
    schedule=CronDataIntervalTimetable("30 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 11, 1),
    catchup=True,
    max_active_runs=1,  # the item vocabulary grows from night to night, in order
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(hours=6),
        "on_failure_callback": tell_failure,
    },
    doc_md=__doc__,
    tags=["distilrec"],
) as dag:

    @task
    def run_stage(stage: str, day: str) -> None:  # `ds` is a name of Airflow's own
        """Run one stage; its lines go to the task's log."""
        status = _run(stage.split(), day)
        if status in FINAL:
            raise AirflowFailException(f"{stage}: exit status {status}: {FINAL[status]}")
        if status:
            raise RuntimeError(f"{stage}: exit status {status}")

    previous = None
    for name in STAGES.split(","):
        this = run_stage.override(task_id="_".join(re.findall(r"\w+", name)))(name.strip(), "{{ ds }}")
        if previous is not None:
            previous >> this
        previous = this
    # only if all is well; else `tell_failure` has reported
    previous >> run_stage.override(task_id="report", on_failure_callback=None)("report --status 0", "{{ ds }}")
