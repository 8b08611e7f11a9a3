"""The whole night: events in, published recommendations out. Steps whose inputs have not changed are skipped."""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from jobs import (
    cache_teacher,
    check_gates,
    deliver,
    distill,
    evaluate,
    promote,
    recommend,
    report,
    simulate_events,
    telemetry,
    train_teacher,
)
from jobs.runtime.backfill import add_days, nights
from jobs.runtime.console import command, engine_output_to, loaded, log_file, say
from jobs.runtime.extras import check_search_extra
from jobs.runtime.process import run_in_own_process
from jobs.runtime.ray_cluster import ray_ahead, start_ray
from jobs.runtime.summary import print_summary
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DeliveryError, GateError


def run(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Run every stage in order. Spark runs in a process of its own, the other stages share one Ray cluster."""
    if config.search:
        check_search_extra()
    deliver.check(config)
    seconds: dict[str, float] = {}

    def timed(name: str, stage: Callable[[], object]) -> None:
        started = time.monotonic()
        stage()
        seconds[name] = time.monotonic() - started

    with engine_output_to(log_file(config, "nightly")):
        say(
            f"nightly: {config.name}, {config.day}, output in {config.root}, engine logs in {log_file(config, 'nightly').parent}"
        )
        if config.input.simulate is not None:
            timed("simulate_events", lambda: simulate_events.run(config))

    on_spark = ["build_features"] if config.input.has_events else []
    if config.search:
        on_spark += ["build_products", "build_queries"] if config.input.has_searches else ["build_products"]
    with ExitStack() as ray_block:
        for name in on_spark:
            spark = partial(run_in_own_process, name, arguments.config, ds=arguments.ds, overrides=arguments.set)
            timed(name, partial(spark, meanwhile=_ray_ahead(config, ray_block)) if name == on_spark[-1] else spark)
        with engine_output_to(log_file(config, "nightly")):
            try:
                _train_and_publish(config, arguments.force, timed, ray_block)
            except (DeliveryError, GateError):
                report.run_or_warn(config)
                raise
            print_summary(config, seconds)
            if config.input.has_events:
                report.run_or_warn(config)


@contextmanager
def _ray_ahead(config: RunConfig, block: ExitStack) -> Iterator[None]:
    with engine_output_to(log_file(config, "nightly")), ray_ahead(config, block):
        yield


def _train_and_publish(
    config: RunConfig, force: str, timed: Callable[[str, Callable[[], object]], None], ray_block: ExitStack
) -> None:
    """From the features on; one Ray cluster for all stages, which `ray_block` may hold already."""
    if config.input.has_events:
        check_gates.run(config, parts=("input",), force=force)
    with ray_block, start_ray(config):
        if config.input.has_events:
            if config.distillation.mode == "offline":
                timed("train_teacher", lambda: train_teacher.run(config))
                timed("cache_teacher", lambda: cache_teacher.run(config))
            timed("distill", lambda: distill.run(config))
            timed("evaluate", lambda: evaluate.run(config))
            check_gates.run(config, force=force)
            timed("recommend", lambda: recommend.run(config))
        if config.search:
            timed("train_search", lambda: importlib.import_module("jobs.train_search").run(config))
            timed("rank_search", lambda: importlib.import_module("jobs.rank_search").run(config))
    promote.run(config, reason=force)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    check_gates.add_force(parser)
    add_days(parser)


def main(argv: list[str] | None = None) -> int:
    """One night, or with `--from` and `--to` one after the other; the first that fails ends them with its exit status."""
    return nights(argv, _night)


def _night(argv: list[str]) -> int:
    given, begun = list[argparse.Namespace](), list[RunConfig]()

    def load(arguments: argparse.Namespace) -> RunConfig:
        given.append(arguments)
        return loaded(arguments)

    def run_and_note(config: RunConfig, arguments: argparse.Namespace) -> None:
        begun.append(config)
        run(config, arguments)

    status = command(
        "nightly",
        lambda config: None,
        argv,
        description=__doc__ or "",
        add_arguments=_add_arguments,
        with_arguments=run_and_note,
        load=load,
    )
    # a run that was turned away tells nothing
    for config in begun or (telemetry.readable(given[0]) if status == ConfigError.exit_status else []):
        telemetry.write_or_warn(config, status)
    return status


if __name__ == "__main__":
    sys.exit(main())
