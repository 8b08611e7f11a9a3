"""Start or join a Ray cluster, quietly and safely."""

import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.runtime.ray_jobs import CONNECT_SECONDS
from jobs.runtime.ray_nodes import check_nodes, installed
from kdlib.config.run import RunConfig
from kdlib.errors import ConfigError, DistilrecError, UnreachableError
from kdlib.store.arrow_files import arrow_files, arrow_path
from kdlib.store.mirror import mirror_of, send, version_of

if TYPE_CHECKING:
    import ray.data

_QUIET = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_ARENA_MAX": "1"}
"""By default glibc gives big buffers back to the kernel, and the kernel zeroes them again at every training step. That
takes a fifth of a step's time. There is one arena, because each arena keeps all memory that it ever held."""
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_LOCAL = {
    **KEEPS_MEMORY,
    # as on a Mac: all servers listen on the loopback interface, which `_node_ip_address` alone does not ensure
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # otherwise training workers listen on the address of the host's name
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # It would cost a process for each training.
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # Ray Train's controller blocks, and this is harmless.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # It is also the delay at the end of a training.
}
_ON_A_CLUSTER = {
    # seconds that training waits for nodes that an autoscaler or a queue brings; Ray's default is a minute
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",
}
_FOOTER_READERS = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"
FILES_A_READER, MOST_READERS = 10, 32
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the driver of a submitted job."""


def cluster_address(config: RunConfig) -> str | None:
    """The cluster to join: `ray.address`, or the cluster of which this process is a job. None: start a local Ray."""
    return config.ray.address or ("auto" if _JOB in os.environ else None)


@contextmanager
def start_ray(config: RunConfig) -> Iterator[None]:
    """A Ray cluster for the length of the block: the cluster at `cluster_address`, or a local one on loopback.

    Inside another `start_ray` block it does nothing, so that stages of one process share a cluster.

    Raises:
      UnreachableError: the cluster does not answer.
      DistilrecError: the cluster cannot be joined, for example because it runs another version of Ray, or a node of it
        runs other code than this process.
    """
    address = cluster_address(config)
    if address is None:
        set_token()
    for name, value in (_QUIET | (_LOCAL if address is None else _ON_A_CLUSTER)).items():
        os.environ.setdefault(name, value)  # Ray reads these when it is imported
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    with own_signal_handlers():
        session = _init(config, address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    context.raise_original_map_exception = True  # our own errors reach the person as they are
    context.execution_options.preserve_order = True  # the same input gives the same batches and the same files
    try:
        if address is not None:
            check_nodes(installed())
        yield
    finally:
        ray.shutdown()
    if session:  # after an error, Ray's own logs may say more
        shutil.rmtree(session, ignore_errors=True)


@contextmanager
def ray_ahead(config: RunConfig, block: ExitStack) -> Iterator[None]:
    """Start a local Ray while a Spark process leaves a core idle, and import what training needs.

    Ray lasts as long as `block`. A cluster at an address is joined later, when a stage needs it.
    """
    if cluster_address(config) is None:
        block.enter_context(start_ray(config))
        for module in ("jobs.runtime.ray_local", "jobs.runtime.train_worker", "kdlib.training.student_task"):
            importlib.import_module(module)
    yield


def read_parquet(config: RunConfig, files: Sequence[str]) -> "ray.data.Dataset":
    """A Ray Dataset of the rows of these files of the output folder.

    Ray reads the files' footers with 32 processes, even for few files. Starting them takes seconds on a small machine.
    Here one process reads ten files, as many as Ray gives a process at a time.

    The nodes of a cluster read from the store, if the output folder is in one, because they do not have this machine's disk.
    """
    import ray.data

    places, how = list(files), dict[str, Any]()
    if cluster_address(config) and (mirror := mirror_of(config.root)):
        for file in [Path(one) for one in files if version_of(Path(one)) is None]:
            send(file)
        places, how = [arrow_path(mirror, Path(file)) for file in files], {"filesystem": arrow_files(mirror)}

    asked = os.environ.get(_FOOTER_READERS)
    os.environ[_FOOTER_READERS] = asked or str(min(-(-len(files) // FILES_A_READER), MOST_READERS))
    try:
        return ray.data.read_parquet(places, **how)
    finally:
        if asked is None:
            del os.environ[_FOOTER_READERS]


def check_room(
    config: RunConfig, setting: str, number: int, *, cpus: float = 1, gpus: float = 0, reading: int = 1
) -> None:
    """Check that a local Ray has room for the workers and for reading their data. A cluster at an address may grow.

    Args:
      config: the run config; Ray must run.
      setting: the setting that gives the number of workers, such as `training.workers`.
      number: of the workers.
      cpus, gpus: of each worker.
      reading: CPUs for reading their data.

    Raises:
      ConfigError: there is no room. Ray would wait for ever.
      UnreachableError: the local Ray has died.
    """
    import ray

    if cluster_address(config) is not None:
        return
    resources = ray.cluster_resources()
    if not resources.get("CPU"):
        raise UnreachableError(
            "the local Ray has no CPU any more, so its raylet has died. The machine may lack memory: the kernel's log says"
            " whether it killed the process. Start the same command again"
        )
    for name, each, more in (("CPU", cpus, reading), ("GPU", gpus, 0)):
        there = resources.get(name, 0.0)
        if each and number * each + more > there + 1e-6:
            raise ConfigError(
                f"{setting} is {number}, {each:g} {name} each{', and reading needs one more' if more else ''},"
                f" but the local Ray has {there:g}."
                f" Lower {setting} or {'raise ray.num_cpus' if name == 'CPU' else 'training.gpus_per_worker'}"
            )


def check_workers_room(config: RunConfig, number: int) -> None:
    """`check_room` for a number of processes that are as big as a training worker."""
    how = config.training
    check_room(config, "training.workers", number, cpus=how.cpus_per_worker, gpus=how.gpus_per_worker)


@contextmanager
def own_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers after the block. Ray replaces them, and would end the process without a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _init(config: RunConfig, address: str | None) -> str | None:
    """Start or join Ray. Returns the folder of a local Ray's logs and sockets."""
    import ray

    if address is None:
        started: Any = ray.init(
            address="local",  # RAY_ADDRESS does not count: only `ray.address` asks for a cluster
            num_cpus=config.ray.num_cpus or max(4, os.cpu_count() or 1),
            object_store_memory=config.ray.object_store_megabytes * 2**20,
            include_dashboard=False,
            log_to_driver=True,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
        )
        return started.address_info["session_dir"]
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        kind = UnreachableError if isinstance(error, ConnectionError) else DistilrecError
        raise kind(f"cannot join the Ray cluster at {address}: {error}") from None
    return None


def _check_reachable(address: str) -> None:
    """Raise UnreachableError where nothing listens at `host:port`. Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise UnreachableError(
                f"cannot join the Ray cluster at {address}: {error}. Check that the cluster is up, and that ray.address"
                " is its head's address with the port of its control store (6379)"
            ) from None


def set_token() -> None:
    """Set a token that only this process knows, so that nobody else on the machine can submit work.

    Ray then writes no token to the home folder.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
