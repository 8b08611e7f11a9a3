"""The whole run: events in, published recommendations out. Stages that are up to date are skipped."""

import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta

from jobs.pipeline import STAGES
from jobs.plan import plan
from jobs.runtime import budget, telemetry, tracking
from jobs.runtime.command import Invocation, execute
from jobs.runtime.console import engine_output_to, log_file, one_line, say, warn
from jobs.runtime.delivery import check
from jobs.runtime.encoding import check_encoder
from jobs.runtime.extras import check_export_extra, check_search_extra
from jobs.runtime.names import encoders_of
from jobs.runtime.own_teachers import check_functions
from jobs.runtime.process import StageProcess
from jobs.runtime.published import versions
from jobs.runtime.ray_cluster import ray_ahead, start_ray
from jobs.runtime.runner import run_stage
from jobs.runtime.stage import Stage
from jobs.runtime.summary import print_summary
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DeliveryError, GateError
from kdlib.release import promotions


def night(invocation: Invocation, *, force: str = "") -> int:
    """Run one date, and give monitoring and the tracker the outcome; returns the exit status.

    Args:
      invocation: run config, date and overrides.
      force: why failed gates are overruled. Empty: they are not.
    """
    begun, reasons = list[RunConfig](), list[str]()

    def run(config: RunConfig) -> None:
        tracking.check(config)
        begun.append(config)
        try:
            run_stages(config, invocation, force=force)
        except BaseException as error:
            reasons.append(one_line(error))
            raise

    status = execute("nightly", invocation, run)
    # a run that did not begin tells monitoring nothing, unless its run config is wrong
    for config in begun or (telemetry.readable(invocation) if status == ConfigError.exit_status else []):
        telemetry.write_or_warn(config, status)
    for config in begun:
        tracking.end(config, status, *reasons, reload=invocation.load)
    return status


def backfill(invocation: Invocation, first: date, last: date, *, force: str = "") -> int:
    """Run each date from the first to the last. A run that fails ends the backfill with its exit status."""
    for number in range((last - first).days + 1):
        day = (first + timedelta(days=number)).isoformat()
        if status := night(invocation.on(day), force=force):
            say(f"distilrec: the backfill of {first} to {last} ended at {day}", level=logging.ERROR)
            return status
    return 0


def run_stages(config: RunConfig, invocation: Invocation, *, force: str = "") -> None:
    """Run all stages that apply, in order. All Spark stages share a process of their own. All Ray stages share a cluster.

    Raises:
      GateError: a gate has failed, or a rollback has withdrawn the run that this one starts from.
      DistilrecError: a stage failed.
    """
    if config.search:
        check_search_extra()
    if config.export:
        check_export_extra()
    check(config)
    check_functions(config)
    for text in encoders_of(config):
        check_encoder(text)
    log, seconds = log_file(config, "nightly"), dict[str, float]()
    options = {"force": force, "reason": force}
    stages = [stage for stage in STAGES if stage.when(config)]
    last_spark = [stage for stage in stages if stage.engine == "spark"][-1:]
    with engine_output_to(log):
        say(f"nightly: {config.name}, {config.day}, output in {config.place()}, engine logs in {log.parent}")
    tracking.begin(config)
    ray_block, spark_process = ExitStack(), StageProcess(invocation)
    try:
        for number, stage in enumerate(stages):
            started = time.monotonic()
            if stage.last:
                continue
            if "build-features" in seconds:  # a rollback meanwhile may have withdrawn what this run starts from
                promotions.check_not_withdrawn(config.root, config.day, versions(config, "histories"))
            if stage.engine == "spark":
                ahead = _ray_ahead(config, ray_block) if stage in last_spark else None
                spark_process.run(stage.name, meanwhile=ahead)
                if stage in last_spark:
                    spark_process.close()
            else:
                with engine_output_to(log):
                    if all(later.engine != "ray" for later in stages[number:]):
                        ray_block.close()
                    _run_here(config, stage, options, ray_block, stages)
            seconds[stage.name] = time.monotonic() - started
            if stage.name == "build-features":
                config = invocation.load()  # now the default recipe knows the size of the data
                budget.begin()
                with engine_output_to(log):
                    _say_estimate(config)
    finally:
        spark_process.close()
        with engine_output_to(log):  # while Ray stops, it prints the last lines of its workers
            ray_block.close()
    with engine_output_to(log):
        print_summary(config, seconds)
        budget.say_spent(config)
        run_last(config, stages)


def _say_estimate(config: RunConfig) -> None:
    """Print how long the rest of the run takes, if it trains models."""
    trains = {step.stage.name for step in plan(config) if step.runs} & {"train-teacher", "distill"}
    if trains:
        budget.say_estimate(config)


def _run_here(
    config: RunConfig, stage: Stage, options: dict[str, str], ray_block: ExitStack, stages: Sequence[Stage]
) -> None:
    """Run a stage in this process. After a failed gate or delivery, write the report before the error goes on."""
    if stage.engine == "ray":
        ray_block.enter_context(start_ray(config))
    chosen = {name: value for name, value in options.items() if name in stage.options}
    try:
        run_stage(config, stage, pipeline=STAGES, options=chosen)
    except (DeliveryError, GateError):
        run_last(config, stages)
        raise


def run_last(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Run the stages that also follow a failure, such as the report. If one of them fails, that is only a warning."""
    for stage in (stage for stage in stages if stage.last):
        try:
            run_stage(config, stage, pipeline=STAGES)
        except Exception as error:
            traceback.print_exc()
            what = f"{type(error).__name__}: {one_line(error)}"
            log = log_file(config, "nightly")
            warn(f"{stage.name}    warning: not written ({what}); full text: {log}")


@contextmanager
def _ray_ahead(config: RunConfig, block: ExitStack) -> Iterator[None]:
    with engine_output_to(log_file(config, "nightly")), ray_ahead(config, block):
        yield
