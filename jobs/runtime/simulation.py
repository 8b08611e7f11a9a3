"""The simulator's tasks, spread over processes."""

import multiprocessing
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from jobs.runtime.console import progress
from kdlib.simulation.events import Plan


def write_tasks(plan: Plan, write: Callable[..., Counter[str]], folder: Path, num_processes: int) -> Counter[str]:
    """Write the tasks of a plan with processes. The files are the same for any number of processes.

    Args:
      plan: what is simulated.
      write: (plan, number of the task, folder) → counts of rows, and maybe of `users`.
      folder: where the files go.
      num_processes: most processes at a time.

    Returns:
      The counts, added up.
    """
    tasks = range(len(plan.tasks()))
    planted: Counter[str] = Counter()
    with progress(total=plan.num_events, unit="row", description="simulate_events") as bar:
        if min(num_processes, len(tasks)) == 1:
            for number in tasks:
                found = write(plan, number, folder)
                planted.update(found)
                bar.update(found.total() - found["users"])
            return planted
        # spawn: a fork copies the locks of Arrow's threads and may hang
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(num_processes, len(tasks)), mp_context=context)
        try:
            for done in as_completed([pool.submit(write, plan, number, folder) for number in tasks]):
                found = done.result()
                planted.update(found)
                bar.update(found.total() - found["users"])
        finally:
            pool.shutdown(cancel_futures=True)
    return planted
