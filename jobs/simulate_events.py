"""Write the simulated input: a raw clickstream with a known truth, its catalogue and its search log.

`events/ds=<DS>/day=YYYY-MM-DD/part-*.parquet` has the days up to DS, DS included. `catalogue/ds=<DS>/` has the products
at the end of DS. With `search_fraction`, `searches/ds=<DS>/day=YYYY-MM-DD/` has the search log.
"""

import os
from collections.abc import Mapping

import pyarrow.parquet as pq

from jobs.runtime.console import say
from jobs.runtime.simulation import write_tasks
from jobs.runtime.stage import Details, Job
from kdlib.config.run import RunConfig
from kdlib.simulation.catalogue import catalogue
from kdlib.simulation.events import PLANTED, write_task
from kdlib.simulation.input import plan_of
from kdlib.simulation.searches import write_search_task
from kdlib.store.partitions import Manifest


def build(job: Job) -> Details:
    """Simulate the events with the catalogue, or the search log. The files are the same for any number of processes."""
    plan, num_processes = plan_of(job.config), len(os.sched_getaffinity(0))
    if "searches" in job.outputs:
        return {"searches": {"rows": dict(write_tasks(plan, write_search_task, job.output, num_processes))}}
    planted = write_tasks(plan, write_task, job.outputs["events"], num_processes)
    products = catalogue(plan.world(), seed=plan.seed, until_day=plan.num_days_written - 1)
    pq.write_table(products, job.outputs["catalogue"] / "part-00000.parquet", compression="zstd")
    return {
        "events": {"planted": {kind: planted[kind] for kind in PLANTED}, "users": planted["users"]},
        "catalogue": {"unavailable": products["available"].to_pylist().count(False)},
    }


def tell(config: RunConfig, manifests: Mapping[str, Manifest]) -> None:
    """Say what was simulated, and where it lies."""
    events, root, partition = manifests["events"], config.root, f"ds={config.day}"
    kinds = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in events.details["planted"].items())
    say(
        f"simulate_events: {events.rows:,} rows ({kinds}) of {events.details['users']:,} users "
        f"on {plan_of(config).num_days_written} days → {root / 'events' / partition}; "
        f"{manifests['catalogue'].rows:,} products → {root / 'catalogue' / partition}"
    )
    if searches := manifests.get("searches"):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in searches.details["rows"].items())
        say(f"simulate_events: searches: {kinds} → {root / 'searches' / partition}")
