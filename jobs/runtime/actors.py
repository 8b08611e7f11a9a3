"""Work on the nodes of the Ray cluster: Ray Data actors, which may write a file for each shard of the histories, and tasks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.node_files import NodeFiles, node_files
from jobs.runtime.published import parquet_files
from jobs.runtime.ray_cluster import check_room
from kdlib.config.run import RunConfig
from kdlib.data.shards import HistoryShard, history_shards
from kdlib.errors import DistilrecError, InputError, UnreachableError

MOST_BATCHES = 64
"""Most batches in a shard. A shard is one task of an actor and one file of the table."""


STALL_SECONDS = 3600.0
"""How long to wait for the next shard. It takes minutes."""


def map_by_actors(
    config: RunConfig,
    rows: Any,
    actor: Callable[..., Any],
    arguments: dict[str, Any],
    *,
    actors: int,
    batch_size: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
    reads: Path | None = None,
    gives: Path | None = None,
) -> Any:
    """A Ray Dataset of what actors make of a Ray Dataset's Arrow tables.

    Args:
      config: the run config; Ray must run.
      rows: the Ray Dataset.
      actor: class that makes a table of a table.
      arguments: of the actor. The files and folders of the output folder that they name are on its node then.
      actors: how many work at the same time.
      batch_size: rows of a table.
      num_cpus, num_gpus: of an actor.
      reads: folder of the histories, if the rows are of `HistoryShard`.
      gives: folder where the actor writes a file for each of these rows.
    """
    import ray.data

    files = node_files(config)
    files.offer(arguments)
    return rows.map_batches(
        type(actor.__name__, (_OnNode,), {"actor": actor}),  # Ray's logs and processes have the actor's name
        fn_constructor_args=(files, arguments, reads, gives),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        batch_size=batch_size,
        batch_format="pyarrow",
    )


class _OnNode:
    """An actor whose files come to its node, and go from there to the store."""

    actor: Callable[..., Any]

    def __init__(self, files: NodeFiles, arguments: dict[str, Any], reads: Path | None, gives: Path | None) -> None:
        files.bring((arguments, reads, gives))
        self._files, self._gives, self._work = files, gives, type(self).actor(**arguments)

    def __call__(self, rows: pa.Table) -> pa.Table:
        made = self._work(rows)
        if self._gives:
            for row in rows.to_pylist():
                self._files.give(self._gives / HistoryShard(**row).file_name)
        return made


def in_a_task(
    config: RunConfig,
    function: Callable[..., Any],
    *arguments: Any,
    num_gpus: float = 0,
    gives: Path | None = None,
    **options: Any,
) -> Any:
    """The result of a function that runs in a process of the cluster, with the CPUs of a training worker.

    Args:
      config: the run config; Ray must run.
      function: what to run.
      arguments, options: of the function. The files and folders of the output folder that they name are on its node then.
      num_gpus: of the process.
      gives: folder that the function fills; its files are on this machine afterwards.

    Raises:
      ConfigError: a local Ray has no room for the process.
      DistilrecError: what the function raised.
    """
    import ray

    num_cpus, files = config.training.cpus_per_worker, node_files(config)
    check_room(config, "training.workers", 1, cpus=num_cpus, gpus=num_gpus)
    files.offer((arguments, options))
    task: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(_on_node)
    with own_errors():
        found = ray.get(task.options(name=function.__name__).remote(files, gives, function, arguments, options))
    if gives:
        files.take(gives)
    return found


def _on_node(
    files: NodeFiles, gives: Path | None, function: Callable[..., Any], arguments: Any, options: dict[str, Any]
) -> Any:
    """What a task runs: the function, whose files come to its node, and go from there to the store."""
    files.bring((arguments, options))
    found = function(*arguments, **options)
    if gives:
        files.give(gives)
    return found


def write_by_shards(
    config: RunConfig,
    histories: Path,
    actor: Callable[..., Any],
    folder: Path,
    arguments: dict[str, Any],
    *,
    actors: int,
    batch_size: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> None:
    """Let the actors work on all shards. Their files are on this machine afterwards.

    Args:
      config: the run config; Ray must run.
      histories: the table's folder.
      actor: class that takes `HistoryShard` rows and writes their files to `folder`.
      folder: an argument of the actor.
      arguments: its other arguments.
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
    written = map_by_actors(
        config,
        ray.data.from_items([asdict(s) for s in shards], override_num_blocks=len(shards)),
        actor,
        {"folder": str(folder), **arguments},
        actors=actors,
        batch_size=1,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        reads=histories,
        gives=folder,
    )
    with own_errors():
        _wait_for(written)
    node_files(config).take(folder)


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
