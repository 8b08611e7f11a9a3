"""Groups of training processes on this machine, connected by gloo as in Ray Train."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
import torch.multiprocessing


@contextmanager
def process_group(*, rank: int, workers: int, folder: str, backend: str = "gloo") -> Iterator[None]:
    """Join a process group as number `rank`. The processes find each other by a file in `folder`."""
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed reads it
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    try:
        yield
    finally:
        dist.destroy_process_group()


def run_workers(work: Callable[..., None], *args: Any, workers: int) -> None:
    """Run `work(rank, *args)` in each of `workers` new processes, on one thread. An error in one is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
            _worker, args=(work, args, workers, folder), nprocs=workers
        )


def _worker(rank: int, work: Callable[..., None], args: tuple[Any, ...], workers: int, folder: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank=rank, workers=workers, folder=folder):
        work(rank, *args)
        dist.barrier()
    # DeepSpeed never closes its own process groups. A gloo thread that frees a tensor while the interpreter shuts down
    # aborts the process (github.com/pytorch/pytorch/pull/179291). So end the process at once, as Ray does.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
