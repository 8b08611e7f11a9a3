"""Groups of training processes on this machine, joined by gloo as Ray Train joins its workers."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
import torch.multiprocessing


@contextmanager
def process_group(*, rank: int, workers: int, folder: str) -> Iterator[None]:
    """This process as number `rank` of a group that meets in `folder`."""
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed asks for it
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    try:
        yield
    finally:
        dist.destroy_process_group()


def run_workers(work: Callable[..., None], *args: Any, workers: int) -> None:
    """`work(rank, *args)` in each of a group of new processes, on one thread; what fails in one is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
            _worker, args=(work, args, workers, folder), nprocs=workers
        )


def _worker(rank: int, work: Callable[..., None], args: tuple[Any, ...], workers: int, folder: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank=rank, workers=workers, folder=folder):
        work(rank, *args)
        dist.barrier()
    # DeepSpeed holds groups of its own for good, and a gloo thread that lets go of a tensor while the interpreter is
    # being taken down aborts the process (github.com/pytorch/pytorch/pull/179291). Ray ends its workers this way too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
