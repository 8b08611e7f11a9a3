"""Give the histories to Ray Data actors, shard by shard. The actors write one file for each shard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pyarrow.parquet as pq

from jobs.runtime.published import parquet_files
from kdlib.data.shards import history_shards
from kdlib.errors import DistilrecError, InputError, UnreachableError

MOST_BATCHES = 64
"""Most batches in a shard. A shard is one task of an actor and one file of the table."""


STALL_SECONDS = 3600.0
"""How long to wait for the next shard. It takes minutes."""


def write_by_shards(
    histories: Path,
    actor: Callable[..., Any],
    arguments: dict[str, Any],
    *,
    actors: int,
    batch_size: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> None:
    """Let the actors work on all shards; Ray must be started.

    Args:
      histories: the table's folder.
      actor: class that takes `HistoryShard` rows and writes their files.
      arguments: of the actor.
      actors: how many work at the same time.
      batch_size: how many users an actor holds at once. A shard has whole batches.
      num_cpus: of an actor.
      num_gpus: of an actor.

    Raises:
      InputError: there is no user.
      UnreachableError: the next shard has not come for `STALL_SECONDS`.
      DistilrecError: what an actor raised.
    """
    import ray.data

    files = parquet_files(histories)
    rows = _shard_rows(sum(pq.read_metadata(file).num_rows for file in files), actors, batch_size)
    shards = history_shards(files, num_rows=rows)
    if not shards:
        raise InputError(f"the histories at {histories} hold no user: there is nobody to learn from or to recommend to")
    written = ray.data.from_items([asdict(s) for s in shards], override_num_blocks=len(shards)).map_batches(
        actor,
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        batch_size=1,
        batch_format="pyarrow",
    )
    with own_errors():
        _wait_for(written)


def _wait_for(written: Any) -> None:
    """Run a Ray Dataset to its end. Ray itself would wait for ever for an actor that lives and never answers."""
    steps: Queue[BaseException | None] = Queue()

    def run() -> None:
        try:
            for _ in written.iter_batches(batch_size=None, batch_format="pyarrow"):
                steps.put(None)
            steps.put(StopIteration())
        except BaseException as error:
            steps.put(error)

    Thread(target=run, daemon=True, name="shards").start()
    while True:
        try:
            step = steps.get(timeout=STALL_SECONDS)
        except Empty:
            raise UnreachableError(
                f"the next part of the work has not come for {STALL_SECONDS / 60:.0f} minutes, and no actor has failed: a worker"
                " may hang. Run the same command again; `ray status` and the logs of the nodes say which one"
            ) from None
        if isinstance(step, StopIteration):
            return
        if step is not None:
            raise step


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise a DistilrecError of a Ray task as it is. Ray would wrap it in an error with the task's whole traceback."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DistilrecError):
            raise error.cause from error
        raise


def _shard_rows(num_users: int, actors: int, batch_size: int) -> int:
    """Rows of a shard: whole batches. Each actor gets about four shards, so that no actor waits long for the others."""
    batches = -(-num_users // (actors * 4 * batch_size))
    return batch_size * min(batches, MOST_BATCHES)
