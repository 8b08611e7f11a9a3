"""Writes the embedded default input: a raw clickstream with a known truth, and its catalogue.

`events/ds=<DS>/day=YYYY-MM-DD/part-*.parquet` holds the days up to and with DS, `catalogue/ds=<DS>/`
the products at their end; with `search_fraction`, `searches/ds=<DS>/day=YYYY-MM-DD/` the search log.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs.runtime.console import command, say
from jobs.runtime.simulation import write_tasks
from jobs.runtime.step import run_step
from kdlib.config.data import DAY, CatalogueConfig, EventsConfig, SearchesConfig, SimulateConfig, TimeConfig
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError
from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.events import PLANTED, Plan, write_task
from kdlib.simulation.searches import write_search_task
from kdlib.store.partitions import Manifest


def simulated_input(config: RunConfig) -> tuple[EventsConfig, CatalogueConfig, SearchesConfig | None]:
    """How the later stages read what this job publishes for `config.day`; None where no searches are simulated."""
    path = str(config.root / "events" / f"ds={config.day}")
    events = EventsConfig(
        # the nights of a fixed period see the same days, and need not read them again
        path=f"{path}/day={DAY}" if _settings(config).first_day else path,
        format="parquet",
        user="user_id",
        item="item_id",
        event_type="event_type",
        event_id="event_id",
        time=TimeConfig(format="iso", column="event_time"),
    )
    products = CatalogueConfig(
        path=str(config.root / "catalogue" / f"ds={config.day}"),
        format="parquet",
        item="item_id",
        title="title",
        available="available",
        category="category",
    )
    if not _settings(config).search_fraction:
        return events, products, None
    searches = SearchesConfig(
        path=str(config.root / "searches" / f"ds={config.day}"),
        format="parquet",
        user="user_id",
        query="query",
        item="item_id",
        event_type="event_type",
        position="position",
        time=TimeConfig(format="iso", column="event_time"),
    )
    return events, products, searches


def plan_of(config: RunConfig) -> Plan:
    """What is simulated; `plan_of(config).world()` is its truth.

    Raises:
      ConfigError: the run config does not simulate, or has no date, or one outside the simulated period.
    """
    settings = _settings(config)
    config.day  # noqa: B018  (raises where there is none)
    assert config.ds is not None
    first = settings.first_day or config.ds - timedelta(days=settings.num_days - 1)
    last = first + timedelta(days=settings.num_days - 1)
    if not first <= config.ds <= last:
        raise ConfigError(
            f"input.simulate: the simulated period is {first} to {last}, found the date {config.ds}; give one inside,"
            " or set first_day and num_days"
        )
    return Plan(**settings.model_dump(exclude={"first_day"}), first_day=first, until=config.ds)


def run(config: RunConfig, *, num_processes: int | None = None) -> dict[str, Manifest]:
    """Simulate and publish `events`, `catalogue` and, if asked for, `searches`, unless they are up to date.

    Args:
      config: a run config with `input.simulate`.
      num_processes: by default one for each core; the files are the same for any number.
    """
    plan, num_processes = plan_of(config), num_processes or len(os.sched_getaffinity(0))

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        planted = write_tasks(plan, write_task, staging["events"], num_processes)
        products = catalogue(plan.world(), seed=plan.seed, until_day=plan.num_days_written - 1)
        pq.write_table(products, staging["catalogue"] / "part-00000.parquet", compression="zstd")
        details = {"planted": {kind: planted[kind] for kind in PLANTED}, "users": planted["users"]}
        return {"events": details, "catalogue": {"unavailable": products["available"].to_pylist().count(False)}}

    settings = [_settings(config).model_dump(mode="json", exclude={"search_fraction"}), str(plan.first_day)]
    manifests = run_step(config, ("events", "catalogue"), settings=settings, inputs={}, build=build)
    details = manifests["events"].details
    kinds = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in details["planted"].items())
    say(
        f"simulate_events: {manifests['events'].rows:,} rows ({kinds}) of {details['users']:,} users "
        f"on {plan.num_days_written} days → {config.root / 'events' / f'ds={config.day}'}; "
        f"{manifests['catalogue'].rows:,} products → {config.root / 'catalogue' / f'ds={config.day}'}"
    )
    return manifests | _searches(config, plan, [*settings, plan.search_fraction], num_processes)


def _searches(config: RunConfig, plan: Plan, settings: list[Any], num_processes: int) -> dict[str, Manifest]:
    """A step of its own: events that are there stay as they are when searches are asked for."""
    if not plan.search_fraction:
        return {}

    def build(staging: dict[str, Path]) -> dict[str, dict[str, Any]]:
        return {"searches": {"rows": dict(write_tasks(plan, write_search_task, staging["searches"], num_processes))}}

    made = run_step(config, ("searches",), settings=settings, inputs={}, build=build)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in made["searches"].details["rows"].items())
    say(f"simulate_events: searches: {kinds} → {config.root / 'searches' / f'ds={config.day}'}")
    return made


def _settings(config: RunConfig) -> SimulateConfig:
    if config.input.simulate is None:
        raise ConfigError(
            f"run config {config.name}: simulate-events needs the section input.simulate, found input.events; "
            "events of your own are read by build-features as they are, so leave this job out"
        )
    return config.input.simulate


def main(argv: list[str] | None = None) -> int:
    """The console command `distilrec simulate-events`."""
    return command(
        "simulate_events",
        run,
        argv,
        description="Write the embedded default input: a raw clickstream with a known truth.",
    )


if __name__ == "__main__":
    sys.exit(main())
